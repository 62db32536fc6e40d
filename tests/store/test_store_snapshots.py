"""The store's snapshots: when they are taken, and what is said about them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.spaces import keeper, make_space, save

from noderuntime.errors import StoreError
from noderuntime.ipc.store_records import Take, TicketOf
from noderuntime.snapshot.cut import Cut, SpaceTooFull, Walked
from noderuntime.snapshot.keeper import Keeper
from noderuntime.snapshot.settings import Settings
from noderuntime.space import keys
from noderuntime.space.environment import Space
from noderuntime.store.snapshots import Snapshots

FAR = 1e6


class World:
    """A space, its snapshots, and what was said."""

    def __init__(self, tmp_path: Path) -> None:
        self.space: Space = make_space(tmp_path / "space")
        self.folder = tmp_path
        self.said: list[str] = []
        self.made: list[Snapshots] = []

    def settings(self, **given: Any) -> Settings:
        kept = {"run": "r", "to": "kept", "folder": str(self.folder), "spool": str(self.folder), "every_s": FAR}
        return Settings(**{**kept, **given})

    def open(self, resumed: bool = True, **given: Any) -> Snapshots:
        snapshots = Snapshots(self.space, self.settings(**given), resumed, self.said.append)
        self.made.append(snapshots)
        return snapshots

    def take(self, snapshots: Snapshots, why: str = "asked") -> dict[str, Any]:
        ticket = snapshots.take(Take(why))["ticket"]
        while (found := snapshots.status(TicketOf(ticket)))["state"] == "running":
            settle(snapshots)
        return found

    def whys(self) -> list[str]:
        return [item.manifest.why for item in reversed(self.settings().open().snapshots())]


def settle(snapshots: Snapshots) -> None:
    if snapshots._thread is not None:
        snapshots._thread.join()
    snapshots.tick()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for snapshots in world.made:
        snapshots.close()
    world.space.close()


def test_one_that_is_asked_for_holds_all_that_is_committed_by_then(world: World) -> None:
    snapshots = world.open()
    save(world.space, 1, {"a": b"1"})
    found = world.take(snapshots)
    assert found["state"] == "done"
    assert found["snapshot"]["number"] == 1


def test_a_store_removes_what_its_predecessor_left_before_it_writes_anything_and_nothing_of_other_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = world.settings().owner()
    place = Path(world.settings().open().place)
    own, foreign = (place / f"0000000007-{name}0badcafe-0000.part" for name in (owner, "0b0b0b0b"))
    for path in (own, foreign):
        path.write_bytes(b"half of a part")
    walk = Cut.walk

    def walked(*arguments: Any) -> Walked:
        assert not own.exists()
        return walk(*arguments)

    monkeypatch.setattr(Cut, "walk", walked)
    save(world.space, 1, {"a": b"1"})
    assert world.take(world.open())["state"] == "done"
    assert foreign.exists()
    assert list(place.glob(f"0000000001-{owner}*.part"))


def test_periodic_ones_are_taken_when_something_has_changed_and_only_then(world: World) -> None:
    snapshots = world.open(every_s=0.0)
    for _ in range(5):
        snapshots.tick()
        settle(snapshots)
    assert world.whys() == ["periodic"]
    save(world.space, 1, {"a": b"1"})
    snapshots.tick()
    settle(snapshots)
    assert world.whys() == ["periodic"] * 2


def test_the_last_one_is_taken_and_marked_even_if_nothing_has_changed(world: World) -> None:
    snapshots = world.open()
    world.take(snapshots)
    assert world.take(snapshots, "end")["state"] == "done"
    assert world.whys() == ["asked", "end"]


def test_a_new_run_begins_its_history_where_there_is_an_older_one_and_says_if_that_was_cut_off(world: World) -> None:
    world.take(world.open())
    snapshots = world.open(resumed=False)
    snapshots.tick()
    settle(snapshots)
    assert world.whys() == ["asked", "start"]
    (said,) = world.said
    assert "number 1" in said and "--resume" in said
    world.take(snapshots, "end")
    again = world.open(resumed=False)
    again.tick()
    settle(again)
    assert world.whys() == ["start", "end", "start"]  # three are kept
    assert len(world.said) == 1


def test_a_resumed_run_goes_on_with_its_history(world: World) -> None:
    world.take(world.open())
    snapshots = world.open(resumed=True)
    snapshots.tick()
    settle(snapshots)
    assert world.whys() == ["asked"]
    assert world.said == []


def test_a_failure_is_told_once_for_as_long_as_it_lasts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Keeper, why: str) -> None:
        raise SpaceTooFull(0.9)

    snapshots = world.open()
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "take", full)
        for _ in range(3):
            found = world.take(snapshots)
            assert found["state"] == "failed"
            assert "put off" in found["error"]
    assert len(world.said) == 1
    assert world.take(snapshots)["state"] == "done"


def test_a_run_whose_place_another_one_has_taken_over_stops_taking_snapshots(world: World) -> None:
    ours, theirs = world.open(every_s=0.0), world.open()
    ours.tick()
    settle(ours)
    world.take(theirs)
    save(world.space, 1, {"a": b"1"})
    ours.tick()
    settle(ours)
    assert "another run" in world.said[-1]
    save(world.space, 1, {"a": b"2"})
    ours.tick()
    assert ours._thread is None


def test_a_store_that_was_restarted_does_not_know_the_ticket_of_the_one_before(world: World) -> None:
    ticket = world.open().take(Take("asked"))["ticket"]
    settle(world.made[0])
    assert world.open().status(TicketOf(ticket))["state"] == "unknown"


def test_without_snapshots_asking_for_one_says_why_there_is_none(world: World) -> None:
    snapshots = world.open(to="none", every_s=0.0)
    snapshots.tick()
    with pytest.raises(StoreError, match="to: none"):
        snapshots.take(Take())


def test_questions_are_answered_while_a_snapshot_is_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    take: Callable[[Keeper, str], Any] = Keeper.take

    def slow(self: Keeper, why: str) -> Any:
        go_on.wait()
        return take(self, why)

    monkeypatch.setattr(Keeper, "take", slow)
    snapshots = world.open()
    ticket = snapshots.take(Take("asked"))["ticket"]
    assert snapshots.status(TicketOf(ticket))["state"] == "running"
    assert snapshots.due_s < FAR * 10
    go_on.set()
    settle(snapshots)
    assert snapshots.status(TicketOf(ticket))["state"] == "done"


def test_settings_are_read_back_as_they_were_written_and_by_nobody_else(world: World, tmp_path: Path) -> None:
    settings = world.settings(options={"endpoint": "http://x"}, keep=7)
    settings.write(tmp_path / "new" / "snapshots.json")
    assert Settings.read(tmp_path / "new" / "snapshots.json") == settings
    assert (tmp_path / "new" / "snapshots.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "torn").write_text('{"run": ')
    assert Settings.read(tmp_path / "torn") is None
    assert Settings.read(tmp_path / "nowhere") is None


def test_before_a_run_has_begun_no_snapshot_is_taken(world: World) -> None:
    """A start that fails would leave an empty one as the newest."""
    keeper(world.space, world.settings().open()).take("end")
    with world.space.write() as txn:
        txn.delete(keys.fact("fingerprint"))
    snapshots = world.open(resumed=False)
    snapshots.tick()
    settle(snapshots)
    with pytest.raises(StoreError, match="not begun"):
        snapshots.take(Take("asked"))
    assert world.whys() == ["end"]
    assert snapshots.due_s > 0
    with world.space.write() as txn:
        txn.put(keys.fact("fingerprint"), msgpack.packb("f"))
    snapshots.tick()
    settle(snapshots)
    assert world.whys() == ["end", "start"]


@pytest.mark.parametrize("error", [ValueError("x"), ConnectionResetError(), RecursionError(), SystemExit()])
def test_whatever_a_backend_raises_is_a_failed_snapshot_and_the_next_one_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    snapshots = world.open()
    with monkeypatch.context() as broken:

        def fail(*given: Any) -> Any:
            raise error

        broken.setattr(Keeper, "take", fail)
        found = world.take(snapshots, "end")
    assert found["state"] == "failed"
    assert type(error).__name__ in found["error"] or str(error) in found["error"]
    assert len(world.said) == 1
    assert world.take(snapshots, "end")["state"] == "done"


def test_files_of_snapshots_can_be_read_by_their_owner_alone(world: World) -> None:
    before = os.umask(0o022)
    try:
        backend = world.settings().open()
        keeper(world.space, backend).take("asked")
    finally:
        os.umask(before)
    files = [path for path in backend.spool.iterdir() if path.is_file()]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert backend.spool.stat().st_mode & 0o777 == 0o700
