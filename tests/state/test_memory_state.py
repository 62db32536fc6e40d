"""The shared KVS in the space against a plain model: contents, digests, diffs and history, with a clock of our own."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from noderuntime.errors import HistoryLost, RevisionConflict
from noderuntime.merges import Add, decode
from noderuntime.space import keys, kvs, kvs_cells
from noderuntime.space.environment import Space, create, open_space, scan
from noderuntime.state import MemoryState

SECOND = 1_000_000_000


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Iterator[Space]:
    with TemporaryDirectory(dir="/dev/shm", prefix="noderuntime-test-") as folder:
        space = create(Path(folder) / "space", 32 << 20, "boot")
        yield space
        space.close()


class Clock:
    def __init__(self, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1_900_000_000 * SECOND
        monkeypatch.setattr(space, "now_ns", lambda: self.now_ns)


@pytest.fixture
def clock(space: Space, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(space, monkeypatch)


def recomputed(space: Space) -> str:
    """The version, from everything that is stored."""
    now_ns = space.now_ns()
    with space.read() as txn:
        digest = sum(
            kvs_cells.contribution(key, kvs_cells.visible(kept.cell, now_ns)) for key, kept in kvs.all_stored(txn)
        )
    return kvs_cells.version_text(digest & kvs_cells.DIGEST_MASK)


@pytest.mark.parametrize("history", [0, 1, 7, 100])
def test_random_operations_agree_with_a_plain_dict(space: Space, clock: Clock, history: int) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    with space.write() as txn:
        kvs.prepare(txn, history, 0)
    state = MemoryState(space, 3)
    model: dict[str, tuple[bytes, int | None]] = {}  # value, expiry
    versions: list[tuple[str, dict[str, bytes], int]] = []  # version, contents, changes made until then
    changes = 0
    for _ in range(400):
        clock.now_ns += chance.choice([0, 1, SECOND])
        model = {key: item for key, item in model.items() if item[1] is None or item[1] > clock.now_ns}
        key = chance.choice("abcdefgh")
        action = chance.choice(["set", "set", "mortal", "delete", "merge", "expect", "purge", "version"])
        if action == "set":
            value = b"%d" % chance.randrange(5)
            state.set(key, value)
            model[key] = value, None
        elif action == "mortal":
            state.set(key, b"mortal", ttl=2)
            model[key] = b"mortal", clock.now_ns + 2 * SECOND
        elif action == "delete":
            assert state.delete(key) == (key in model)
            model.pop(key, None)
        elif action == "merge":
            key = key.upper()
            state.merge(key, Add(2))
            old = model.get(key)
            model[key] = bytes([old[0][0] + 2 if old else 2]), None
            if model[key][0][0] > 100:
                state.delete(key)
                del model[key]
                changes += 1
        elif action == "expect":
            with pytest.raises(RevisionConflict):
                state.set(key, b"never", expect=1 << 60)
        elif action == "purge":
            state.purge(chance.randrange(1, 3))
        changes += action in ("set", "mortal", "delete", "merge")
        contents = {name: item[0] for name, item in sorted(model.items())}
        assert {name: entry.value for name, entry in state.get_root().items()} == contents
        version = state.version()
        assert version == recomputed(space)
        with space.read() as txn:
            assert kvs.head(txn).kept == sum(1 for _ in scan(txn, keys.CHANGE_PREFIX)) <= history + history // 64
        versions.append((version, contents, changes))
    for version, contents, made in versions:
        try:
            diff = state.diff(version)
        except HistoryLost:
            assert changes + 20 - made > history / 4  # deletions by expiry are changes, too
            continue
        now = {name: entry.value for name, entry in state.get_root().items()}
        patched = {**contents, **{name: entry.value for name, entry in diff.changed.items()}}
        assert {name: value for name, value in patched.items() if name not in diff.deleted} == now
    assert not state.diff(state.version())


def test_expired_and_unpurged_keys_count_as_deleted_in_the_version_of_a_snapshot(space: Space, clock: Clock) -> None:
    state = MemoryState(space, 0)
    state.set("k", b"v", ttl=1)
    state.set("n", b"\x01", ttl=3)
    state.merge("n", Add(1))
    clock.now_ns += 2 * SECOND
    with state.snapshot() as view:
        virtual = view.version()
        assert set(view.get_root()) == {"n"}
    assert state.version() == virtual
    clock.now_ns += 2 * SECOND
    assert state.get_root() == {}
    assert set(state.diff(virtual).deleted) == {"n"}


def test_an_older_stamp_elsewhere_does_not_turn_the_clock_back(space: Space, clock: Clock) -> None:
    state = MemoryState(space, 0)
    state.set("k", b"1")
    clock.now_ns -= 1000 * SECOND  # the wall clock was set back
    state.set("k", b"2")
    state.merge("n", Add(1))
    with space.read() as txn:
        found = kvs.stored(txn, b"k")
        assert found is not None
        assert found.cell.stamp > 1_900_000_000 * SECOND
    assert state.get_or("k", b"") == b"2"
    assert decode(state.get_or("n", b"")) == 1


def test_a_wall_clock_that_jumps_neither_expires_nor_revives(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    state = MemoryState(space, 0)
    state.set("k", b"v", ttl=100)
    present = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: present + 10_000 * SECOND)
    assert state.get("k") is not None
    monkeypatch.setattr(time, "time_ns", lambda: present - 10_000 * SECOND)
    assert state.get("k") is not None


@pytest.mark.parametrize("jump_s", [-10_000, 10_000])
def test_a_resumed_run_takes_the_larger_of_the_saved_and_the_present_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: int
) -> None:
    first = create(tmp_path / "space", 1 << 20, "boot")
    before = first.now_ns()
    present = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: present + jump_s * SECOND)
    with first.write() as txn:
        first.advance_clock(txn)
    first.close()
    second = open_space(tmp_path / "space")
    assert second.now_ns() >= max(before, present + jump_s * SECOND)
    assert second.now_ns() - max(before, present + jump_s * SECOND) < 100 * SECOND
    second.close()
