"""`Tap`: what the nodes of a run send each other, for who looks from outside.

    with noderuntime.Tap("camera", ["camera/image", "detector/*"]) as tap:
        for topic, event in tap:
            print(topic, event["uid"], event["value"], tap.missed)

A tap never opens the space, where a notebook that is stopped in a read transaction would keep the run from using its
pages again, and where nobody may kill it. It has a connection to the tap server of the run (server.py), which the
runtime starts when it is first asked for (`taps`), and which reads the space. A tap is a lease on that connection:
when its process ends, in whatever way, nothing of it is left in the run.

It holds nobody up. What it does not read in time is dropped, oldest first: in the mailbox of the output (8 MB), and in
the server (8 MB for each tap). It knows how much that was: each message has the number that its output gave it, without
gaps, and at the beginning the server says how many there were before. `missed` is the sum of the gaps, so it is exact
whoever dropped, and also across the death of the tap server, after which the tap connects to the next one. It counts
what is known to have been sent: messages behind the last one that came are seen with the next one, or at the end.

Rejected: a ZeroMQ socket. It has a queue of messages where we need one of bytes, and does not say when the other end is
gone. Counting in the server what it drops: that count dies with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from noderuntime.api import values
from noderuntime.api.events import REPLICA_SHIFT, Event, input_event
from noderuntime.dataflow.identifiers import nearest
from noderuntime.errors import NodeRuntimeError, NotRunning, ProtocolError, UnknownTopic
from noderuntime.ipc import runs
from noderuntime.ipc.asking import ask
from noderuntime.ipc.boundary import describe
from noderuntime.ipc.control_records import RUNTIME_ANSWER, TapsState
from noderuntime.ipc.runs import Run
from noderuntime.ipc.typed import decode
from noderuntime.watching import frames
from noderuntime.watching.streams import connect

ATTACH_S: Final = 15.0  # within which there has to be a tap server
PAUSE_S: Final = 0.02
ANSWER_S: Final = 2.0
READ_BYTES: Final = 256 * 1024

Item = tuple[str, Event]
"""A topic, "node/output", and a message of it, as its receivers get it."""


@dataclass(frozen=True, slots=True)
class Omitted:
    """Stands for a value that a tap does not get: it has more than 8,000,000 bytes, or is not what it says it is.

    `size_bytes`: of the value as it was sent; `why`: a sentence.
    """

    size_bytes: int
    why: str


class Tap:
    """What is sent on some topics of the running run `run`, from the moment when the tap is opened.

    `topics`: names of outputs, NODE/OUTPUT, or patterns of them (`*`, `?`, `[...]`; `*` alone is all of them), one or
    several. Outputs that come later, by an `apply`, and fit a pattern are seen too.

    A context manager, an iterator and an asynchronous one, of (topic, event). An event is as a receiver of that output
    gets it: INPUT with `value`, `metadata`, `source`, `timestamp`, `uid`; its `id` is the topic. A value of more than
    8 MB is an `Omitted`, which tells its size. The iteration ends when the run ends, or the tap is closed.

    Raises NotRunning when no such run is running, UnknownTopic for a topic that it does not have, and NodeRuntimeError
    when the run cannot be looked at. It belongs to one thread, or to the tasks of one event loop.
    """

    def __init__(self, run: str, topics: str | Iterable[str]) -> None:
        self.run = run
        self.ended = False  # the run has ended, or this tap was closed
        self._wanted = [topics] if isinstance(topics, str) else list(topics)
        for topic in self._wanted:
            if not isinstance(topic, str):
                raise TypeError(f"a topic is a text, NODE/OUTPUT, not {type(topic).__name__}")
        self._found: Run | None = None
        self._connection: socket.socket | None = None
        self._reader = frames.Reader()
        self._items: deque[Item] = deque()
        # the number of the last message of each topic that is known to have been sent, by replica of its node
        self._last: dict[str, dict[int, int]] = {}
        self._missed = 0
        self._is_attached = False  # the server has said which topics there are

    # ---- what users see

    @property
    def missed(self) -> int:
        """How many messages were sent on the topics since each of them was tapped, and did not come."""
        return self._missed

    @property
    def topics(self) -> list[str]:
        """The topics that are tapped, or were. Empty before the tap is open."""
        return list(self._last)

    def open(self) -> Self:
        """Connect; `with` and the first message do so, too. Messages that are sent later come. Raises as the class."""
        while not (self._is_attached or self.ended):
            self._turn(None)
        return self

    def receive(self, timeout_s: float | None = None) -> Item | None:
        """The next message. None when there was none within `timeout_s` seconds, or when the run has `ended`."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._items:
            left_s = None if until_s is None else until_s - time.monotonic()
            if self.ended or (left_s is not None and left_s < 0):
                return None
            self._turn(left_s)
        return self._items.popleft()

    def close(self) -> None:
        """Close the connection. What has come and was not read is gone; `missed` stays."""
        self.ended = True
        self._items.clear()
        self._hang_up()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item = self.receive()
        if item is None:
            raise StopIteration
        return item

    async def __aenter__(self) -> Self:
        while not (self._is_attached or self.ended):
            await self._turn_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self.ended:
                raise StopAsyncIteration
            await self._turn_async()
        return self._items.popleft()

    def __del__(self) -> None:
        self._hang_up()

    # ---- the connection

    def _turn(self, timeout_s: float | None) -> None:
        """Connect if need be, wait until something comes, and take it."""
        connection = self._connection or self._connect()
        if connection is None:
            return
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        if poller.poll(None if timeout_s is None else timeout_s * 1000):
            self._read(connection)

    async def _turn_async(self) -> None:
        """The same, for tasks: connecting may take as long as a process does to start."""
        connection = self._connection or await asyncio.to_thread(self._connect)
        if connection is None:
            return
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(connection, _done, readable)
        try:
            await readable
        finally:
            loop.remove_reader(connection)
        self._read(connection)

    def _connect(self) -> socket.socket | None:
        """A connection to the tap server, which is started if need be; None: the run has ended."""
        until_s = time.monotonic() + ATTACH_S
        while True:
            run = self._running()
            if run is None:
                self.ended = True
                return None
            head, _ = frames.hello(self._wanted, self._is_attached)
            if len(head) > frames.HELLO_BYTES_MAX:
                raise UnknownTopic(self.run, f"{len(self._wanted)} topics are too many to name: use patterns")
            with contextlib.suppress(OSError):
                made = connect(run.run_dir.taps_socket)
                try:
                    made.send(head)
                except OSError:  # the tap server has just died
                    made.close()
                    raise
                self._reader = frames.Reader()
                self._connection = made
                return made
            if time.monotonic() >= until_s:
                raise NodeRuntimeError(f"the run {self.run!r} has not opened itself to taps within {ATTACH_S:g} s")
            if self._ask(run):  # its last snapshot may take long
                until_s = time.monotonic() + ATTACH_S
            time.sleep(PAUSE_S)

    def _running(self) -> Run | None:
        """The run, if it is still the one that this tap began with. Raises NotRunning at the beginning."""
        found = runs.find_run(self.run, os.environ)
        if self._found is None:
            if found is None or found.state != "running":
                raise _not_running(self.run, found)
            self._found = found
        if found is None or found.state != "running" or found.file != self._found.file:
            return None
        return found

    def _ask(self, run: Run) -> bool:
        """Have the runtime start the tap server. Returns whether it does not because the run is about to end."""
        try:
            answer = ask(run, "taps", {}, ANSWER_S)
        except NotRunning:  # it has just ended
            return True
        if answer is None:
            return False
        if answer.error:
            raise NodeRuntimeError(f"the run {self.run!r} cannot be looked at: {answer.error}")
        state = decode(TapsState, answer.result, RUNTIME_ANSWER)
        if state["why"]:
            raise NodeRuntimeError(f"the run {self.run!r} cannot be looked at: {state['why']}")
        return state["ending"]

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the tap server has ended; what is left of the run is seen when connecting again
            self._hang_up()
            return
        for head, body in self._reader.feed(data):
            self._take(head, body)

    def _hang_up(self) -> None:
        connection, self._connection = getattr(self, "_connection", None), None
        if connection is not None:
            connection.close()

    # ---- what comes along it

    def _take(self, head: Sequence[Any], body: bytes) -> None:
        match head:
            case ["event", topic, number, kind, value_head, metadata, sent_ns, size]:
                self._count(topic, number - 1)
                self._last[topic][number >> REPLICA_SHIFT] = number
                value = _value(kind, value_head, body, size)
                known = values.unpack(metadata) if metadata else {}
                self._items.append((topic, input_event(topic, value, known, topic, sent_ns, number)))
            case ["topics", sent]:
                self._is_attached = True
                for topic, numbers in sent.items():
                    self._count(topic, *numbers)
            case ["end", sent]:
                for topic, numbers in sent.items():
                    self._count(topic, *numbers)
                self.ended = True
                self._hang_up()
            case ["refused", kind, why]:
                self.close()
                if kind == frames.UNKNOWN_TOPIC:
                    raise UnknownTopic(self.run, why)
                raise NodeRuntimeError(f"the run {self.run!r} cannot be looked at: {why}")
            case _:
                raise ProtocolError(f"the tap server says {head[0]!r}, which a tap does not know")

    def _count(self, topic: str, *numbers: int) -> None:
        """Messages with these numbers are known to have been sent on a topic; those that have not come are missed."""
        known = self._last.setdefault(topic, {})
        for number in numbers:
            replica = number >> REPLICA_SHIFT
            last = known.setdefault(replica, number)
            if number > last:
                self._missed += number - last
                known[replica] = number


def _done(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _value(kind: int, head: bytes, body: bytes, size: int) -> Any:
    if size > len(body):
        return Omitted(size, f"a tap gets values of up to {frames.BODY_BYTES_MAX} bytes, and this one has {size}")
    try:
        return values.decode(kind, head, body)
    except Exception as error:  # made by a program in another language
        return Omitted(size, f"it cannot be decoded: {describe(error)}")


def _not_running(name: str, found: Run | None) -> NotRunning:
    if found is not None:
        what = "was interrupted" if found.state == "interrupted" else "has failed"
        return NotRunning(f"the run {name!r} {what}, it is not running")
    running = [run.name for run in runs.list_runs(os.environ) if run.state == "running"]
    near = nearest(name, running)
    known = f"Running are: {', '.join(running)}." if running else "No run is running."
    return NotRunning(f"there is no run {name!r}", f"Did you mean {near!r}?" if near else known)
