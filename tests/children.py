"""What forked children do in the tests of the nursery: entry points, found by name."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time


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
        "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
        "preloaded": "decimal" in sys.modules,
    }
    print(json.dumps(facts))
    return 7


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
