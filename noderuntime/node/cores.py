"""Whether the machine has an idle core now.

It reads the count of running tasks in /proc/loadavg, which is current. A read costs some microseconds, so it reads at
most every LOOK_NS. Rejected: load averages, which describe the last minute.
"""

from __future__ import annotations

import os
import time

LOOK_NS = 100_000_000


class Cores:
    """`spare()` is cheap to call often, from one thread at a time. Without /proc, no core counts as idle."""

    def __init__(self, path: str = "/proc/loadavg", count: int | None = None) -> None:
        self._count = len(os.sched_getaffinity(0)) if count is None else count
        self._look_ns = 0
        self._spare = False
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def spare(self) -> bool:
        """Whether fewer tasks run, including this one, than there are cores."""
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
