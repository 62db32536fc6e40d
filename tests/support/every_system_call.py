"""Take a snapshot again and again, and kill it at one more system call each time, until one comes to its end.

Run by test_power.py in a process of its own: it forks. The child is traced with ptrace, which needs no privileges, and
is killed at the entry and at the exit of each of its system calls between the first and the last of a save. After each
kill the snapshots must be those from before, or those and the new one; whole in both cases, and of use to the next
save.

    python every_system_call.py FOLDER [STEP]       prints: kills, how many of them left the old one, the new one
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

from noderuntime.snapshot.keeper import Keeper
from noderuntime.snapshot.places import open_backend
from noderuntime.space.environment import open_space

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.spaces import content, make_space, read_all, save

TRACEME, SYSCALL = 0, 24
_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int) -> None:
    if _ptrace(request, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request})")


def child(folder: Path) -> None:
    """Open everything, let ourselves be traced, take the snapshot."""
    space = open_space(folder / "space")
    backend = open_backend("kept", "run", folder, folder, {})
    keeper = Keeper(space, backend, "run", 1)
    ptrace(TRACEME, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    keeper.take("asked")
    os._exit(0)


def killed_at(folder: Path, stop: int) -> bool:
    """Kill the child at its `stop`-th entry or exit of a system call; False when it came to its end before."""
    pid = os.fork()
    if pid == 0:
        try:
            child(folder)
        finally:
            os._exit(70)
    os.waitpid(pid, 0)
    for _ in range(stop):
        ptrace(SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, status
            return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def main() -> None:
    folder = Path(sys.argv[1])
    step = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    space = make_space(folder / "space")
    save(space, 1, {f"k{number}": b"v" * 100 for number in range(50)})
    backend = open_backend("kept", "run", folder, folder, {})
    before = Keeper(space, backend, "run", 1).take("asked").manifest
    held = {before.number: content(space)}
    save(space, 1, {f"k{number}": b"w" * 100 for number in range(0, 50, 2)})
    held[before.number + 1] = content(space)
    space.close()
    shutil.copytree(folder / "kept", folder / "as-it-was")
    old = new = stop = 0
    while killed_at(folder, stop):
        backend = open_backend("kept", "run", folder, folder, {})
        listed = backend.snapshots()
        assert listed and all(item.manifest for item in listed), (stop, listed)
        for item in listed:
            assert backend.verify(item.number).number == item.number
            found = read_all(backend, item.number)
            assert {key: found.get(key) for key in held[item.number]} == held[item.number], stop
        if listed[0].number == before.number:
            old += 1
        else:
            new += 1
        if stop % 10 == 0:  # and the next one can be taken
            again = open_space(folder / "space")
            number = Keeper(again, backend, "run", 1).take("asked").manifest.number
            again.close()
            assert number == listed[0].number + 1
            assert [item.number for item in backend.snapshots()] == [number]
            assert len(list((folder / "kept" / "run").iterdir())) == 2
        shutil.rmtree(folder / "kept")
        shutil.copytree(folder / "as-it-was", folder / "kept")
        stop += step
    print(old + new, old, new)


if __name__ == "__main__":
    main()
