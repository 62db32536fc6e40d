"""What waits for one tap: bounded bytes, the oldest events go, nothing that has begun is cut off."""

from __future__ import annotations

import random

from noderuntime.watching import frames
from noderuntime.watching.backlog import Backlog


def event(number: int, size: int = 10) -> frames.Frame:
    return frames.frame(["event", number], bytes(size))


def numbers(backlog: Backlog, reader: frames.Reader, step: int = 1 << 20) -> list[object]:
    """Send everything in steps; what has come."""
    found: list[object] = []
    while not backlog.is_empty:
        front = backlog.front()
        sent = min(step, len(front))
        found += [head[1] for head, _ in reader.feed(bytes(front[:sent]))]
        backlog.sent(sent)
    return found


def test_the_oldest_events_are_dropped_and_the_newest_always_stays() -> None:
    backlog = Backlog(1000)
    for number in range(100):
        backlog.add(event(number, 80))
    kept = 1000 // sum(map(len, event(99, 80)))
    assert kept > 5 and numbers(backlog, frames.Reader()) == [*range(100 - kept, 100)]
    backlog.add(event(1, 80))
    backlog.add(event(2, 5000))
    assert numbers(backlog, frames.Reader()) == [2]


def test_what_is_told_is_never_dropped_and_keeps_its_place_before_later_events() -> None:
    backlog = Backlog(1000)
    for number in range(50):
        backlog.add(event(number, 80))
        if number in (20, 44):
            backlog.tell(frames.frame(["topics", f"t{number}"]))
    backlog.tell(frames.frame(["end", "end"]))
    kept = 1000 // sum(map(len, event(49, 80)))
    assert numbers(backlog, frames.Reader()) == ["t20", *range(50 - kept, 45), "t44", *range(45, 50), "end"]


def test_a_frame_that_has_begun_is_sent_to_its_end_whatever_comes_meanwhile() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        backlog, reader = Backlog(300_000), frames.Reader()
        came: list[int] = []
        sent_bytes = 0
        for number in range(60):
            backlog.add(event(number, rng.choice([10, 100, 70_000, 200_000])))
            for _ in range(rng.randint(0, 3)):
                front = backlog.front()
                step = min(len(front), rng.choice([1, 50, 4096, 100_000]))
                if step:
                    came += [head[1] for head, _ in reader.feed(bytes(front[:step]))]
                    backlog.sent(step)
                    sent_bytes += step
        came += numbers(backlog, reader, 4096)  # type: ignore[arg-type]
        assert came == sorted(set(came)) and came[-1] == 59
