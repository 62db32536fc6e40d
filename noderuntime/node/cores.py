"""Whether the machine has a core to spare now.

Read from the count of running tasks in /proc/loadavg, which is of this moment and costs some microseconds; so at most
every LOOK_NS. Averages were no good: they tell of the last minute.
"""

from __future__ import annotations

import os
import time

LOOK_NS = 100_000_000


class Cores:
    """Ask `spare()` as often as you like, from one thread at a time. Where there is no /proc, nothing is to spare."""

    def __init__(self, path: str = "/proc/loadavg", count: int | None = None) -> None:
        self._count = len(os.sched_getaffinity(0)) if count is None else count
        self._look_ns = 0
        self._spare = False
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def spare(self) -> bool:
        """Whether fewer tasks run, this one among them, than there are cores."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._look_ns and self._fd >= 0:
            self._look_ns = now_ns + LOOK_NS
            running = os.pread(self._fd, 128, 0).split()[3].partition(b"/")[0]
            self._spare = int(running) < self._count
        return self._spare

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
