"""ZeroMQ sockets that speak protocol.py, and nothing else of ZeroMQ. The only importer of zmq.

A message is one frame. A message that does not decode along the socket's edge, comes in several frames, or is empty
is counted in `rejected` and dropped; ZeroMQ itself disconnects a peer that announces a frame above the limit. Sockets
are unix sockets in a directory that only its owner may enter. Their paths are reached through an open descriptor of
that directory (`/proc/self/fd/N/NAME`): `sun_path` holds 108 bytes, and run directories may have longer paths.

**`fd` is edge-triggered.** It becomes readable when something *may* have changed, and any call on the socket,
a `send` too, can consume the edge. So: after `fd` polled readable, and after every `send`, call
`receive_nowait` until it returns None before sleeping again. (Rejected: zmq.Poller in the loops. It hides
this, but our loops also poll pidfds, FIFOs and pipes, and it asks ZeroMQ for its events at each turn.)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from noderuntime.errors import ProtocolError
from noderuntime.ipc import forks
from noderuntime.ipc.protocol import FRAME_BYTES_MAX, VERSION, Edge, Hello, Message, decode, encode

QUEUE_FRAMES_MAX = 10_000  # per peer and direction; a sender above it waits (Dealer) or drops (Router)
SEND_TIMEOUT_S = 1.0
LINGER_S = 1.0
RECONNECT_FIRST_MS = 5
RECONNECT_MAX_MS = 40


_made_before: list[zmq.Context[zmq.Socket[bytes]]] = []


def warm_up() -> None:
    """Do in advance what would cost the first channel of this process some milliseconds.

    Do not call it before a fork: a context has threads.
    """
    if not _made_before:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        context.socket(zmq.DEALER).close(0)
        decode(encode(Hello(VERSION, "", "", 0, 0)), Edge.CHILD_TO_RUNTIME)
        _made_before.append(context)


class _Channel:
    """What both ends share: one socket, its context, and the descriptor of its directory.

    `rejected` counts received frames that are not messages of this socket's edges.
    """

    def __init__(self, path: Path, kind: int, edges: tuple[Edge, ...]) -> None:
        self.path = path
        self.rejected = 0
        self._edges = edges
        self._directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._closed = False
        try:
            self._context = _made_before.pop() if _made_before else zmq.Context(io_threads=1)
            try:
                self._socket = self._context.socket(kind)
            except zmq.ZMQError:
                self._context.term()
                raise
        except zmq.ZMQError as error:
            os.close(self._directory)
            raise OSError(error.errno, error.strerror) from None
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_FRAMES_MAX)
        self._socket.setsockopt(zmq.RCVHWM, QUEUE_FRAMES_MAX)
        self._socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        self._socket.setsockopt(zmq.LINGER, int(LINGER_S * 1000))
        forks.watch(self)

    def forked(self) -> None:
        """See forks.py. The context's threads do not exist here, and a send would disturb the parent's socket."""
        self._closed = True
        forks.keep(self._socket)
        forks.keep(self._context)
        self._socket = self._context = forks.GONE

    def _attach(self, how: Callable[[str], object]) -> None:
        try:
            how(f"ipc:///proc/self/fd/{self._directory}/{self.path.name}")
        except zmq.ZMQError as error:
            self.close(0)
            raise OSError(error.errno, error.strerror) from None

    @property
    def fd(self) -> int:
        """The descriptor to poll for reading. Edge-triggered: see the head of this module."""
        return int(self._socket.getsockopt(zmq.FD))

    def _parts_nowait(self) -> list[bytes] | None:
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def close(self, linger_s: float = LINGER_S) -> None:
        """Send what is still queued, for at most `linger_s` seconds, and close. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._socket.close(linger=int(linger_s * 1000))
        self._context.term()
        os.close(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Dealer(_Channel):
    """The end of a child, a command, or a client of the store. Connects as soon as another process has bound `path`.

    `edge`: what it receives. It reconnects by itself when the other end comes back; frames that were queued then may
    be lost, so requests are numbered, and their sender repeats them. Raises OSError when the directory of `path` does
    not exist, or when file descriptors run out.
    """

    def __init__(self, path: Path, edge: Edge) -> None:
        super().__init__(path, zmq.DEALER, (edge,))
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_FIRST_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self._attach(self._socket.connect)

    def send(self, message: Message, timeout_s: float = SEND_TIMEOUT_S) -> bool:
        """Queue `message`. False when the other end has not read its messages for `timeout_s` seconds.

        Raises ProtocolError when the message is larger than a frame may be.
        """
        frame = encode(message)
        if timeout_s > 0 and not self._socket.poll(int(timeout_s * 1000), zmq.POLLOUT):
            return False
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive_nowait(self) -> Message | None:
        """The next message, or None when there is none now."""
        while (parts := self._parts_nowait()) is not None:
            if len(parts) == 1:
                with contextlib.suppress(ProtocolError):
                    return decode(parts[0], *self._edges)
            self.rejected += 1
        return None

    def receive(self, timeout_s: float | None) -> Message | None:
        """The next message, waited for at most `timeout_s` seconds (None: as long as it takes); None when none came."""
        message = self.receive_nowait()
        pause = None if timeout_s is None else max(1, int(timeout_s * 1000))
        if message is None and timeout_s != 0 and self._socket.poll(pause, zmq.POLLIN):
            message = self.receive_nowait()
        return message


class Router(_Channel):
    """The end that is bound: the runtime's, or the store's. It replaces a socket file that a dead process left.

    `edges`: what it receives. `undelivered` counts messages to peers that are gone or do not read. Raises OSError as a
    Dealer does.
    """

    def __init__(self, path: Path, *edges: Edge) -> None:
        super().__init__(path, zmq.ROUTER, edges)
        self.undelivered = 0
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._attach(self._socket.bind)

    def receive_nowait(self) -> tuple[bytes, Message] | None:
        """The next message and the identity of its sender, or None when there is none now."""
        while (parts := self._parts_nowait()) is not None:
            if len(parts) == 2:
                with contextlib.suppress(ProtocolError):
                    return parts[0], decode(parts[1], *self._edges)
            self.rejected += 1
        return None

    def receive(self, timeout_s: float) -> tuple[bytes, Message] | None:
        """As `receive_nowait`, waiting at most `timeout_s` seconds."""
        found = self.receive_nowait()
        if found is None and timeout_s > 0 and self._socket.poll(max(1, int(timeout_s * 1000)), zmq.POLLIN):
            found = self.receive_nowait()
        return found

    def send(self, identity: bytes, message: Message) -> bool:
        """Queue `message` for one peer; never waits. False, and counted, when it is gone or does not read.

        Raises ProtocolError when the message is larger than a frame may be.
        """
        frame = encode(message)
        try:
            self._socket.send_multipart([identity, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.undelivered += 1
            return False
        return True
