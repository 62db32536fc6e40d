"""One child process as the loop sees it: its pipes, its pid, its last lines. It decides nothing."""

from __future__ import annotations

import codecs
import os
from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import Protocol

from noderuntime.ipc import process
from noderuntime.ipc.boundary import all_of
from noderuntime.ipc.rundir import ENV_NODE, ENV_RUN_DIR
from noderuntime.runtime.forkserver import ForkServer, Order, Spawning
from noderuntime.runtime.loop import Loop

READ_BYTES = 65536
LINE_BYTES_MAX = 1 << 20


class Lines:
    """Bytes in, whole lines of text out. A line that is too long comes in parts."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their newlines."""
        text = self._rest + self._decoder.decode(data)
        *lines, self._rest = text.split("\n")
        while len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]
        return [line.removesuffix("\r") for line in lines]

    def end(self) -> list[str]:
        """The rest, which has no newline."""
        rest, self._rest = self._rest + self._decoder.decode(b"", True), ""
        return [rest] if rest else []


class Owner(Protocol):
    """What a `Proc` tells about itself, and to whom: a child, the store's keeper."""

    def said(self, stream: str, line: str) -> None:
        """A line on stdout or stderr."""

    def exited(self, proc: Proc, status: int) -> None:
        """It was reaped: exit code, or minus the signal."""

    def not_spawned(self, proc: Proc, error: OSError) -> None:
        """Instead of `exited`: no process runs what was ordered, or it exited before it could."""


class Proc:
    """One process, from the order for it until it is reaped. Raises OSError when descriptors run out."""

    def __init__(self, loop: Loop, fork_server: ForkServer, order: Order, owner: Owner) -> None:
        self._loop = loop
        self._owner = owner
        self.pid = 0
        self.pidfd = -1
        self.reaped = False
        self._signals: list[int] = []
        self._pipes: dict[str, tuple[int, Lines]] = {}
        opened: list[int] = []
        try:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            for stream in ("stdout", "stderr"):
                ours, theirs = os.pipe()
                os.set_blocking(ours, False)
                self._pipes[stream] = (ours, Lines())
                opened.append(theirs)
            self.spawning: Spawning = fork_server.spawn(order, (opened[0], opened[1], opened[2]))
        except OSError:
            for fd in (*opened, *(fd for fd, _ in self._pipes.values())):
                os.close(fd)
            raise
        for stream, (fd, _) in self._pipes.items():
            loop.watch(fd, partial(self._read, stream), pausable=True)

    def give_to(self, owner: Owner) -> None:
        """Another one is told about it from now on."""
        self._owner = owner

    def progressed(self) -> None:
        """Take what the fork server has found out about the spawn."""
        spawning = self.spawning
        if spawning.pid and not self.pid:
            self.pid, self.pidfd = spawning.pid, spawning.pidfd
            self._loop.watch(self.pidfd, self.try_reap)
            for number in self._signals:
                process.signal_group(self.pid, number)
        if spawning.done and not spawning.pid and not self.reaped:
            self.reaped = True
            error = spawning.error or OSError(0, "it could not be started")
            all_of((self._drain, partial(self._owner.not_spawned, self, error)))

    def signal(self, number: int) -> None:
        """Signal its process group; when its pid is not known yet, as soon as it is."""
        if self.reaped:
            return
        if self.pid:
            process.signal_group(self.pid, number)
        else:
            self._signals.append(number)

    def try_reap(self) -> None:
        """Reap it if it has ended, and kill what is left of its process group."""
        if self.reaped or not self.pid:
            return
        status = process.reap(self.pid)
        if status is None:
            return
        self.reaped = True
        pidfd, self.pidfd = self.pidfd, -1
        error = self.spawning.error
        if error is not None:
            told = partial(self._owner.not_spawned, self, error)
        else:
            told = partial(self._owner.exited, self, status)
        # the owner is told whatever fails here: a life whose end is not reported lasts for ever
        all_of((partial(self._loop.close_fd, pidfd), self._drain, told))

    def _read(self, stream: str, most: int = 1) -> None:
        fd, lines = self._pipes[stream]
        for _ in range(most):
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return
            for line in lines.feed(data) if data else lines.end():
                self._owner.said(stream, line)
            if not data:
                self._loop.close_fd(fd)
                del self._pipes[stream]
                return

    def _drain(self) -> None:
        """Read what is left in the pipes. Pipes that its own children hold open are read until those end."""
        for stream in list(self._pipes):
            self._read(stream, 64)

    def close(self) -> None:
        """Close the pipes and the pidfd."""
        for fd, _ in self._pipes.values():
            self._loop.close_fd(fd)
        self._pipes.clear()
        if self.pidfd >= 0:
            self._loop.close_fd(self.pidfd)
            self.pidfd = -1


def kill_strays(known: Container[int], run_dir: Path, node: str) -> None:
    """Kill what a dead node has left in other sessions: orphans that this process adopted, with the node's environment.

    `known`: pids of children that are not orphans.
    """
    for pid in process.children_of(os.getpid()):
        if pid in known:
            continue
        env = process.environment_of(pid)
        if env.get(ENV_RUN_DIR) == str(run_dir) and env.get(ENV_NODE) == node:
            for found in (pid, *process.descendants_of(pid)):
                process.kill_below(found)
