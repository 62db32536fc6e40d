from __future__ import annotations

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
