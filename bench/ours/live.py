"""What is measured while a run is changed: a busy operator with receivers that come and go, keys that wait while
replicas are added, and replicas that compute.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from measured import VALUE, leave

from noderuntime import Operator, Source, stateful_map

OUT = Path(os.environ["BENCH_OUT"])
KEYS = int(os.environ.get("BENCH_KEYS", "0"))
PAUSE_S = 0.001
STREAM_PAUSE_S = 0.0002
LONG_NS = 1_000_000
STATE = bytes(90)
BURN_NS = 200_000


class Stream(Source):
    """Some thousand values a second until the run is stopped: on two cores, more would measure who gets which core."""

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        time.sleep(STREAM_PAUSE_S)
        ctx.send_output("out", VALUE.pack(0, number))
        return number + 1


class Busy(Operator):
    """Sends each value on with the time, and notes when it had none for more than a millisecond."""

    def __init__(self) -> None:
        self.last_ns = 0
        self.gaps: list[tuple[int, int]] = []

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            now_ns = time.monotonic_ns()
            if now_ns - self.last_ns > LONG_NS and self.last_ns:
                self.gaps.append((self.last_ns, now_ns))
            self.last_ns = now_ns
            ctx.send_output("out", VALUE.pack(now_ns, VALUE.unpack(event.value)[1]))
        elif event.type == "STOP":
            leave("gaps", self.gaps)


class First(Operator):
    """Leaves the time at which the first value that it gets was sent."""

    def __init__(self) -> None:
        self.any = False

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT" and not self.any:
            self.any = True
            leave(f"first-{ctx.node_id}", VALUE.unpack(event.value)[0])


class Requests(Source):
    """Each of BENCH_KEYS keys once, at full speed; from BENCH_OUT/go on any of them, a millisecond apart."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.due_s = 0.0

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        if number >= KEYS:
            if number == KEYS and not (OUT / "go").exists():
                return Source.idle(0.02)
            early_s = self.due_s - time.monotonic()
            if early_s > 0:
                return Source.idle(early_s)
            self.due_s = time.monotonic() + PAUSE_S
        key = number if number < KEYS else self.random.randrange(KEYS)
        ctx.send_output("out", {"key": key, "sent": time.monotonic_ns()})
        return number + 1


def count(key: int, value: Any, state: list[Any]) -> tuple[int, list[Any]]:
    return value["sent"], [state[0] + 1, STATE]


counts = stateful_map(count, output="sent", key=lambda value: value["key"], default=lambda: [0, STATE])


class Waits(Operator):
    """Notes when each answer came and how long it took, once all keys were seen; BENCH_OUT/filled says so."""

    def __init__(self) -> None:
        self.seen = 0
        self.took: list[tuple[int, int]] = []

    def restore_state(self, state: dict[str, Any]) -> None:
        self.seen = KEYS

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            self.seen += 1
            now_ns = time.monotonic_ns()
            if self.seen > KEYS:
                self.took.append((now_ns, now_ns - event.value))
            elif self.seen == KEYS:
                ctx.save_state("filled", b"")
                (OUT / "filled").touch()
        elif event.type == "STOP":
            leave(f"waits-{time.monotonic_ns()}", self.took)


class Work(Source):
    """BENCH_COUNT numbers at full speed, from a second after its start on."""

    def __init__(self) -> None:
        self.begin_s = time.monotonic() + 1.0

    def produce(self, position: int | None, ctx: Any) -> Any:
        number = position or 0
        if not number:
            if time.monotonic() < self.begin_s:
                return Source.idle(0.05)
            leave("begun", time.monotonic_ns())
        if number == int(os.environ["BENCH_COUNT"]):
            return Source.END
        ctx.send_output("out", number)
        return number + 1


def burn(key: int, value: int, state: int) -> tuple[int, int]:
    until_ns = time.thread_time_ns() + BURN_NS
    while time.thread_time_ns() < until_ns:
        pass
    return value, state + 1


burns = stateful_map(burn, output="out", key=lambda value: value, default=int)


class Done(Operator):
    """Leaves when the last one came, and how many there were."""

    def __init__(self) -> None:
        self.count = 0

    def on_event(self, event: Any, ctx: Any) -> None:
        if event.type == "INPUT":
            self.count += 1
        elif event.type == "STOP":
            leave("done", {"count": self.count, "ns": time.monotonic_ns()})
