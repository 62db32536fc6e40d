"""What forked children do in the tests of the fork server: entry points, found by name."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def report() -> int:
    """Say who we are, on stdout."""
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "argv": sys.argv[1:],
        "random": random.random(),
        "stdin": sys.stdin.read(),
        "fds": descriptors(),
        "preloaded": "decimal" in sys.modules,
    }
    print(json.dumps(facts))
    return 7


def descriptors() -> list[int]:
    """What is open here, without libraries (some builds of libffi keep themselves open)."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            if ".so" not in str(Path(f"/proc/self/fd/{fd}").readlink()):
                found.append(int(fd))
    return sorted(found)


def sleep() -> int:
    print("asleep", flush=True)
    time.sleep(1000)
    return 0


def stubborn() -> int:
    """Sleep, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sleep()


def exit_text() -> int:
    sys.exit("a text")


def crash() -> int:
    raise ValueError("on purpose")
