from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from noderuntime import process


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
from noderuntime import process

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
