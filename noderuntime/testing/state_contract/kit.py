"""What all parts of the suite use: stores by name, and waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from noderuntime.state.base import Diff, State

Configs = Callable[[str], dict[str, Any]]
Stores = Callable[..., State]

SOON_S = 30.0  # how long the suite waits for what must happen


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; fail when it does not within SOON_S seconds."""
    deadline = time.monotonic() + SOON_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        pause.wait(0.002)


def sync(one: State, other: State) -> None:
    """Let two stores take over each other's changes."""
    other.apply(Diff.from_bytes(one.diff(other).to_bytes()))
    one.apply(Diff.from_bytes(other.diff(one).to_bytes()))


def values(state: State) -> dict[str, bytes]:
    return {key: entry.value for key, entry in state.get_root().items()}


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Run `work(0)` .. `work(count - 1)` at once; the first exception comes out."""
    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


class Fixtures:
    """The fixtures: `stores` opens stores by name, `state` is one of them."""

    kind: type[State]

    @pytest.fixture
    def stores(self, configs: Configs) -> Iterator[Stores]:
        """Opens stores by name, and closes them afterwards."""
        opened: list[State] = []

        def make(name: str = "one", **fields: Any) -> State:
            state = self.kind.open({**configs(name), **fields})
            opened.append(state)
            state.init()
            return state

        yield make
        for state in opened:
            state.close()

    @pytest.fixture
    def state(self, stores: Stores) -> State:
        return stores()
