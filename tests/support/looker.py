"""Taps that come and go while a run goes on: one after the other, in a thread, each looked at by what it must bring."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from noderuntime import NodeRuntimeError, Tap
from noderuntime.space import keys
from noderuntime.space.environment import open_space, scan
from noderuntime.space.records import REPLICA_SHIFT

Choice = Callable[[], Sequence[str] | str]


def left_of_taps(space: Path) -> list[bytes]:
    """The records of taps in the space of a run that goes on: it is opened as the processes of the run do."""
    opened = open_space(space)
    prefixes = keys.TAPPED_PREFIX, keys.mailbox(keys.TAPS, 0)[:3]
    with contextlib.closing(opened), opened.read() as txn:
        return [key for prefix in prefixes for key, _ in scan(txn, prefix)]


class Looker(threading.Thread):
    """Opens taps on what `wanted` says, until `over`, for `most` messages each. `right(topic, number, value)`: whether
    a value may have that number on its topic. What was wrong is in `wrong`.

    A tap sees no message twice, each topic in the order of its numbers (those of a replica for themselves), and with
    what it has missed it has all from its first message to its last.
    """

    def __init__(
        self, seed: int, over: threading.Event, most: int, wanted: Choice, right: Callable[[str, int, Any], bool]
    ) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._over = over
        self._most = most
        self._wanted = wanted
        self._right = right
        self.wrong: list[str] = []
        self.seen = 0

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with Tap("flow", self._wanted()) as tap:
                    self._look(tap, self._rng.randint(1, self._most))
            except NodeRuntimeError:  # the run has ended, is resumed, or does not have that topic any more
                self._over.wait(0.05)
            except Exception as error:
                self.wrong.append(repr(error))

    def _look(self, tap: Tap, count: int) -> None:
        first: dict[tuple[str, int], int] = {}
        last: dict[tuple[str, int], int] = {}
        came = 0
        for _ in range(count):
            found = tap.receive(0.5)
            if found is None:
                break
            topic, event = found
            number = int(event.uid.rpartition("#")[2])
            place = topic, number >> REPLICA_SHIFT
            if number <= last.get(place, 0):
                self.wrong.append(f"{event.uid} after number {last[place]}")
            if not self._right(topic, number, event.value):
                self.wrong.append(f"{event.uid} is {event.value}")
            first.setdefault(place, number)
            last[place] = number
            came += 1
            self.seen += 1
        spans = sum(last[place] - first[place] + 1 for place in last)
        if tap.missed < spans - came:
            self.wrong.append(f"{came} of {spans} came, and {tap.missed} are said to be missed")
