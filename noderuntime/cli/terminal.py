"""Output that never blocks the caller: a thread that owns stdout and stderr while a run is shown.

The runtime supervises in one thread. A terminal after Ctrl-S, or a pager that waits, accepts no text, so a plain write
could freeze the one process that can restart the others. Text is therefore queued, up to QUEUE_CHARACTERS_MAX; what
does not fit is dropped and counted, and the count is shown when there is room again (the log files have everything).

On a terminal the bottom rows can be live, see live.py: the writer asks `picture` for them, at most every FRAME_S.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TextIO

from noderuntime.cli.live import LiveRegion

QUEUE_CHARACTERS_MAX = 16_000_000
TICK_S = 0.1
FRAME_S = 0.05
BATCH_S = 0.01  # on a live screen, lines that come close together are painted together

Picture = Callable[[float], tuple[Sequence[str], Sequence[str]]]


def no_picture(now_s: float) -> tuple[Sequence[str], Sequence[str]]:
    """No live rows, no lines."""
    return (), ()


class BackgroundWriter:
    """Writes lines to `out` and `err` from a thread of its own, which starts with `start`.

    `picture(now_s)` returns (rows of the live region, lines for `err` that are due); the writer's thread calls it about
    every TICK_S. With `live`, `out` is a terminal: rows are painted there, and so are lines for `err` when that is a
    terminal too. `broken` is called once, when the reader of `out` is gone.
    """

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        picture: Picture = no_picture,
        live: bool = False,
        broken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        out.flush()
        err.flush()
        self._encoding = out.encoding or "utf-8"
        self._out = out.fileno()
        self._err = err.fileno()
        self._one_screen = live and err.isatty()
        self._picture = picture
        self._live = live
        self._broken = broken
        self._clock = clock
        self._region = LiveRegion()
        self._queue: deque[tuple[bool, str] | None] = deque()  # None: from here on, the picture is final
        self._queued = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._closing = False
        self._repaint = False
        self._showing = True
        self._gone: set[int] = set()  # descriptors that take no more
        self._out_is_gone = False
        self._thread: threading.Thread | None = None

    @property
    def out_is_gone(self) -> bool:
        """Whether the reader of stdout has gone away."""
        return self._out_is_gone

    @property
    def congested(self) -> bool:
        """Whether more than half of the queue is full: the caller should read less from the nodes."""
        return self._queued > QUEUE_CHARACTERS_MAX // 2

    def start(self) -> None:
        """Begin to write. Not before the last fork: a thread does not survive one."""
        self._thread = threading.Thread(target=self._work, name="console", daemon=True)
        self._thread.start()

    def write(self, text: str, err: bool = False) -> None:
        """Queue a line (or several). Returns at once; what does not fit is dropped and counted."""
        with self._changed:
            if self._queued + len(text) > QUEUE_CHARACTERS_MAX:
                self._dropped += 1
                return
            if self._dropped:
                note = f"({self._dropped} lines were not shown here: they came faster than they were taken)"
                self._dropped = 0
                self._queue.append((True, note))
                self._queued += len(note)
            self._queue.append((err, text))
            self._queued += len(text)
            self._changed.notify()

    def repaint(self) -> None:
        """The picture has changed."""
        self._repaint = True  # the thread looks often enough; no lock, no wake-up for each frame

    def settle(self) -> None:
        """The picture is final: what is painted stays on the screen, and lines follow below it."""
        with self._changed:
            self._queue.append(None)
            self._changed.notify()

    def close(self, patience_s: float | None = None) -> bool:
        """Write what is queued, and end the thread; whether all was written.

        Waits for as long as there is a reader, or at most `patience_s`: then the thread is left blocked, and the
        process has to end without it.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(patience_s)
        if self._thread.is_alive():
            return False
        self._thread = None
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._queue and not self._closing:
                    self._changed.wait(FRAME_S if self._repaint else TICK_S)
                batch = list(self._queue)
                self._queue.clear()
                closing, self._repaint = self._closing, False
            final = batch.index(None) if None in batch else len(batch)
            self._put([item for item in batch[:final] if item])
            if final < len(batch):
                self._showing, self._region = False, LiveRegion()
                self._put([item for item in batch[final:] if item])
            with self._changed:
                self._queued -= sum(len(item[1]) for item in batch if item)
                if closing and not self._queue:
                    return
            if self._live:
                time.sleep(BATCH_S)

    def _put(self, batch: list[tuple[bool, str]]) -> None:
        rows, due = self._picture(self._clock()) if self._showing else ((), ())
        batch += [(True, line) for line in due]
        if self._live:
            self._put_live(batch, rows)
            return
        for err, lines in groupby(batch, key=itemgetter(0)):  # what goes to one stream goes in one write
            self._write(self._err if err else self._out, "".join(f"{line}\n" for _, line in lines))

    def _put_live(self, batch: list[tuple[bool, str]], rows: Sequence[str]) -> None:
        if not self._one_screen:
            self._write(self._err, "".join(f"{line}\n" for err, line in batch if err))
        lines = [line for err, line in batch if self._one_screen or not err]
        columns, height = self._size()
        self._write(self._out, self._region.update(lines, rows, columns, height))

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def _write(self, descriptor: int, text: str) -> None:
        left = memoryview(text.encode(self._encoding, "replace"))
        while left and descriptor not in self._gone:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:  # another program made our terminal non-blocking
                select.select([], [descriptor], [])
            except OSError as error:
                self._gone.add(descriptor)
                if descriptor == self._out and error.errno == errno.EPIPE:
                    self._out_is_gone = True
                    self._broken()
                elif descriptor == self._out:
                    self.write(f"(stdout takes no more: {error.strerror}; the log files have everything)", err=True)
