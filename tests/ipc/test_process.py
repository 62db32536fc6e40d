from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from noderuntime.ipc import process


def slack_ns() -> int:
    return int(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text())


def test_who_sleeps_exactly_and_the_threads_it_starts_may_not_be_kept_asleep_for_long() -> None:
    found: list[int] = []

    def sleeper() -> None:
        process.sleep_exactly()
        found.append(slack_ns())
        thread = threading.Thread(target=lambda: found.append(slack_ns()))
        thread.start()
        thread.join()

    before = slack_ns()
    thread = threading.Thread(target=sleeper)
    thread.start()
    thread.join()
    assert found == [process.TIMER_SLACK_NS] * 2
    assert slack_ns() == before


FAULTS = """
import resource
from noderuntime.ipc import process

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        messages = [bytes(60_000) for _ in range(60)]
        del messages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
process.keep_heap()
faults()
print(given_back, faults())
"""


def test_who_keeps_its_heap_does_not_fetch_the_memory_of_messages_anew() -> None:
    said = subprocess.run([sys.executable, "-c", FAULTS], stdout=subprocess.PIPE, check=True, text=True).stdout
    given_back, kept = map(int, said.split())
    assert given_back > 1000 and kept < 20


def test_only_what_is_below_this_process_is_killed_whatever_number_it_has() -> None:
    sleeper = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    killer = f"""
import os, subprocess
from noderuntime.ipc import process
with subprocess.Popen({sleeper!r}, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    process.kill_below(os.getppid())
    process.kill_below(child.pid)
    print(child.wait())
"""
    # its parent is not below it, as somebody else's process that has been given an old number; it lives on, and nobody
    # else may reap it meanwhile
    stranger = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {killer!r}]))"
    done = subprocess.run([sys.executable, "-c", stranger], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{-signal.SIGKILL}\n"), done.stderr
