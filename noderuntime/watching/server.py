"""The tap server: a process beside a run that is looked at. It takes the messages of taps, and passes them on.

    sender --commit--> mailbox of the tapped output --take--> tap server --stream socket--> Tap
                       8 MB, drops its oldest                  8 MB for each, drops its oldest

The runtime starts it when the first tap asks for it, and kills it like any other process that is stopped or stays in
the space. Who looks has a connection to its socket; that is all there is of a tap. So a tap ends with the process that
looks, however that ends: its connection closes, and when nobody else looks at a topic, its mailbox goes. When the tap
server itself is killed, the store removes all mailboxes before another one is started, and the taps connect to that.

Nobody waits for anybody here: senders drop, the socket of a tap that does not read makes its backlog drop, and large
bodies are copied out of the senders' segments when they are taken, whether a tap reads them soon or never.

It looks into the mailboxes when it is rung, but at most once in TICK_S. What comes in between is taken together, and
rings nobody, because its queue is not empty.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from noderuntime.errors import NodeRuntimeError, ProtocolError, StoreError
from noderuntime.ipc import doorbell
from noderuntime.ipc.boundary import Boundary
from noderuntime.ipc.rundir import RunDir
from noderuntime.space.environment import BROKEN
from noderuntime.space.keys import TAPS
from noderuntime.watching import choice, frames
from noderuntime.watching.backlog import Backlog
from noderuntime.watching.mailboxes import Mailboxes
from noderuntime.watching.streams import listen

TICK_S: Final = 0.01
LOOK_S: Final = 0.5  # for a changed dataflow, and for a ring that was lost with its sender
IDLE_S: Final = 1.0  # how long it stays when nobody is connected
END_S: Final = 0.5  # at the end of the run, for taps that have not read everything yet
TAPS_MAX: Final = 100
BACKLOG_BYTES: Final = 8_000_000
READ_BYTES: Final = 65536


class Client:
    """One tap. `wanted` is empty until it has said what it wants; `topics` are those that it gets, by their names in
    the space (see space/taps.py).
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reader = frames.Reader(frames.HELLO_BYTES_MAX)
        self.backlog = Backlog(BACKLOG_BYTES)
        self.wanted: list[str] = []
        self.topics: set[str] = set()
        self.is_over = False  # what is in its backlog is the last that it gets


class Server:
    """The loop of the tap server."""

    def __init__(self, run_dir: RunDir, listener: socket.socket, bell: int, signals: int) -> None:
        self._run_dir = run_dir
        self._listener = listener
        self._bell = bell
        self._signals = signals
        self._clients: dict[int, Client] = {}
        self._mailboxes: Mailboxes | None = None
        self._poller = select.poll()
        for fd in (listener.fileno(), bell, signals):
            self._poller.register(fd, select.POLLIN)
        self._boundary = Boundary(_say, passes=BROKEN)
        self._rung = False
        self._taken_s = 0.0

    def run(self) -> None:
        """Serve until nobody has been connected for IDLE_S, or until SIGTERM: then the run is over."""
        idle_s = time.monotonic() + IDLE_S
        next_look_s = 0.0
        while True:
            now_s = time.monotonic()
            if self._clients:
                idle_s = now_s + IDLE_S
            elif now_s >= idle_s:
                return
            due_s = min(next_look_s, self._taken_s + TICK_S) if self._rung else next_look_s
            ready = dict(self._poller.poll(max(0.0, min(due_s, idle_s) - now_s) * 1000))
            if ready.pop(self._signals, 0):
                self._end()
                return
            if ready.pop(self._bell, 0):
                doorbell.drain(self._bell)
                self._rung = True
            if ready.pop(self._listener.fileno(), 0):
                self._boundary.call("a new tap", self._accept)
            for fd, what in ready.items():
                client = self._clients.get(fd)
                if client is not None:
                    self._boundary.call("a tap", self._serve, client, what)
            now_s = time.monotonic()
            if now_s >= next_look_s:
                next_look_s = now_s + LOOK_S
                self._rung = True
                self._boundary.call("the topics", self._follow)
            if self._rung and now_s >= self._taken_s + TICK_S:
                self._taken_s = now_s
                self._rung = False
                self._boundary.call("the mailboxes", self._take)

    # ---- taps

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            client = self._clients[connection.fileno()] = Client(connection)
            self._poller.register(connection, select.POLLIN)
            if len(self._clients) > TAPS_MAX:
                self._refuse(client, f"this run has {TAPS_MAX} taps already; close one of them")

    def _serve(self, client: Client, what: int) -> None:
        """Something can be read from its connection, or written to it."""
        if what & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                data = client.connection.recv(READ_BYTES)
            except BlockingIOError:
                data = None
            except OSError:
                data = b""
            if data is not None and not data:
                self._drop(client)
                return
            if data and not client.is_over:
                self._hear(client, data)
        self._send(client)

    def _hear(self, client: Client, data: bytes) -> None:
        try:
            for head, _ in client.reader.feed(data):
                self._tap(client, *frames.parse_hello(head))
        except (ProtocolError, StoreError) as error:
            self._refuse(client, str(error))

    def _tap(self, client: Client, wanted: list[str], again: bool) -> None:
        if self._mailboxes is None:
            self._mailboxes = Mailboxes(self._run_dir)
        shown = dict.fromkeys(topic.shown for topic in self._mailboxes.topics().values())
        problem = choice.problem(wanted, shown)
        if problem and not again:  # else it was there once: the dataflow has changed
            self._refuse(client, problem, frames.UNKNOWN_TOPIC)
            return
        client.wanted = wanted
        self._follow()

    def _refuse(self, client: Client, why: str, kind: str = "") -> None:
        client.wanted, client.is_over = [], True
        client.backlog.tell(frames.refused(kind, why))
        self._send(client)

    def _drop(self, client: Client) -> None:
        """It is gone, and what only it has tapped goes as well."""
        self._poller.unregister(client.connection)
        del self._clients[client.connection.fileno()]
        client.connection.close()
        self._follow()

    def _send(self, client: Client) -> None:
        """Send as much as goes without waiting."""
        if client.connection.fileno() < 0:
            return  # it was dropped meanwhile
        backlog = client.backlog
        try:
            while not backlog.is_empty:
                backlog.sent(client.connection.send(backlog.front()))
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if client.is_over and backlog.is_empty:
            self._drop(client)
            return
        waits = 0 if backlog.is_empty else select.POLLOUT
        self._poller.modify(client.connection, select.POLLIN | waits)

    # ---- topics

    def _follow(self) -> None:
        """Tap what is wanted of the outputs that there are now, and tell each tap which of its topics are new."""
        if self._mailboxes is None:
            return
        known = self._mailboxes.topics()
        if not self._mailboxes.tapped.keys() <= known.keys():  # nodes have left: what they have sent comes first
            self._take_all(time.monotonic() + END_S)
        shown = dict.fromkeys(topic.shown for topic in known.values())
        wanted: dict[int, list[str]] = {}
        for client in self._clients.values():
            chosen = set(choice.chosen(client.wanted, shown))
            wanted[id(client)] = [name for name, topic in known.items() if topic.shown in chosen]
        self._mailboxes.follow({name for names in wanted.values() for name in names})
        tapped = self._mailboxes.tapped
        for client in list(self._clients.values()):
            names = [name for name in wanted[id(client)] if name in tapped]
            new = {name: tapped[name].last for name in names if name not in client.topics}
            client.topics = set(names)
            if new:
                client.backlog.tell(frames.topics(self._by_topic(new)))
                self._send(client)

    def _by_topic(self, numbers: Mapping[str, int]) -> dict[str, list[int]]:
        """The numbers of tapped outputs, those of replicas together."""
        assert self._mailboxes is not None
        found: dict[str, list[int]] = {}
        for name, number in numbers.items():
            found.setdefault(self._mailboxes.tapped[name].topic.shown, []).append(number)
        return found

    def _take(self) -> None:
        """Pass on what has come."""
        if self._mailboxes is None:
            return
        found, more = self._mailboxes.take()
        self._rung = self._rung or more
        if not found:
            return
        names = {name for name, _ in found}
        for client in list(self._clients.values()):
            if client.topics.isdisjoint(names):
                continue
            for name, frame in found:
                if name in client.topics:
                    client.backlog.add(frame)
            self._send(client)

    def _take_all(self, until_s: float) -> None:
        self._rung = True
        while self._rung and time.monotonic() < until_s:
            self._rung = False
            self._boundary.call("the last messages", self._take)

    def _end(self) -> None:
        """Every node is done: pass on the last messages, and say how many there were."""
        until_s = time.monotonic() + END_S
        if self._mailboxes is not None:
            self._take_all(until_s)
            counts = self._mailboxes.counts()
            for client in list(self._clients.values()):
                client.backlog.tell(frames.end(self._by_topic({name: counts[name] for name in client.topics})))
                self._send(client)
        self._empty_backlogs(until_s)
        for client in list(self._clients.values()):  # a slow tap hears at least how much it has missed
            client.backlog.drop_all()
        self._empty_backlogs(time.monotonic() + END_S)

    def _empty_backlogs(self, until_s: float) -> None:
        while slow := [client for client in self._clients.values() if not client.backlog.is_empty]:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            poller = select.poll()  # for these only: a signal has come, and other taps may hang up
            for client in slow:
                poller.register(client.connection, select.POLLOUT)
            for fd, _ in poller.poll(left_s * 1000):
                if fd in self._clients:
                    self._send(self._clients[fd])

    def close(self) -> None:
        for client in self._clients.values():
            client.connection.close()
        self._clients.clear()
        if self._mailboxes is not None:
            with contextlib.suppress(StoreError):  # else the store does it
                self._mailboxes.follow(())
            self._mailboxes.close()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Iterable[str] | None = None) -> int:
    """The process of the tap server of the run in RUN_DIR."""
    parser = argparse.ArgumentParser(prog="noderuntime.watching")
    parser.add_argument("run_dir", type=Path)
    run_dir = RunDir(parser.parse_args(None if argv is None else list(argv)).run_dir)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    heard, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    doorbell.create(run_dir.bell(TAPS))
    bell = doorbell.open_bell(run_dir.bell(TAPS))
    listener = listen(run_dir.taps_socket)
    server = Server(run_dir, listener, bell, heard)
    try:
        server.run()
    except NodeRuntimeError as error:
        _say(str(error))
        return 1
    finally:
        run_dir.taps_socket.unlink(missing_ok=True)
        listener.close()
        server.close()
    return 0
