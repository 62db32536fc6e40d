"""ptrace, as much of it as is needed to end a process between two system calls of its own. x86-64 only."""

from __future__ import annotations

import ctypes
import os
import signal

PTRACE_SYSCALL, PTRACE_GETREGS, PTRACE_SEIZE, PTRACE_INTERRUPT = 24, 12, 0x4206, 0x4207
PTRACE_O_TRACESYSGOOD = 1
PWRITE64 = 18

_libc = ctypes.CDLL(None, use_errno=True)


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in (
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
        "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
    )]  # fmt: skip


def _ptrace(request: int, pid: int, argument: int = 0, data: object = 0) -> None:
    if _libc.ptrace(request, pid, ctypes.c_void_p(argument), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def kill_behind_meta_page(pid: int, page_bytes: int, commits: int) -> bool:
    """Let the process commit `commits` times, and kill it right behind the write of the next meta page: the transaction
    is in the file, and its number is not published yet. False when the process ended before.

    Meta pages are the first two of LMDB's data file; without `writemap` they are written by pwrite, like nothing else
    there.
    """
    _ptrace(PTRACE_SEIZE, pid, 0, ctypes.c_void_p(PTRACE_O_TRACESYSGOOD))
    _ptrace(PTRACE_INTERRUPT, pid)
    entered = False
    while True:
        _, status = os.waitpid(pid, 0x40000000)  # __WALL: it is no child of ours
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return False
        number = os.WSTOPSIG(status)
        forward = 0
        if number == signal.SIGTRAP | 0x80:
            entered = not entered
            registers = Registers()
            _ptrace(PTRACE_GETREGS, pid, 0, ctypes.byref(registers))
            wrote = not entered and registers.orig_rax == PWRITE64
            if wrote and registers.r10 < 2 * page_bytes and registers.rdx < page_bytes:
                commits -= 1
                if commits < 0:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0x40000000)
                    return True
        elif number != signal.SIGTRAP and status >> 16 == 0:
            forward = number
        _ptrace(PTRACE_SYSCALL, pid, 0, ctypes.c_void_p(forward))
