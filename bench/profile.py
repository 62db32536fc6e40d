"""What a process of a run does, seen from outside: time on a core, how much of it in the kernel, system calls.

System calls are counted by strace while the process runs on, where there is one; instructions by the processor's
counters, where the machine has them (virtual ones often have none).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
TICKS_MIN = 50
ATTR_BYTES = 128
HARDWARE, INSTRUCTIONS = 0, 1
INHERIT = 1 << 1


@dataclass(frozen=True, slots=True)
class Use:
    """Of one process so far: nanoseconds on a core, and of its user's and its kernel's share in ticks."""

    core_ns: int
    user: int
    kernel: int

    @classmethod
    def of(cls, pid: int) -> Use:
        core_ns = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            core_ns += int((task / "schedstat").read_text().split()[0])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return cls(core_ns, int(fields[11]), int(fields[12]))

    def since(self, before: Use) -> Use:
        return Use(self.core_ns - before.core_ns, self.user - before.user, self.kernel - before.kernel)

    @property
    def kernel_share(self) -> float | None:
        """None when it was on a core for too few ticks to say."""
        ticks = self.user + self.kernel
        return self.kernel / ticks if ticks >= TICKS_MIN else None


def system_calls(pid: int, seconds: float, folder: Path, done: Callable[[], int]) -> dict[str, float] | None:
    """How often all threads of a process call each, per one that `done` counts; None where strace is not there, or may
    not.
    """
    strace = shutil.which("strace")
    if strace is None:
        return None
    out = folder / f"strace-{pid}"
    command = [strace, "-c", "-f", "-U", "calls,name", "-o", str(out), "-p", str(pid)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if "attached" not in process.stderr.readline():
            process.kill()
            return None
        before = done()
        time.sleep(seconds)
        count = done() - before
        process.send_signal(signal.SIGINT)
        process.communicate()
    found = {}
    for line in out.read_text().splitlines():
        calls, _, name = line.strip().partition(" ")
        if calls.isdigit() and name.strip() != "total":
            found[name.strip()] = int(calls) / (count or 1)
    return found


@contextlib.contextmanager
def instructions(pid: int) -> Iterator[int | None]:
    """A descriptor whose 8 bytes are the instructions of the main thread so far; None where they cannot be counted."""
    number = SYS_PERF_EVENT_OPEN.get(os.uname().machine)
    attr = bytearray(ATTR_BYTES)
    struct.pack_into("<IIQQQQQ", attr, 0, HARDWARE, ATTR_BYTES, INSTRUCTIONS, 0, 0, 0, INHERIT)
    libc = ctypes.CDLL(None, use_errno=True)
    place = (ctypes.c_char * ATTR_BYTES).from_buffer(attr)
    fd = -1 if number is None else libc.syscall(number, place, pid, -1, -1, 0)
    try:
        yield fd if fd >= 0 else None
    finally:
        if fd >= 0:
            os.close(fd)


def counted(fd: int | None) -> int:
    return 0 if fd is None else int.from_bytes(os.read(fd, 8), "little")
