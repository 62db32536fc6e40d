"""The checker finds histories that no register can have had; and histories under kills are such as one could have."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.redis_server import RedisServer

from noderuntime.testing.linearizability import Operation, linearizable
from noderuntime.testing.state_contract import wait_until


def write(value: int, start: float, end: float, process: int = 0) -> Operation:
    return Operation("write", process, start, end, value)


def read(value: int | None, start: float, end: float, process: int = 0) -> Operation:
    return Operation("read", process, start, end, value)


def swap(expected: int | None, value: int, done: bool, start: float, end: float) -> Operation:
    return Operation("swap", 0, start, end, value, expected, done)


GOOD = {
    "nothing": [],
    "one after the other": [write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)],
    "a read that overlaps a write sees the old value": [write(1, 0, 1), write(2, 2, 9), read(1, 3, 4)],
    "or the new one": [write(1, 0, 1), write(2, 2, 9), read(2, 3, 4)],
    "overlapping writes in the order of what was read": [write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4)],
    "a write without an end takes effect late": [write(1, 0, math.inf), read(None, 1, 2), read(1, 3, 4)],
    "or never": [write(1, 0, math.inf), read(None, 1, 2), read(None, 3, 4)],
    "one swap of two wins": [swap(None, 1, True, 0, 9), swap(None, 2, False, 0, 9), read(1, 10, 11)],
    "a swap without an end": [write(1, 0, 1), swap(1, 2, False, 2, math.inf), read(2, 3, 4)],
}
BAD = {
    "a read of what nobody wrote": [write(1, 0, 1), read(3, 2, 3)],
    "a stale read": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "a value from the future": [read(1, 0, 1), write(1, 2, 3)],
    "new and then old again": [write(1, 0, 1), write(2, 2, 9), read(2, 3, 4), read(1, 5, 6)],
    "readers that disagree on the order": [
        write(1, 0, 9), write(2, 0, 9), read(1, 1, 2), read(2, 3, 4), read(1, 5, 6),
    ],
    "two swaps that both win": [swap(None, 1, True, 0, 9), swap(None, 2, True, 0, 9)],
    "a swap that fails without a reason": [write(1, 0, 1), swap(1, 2, False, 2, 3)],
    "a lost update": [write(1, 0, 1), swap(1, 2, True, 2, 3), read(1, 4, 5)],
    "a write that took effect and was undone": [write(1, 0, math.inf), read(1, 1, 2), read(None, 3, 4)],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_a_register_could_have_is_accepted(name: str) -> None:
    assert linearizable(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_register_could_have_is_refused(name: str) -> None:
    assert not linearizable(BAD[name])


def test_a_long_history_is_checked_and_one_stale_read_in_it_is_found() -> None:
    history = []
    for turn in range(500):
        history += [write(turn, 10 * turn, 10 * turn + 8), write(-turn - 1, 10 * turn, 10 * turn + 8, 1)]
        history.append(read(turn if turn % 2 else -turn - 1, 10 * turn + 8.5, 10 * turn + 9))
    assert linearizable(history)
    assert not linearizable([*history, read(17, 4900, 4900.1)])


WORKER = """
import os, random, sys, time
from noderuntime.errors import RevisionConflict
from noderuntime.state.kinds import open_kind
import json
kind, config, number, seed = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
state = open_kind(kind, config)
state.init()
chance = random.Random(seed)
out = os.open(sys.argv[5], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
turn = 0
while True:
    turn += 1
    action = chance.choice(["read", "write", "swap"])
    value = f"{number}.{seed}.{turn}"
    entry = state.get("k") if action == "swap" else None
    expected = entry.value.decode() if entry else None
    os.write(out, f"{time.monotonic_ns()} {number} begin {action} {value} {expected}\\n".encode())
    if action == "read":
        found = state.get("k")
        result = found.value.decode() if found else None
    elif action == "write":
        state.set("k", value.encode())
        result = True
    else:
        try:
            state.set("k", value.encode(), expect=entry.revision if entry else 0)
            result = True
        except RevisionConflict:
            result = False
    os.write(out, f"{time.monotonic_ns()} {number} end {result}\\n".encode())
"""


def recorded(path: Path) -> list[Operation]:
    """The history that workers wrote."""
    found: list[Operation] = []
    open_: dict[str, tuple[int, str, str, str]] = {}
    for line in path.read_text().splitlines():
        time_ns, number, what, *rest = line.split()
        if what == "begin":
            if number in open_:
                found.append(_operation(number, open_.pop(number), math.inf, ""))
            open_[number] = (int(time_ns), *rest)  # type: ignore[assignment]
        else:
            found.append(_operation(number, open_.pop(number), int(time_ns), rest[0]))
    found += [_operation(number, begun, math.inf, "") for number, begun in open_.items()]
    return found


def _operation(number: str, begun: tuple[int, str, str, str], end: float, result: str) -> Operation:
    start, action, value, expected = begun
    if action == "read":
        return Operation("read", int(number), start, end, result)
    return Operation(action, int(number), start, end, value, expected, result == "True")


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm", prefix="noderuntime-test-") as made:
        yield Path(made)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_what_several_processes_see_under_kills_is_linearizable(kind: str, folder: Path) -> None:
    import json

    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    server = RedisServer(folder) if kind == "redis" else None
    config = {
        "memory": {"path": str(folder / "run"), "size": 32 << 20},
        "sqlite": {"path": str(folder / "k.db")},
        "redis": {"url": server.url if server else ""},
    }[kind]
    history = folder / "history"
    history.touch()
    script = folder / "worker.py"
    script.write_text(WORKER)
    lives = 0

    def begin(number: int) -> subprocess.Popen[bytes]:
        nonlocal lives
        lives += 1
        return subprocess.Popen(
            [sys.executable, str(script), kind, json.dumps(config), str(number), str(lives), str(history)]
        )

    workers = [begin(number) for number in range(3)]
    try:
        for _ in range(8):
            before = history.stat().st_size
            wait_until(lambda before=before: history.stat().st_size > before + 4000)
            if server is not None and chance.random() < 0.3:
                server.kill()
                server.start()
                continue
            number = chance.randrange(3)
            workers[number].kill()
            workers[number].wait()
            workers[number] = begin(number)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        if server is not None:
            server.kill()
    found = recorded(history)
    assert len(found) > 200
    assert linearizable(found, "None"), f"seed {seed}, {os.environ.get('PYTEST_CURRENT_TEST')}"
