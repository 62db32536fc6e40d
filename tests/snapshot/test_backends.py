"""One suite for all backends: the guarantees at the head of noderuntime/snapshot/backend.py, sentence by sentence."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.servers import BUCKET, azure_server, s3_server
from support.spaces import BOOT, content, keeper, make_space, put_dead_letter, read_all, save

from noderuntime.errors import SnapshotCorrupt, StoreError
from noderuntime.snapshot.backend import SnapshotConflict, SnapshotGone, SnapshotUnavailable
from noderuntime.snapshot.format import DROPPED, REPLAYED, Manifest
from noderuntime.snapshot.keeper import Keeper
from noderuntime.snapshot.places import NoBackend, open_backend
from noderuntime.snapshot.restore import restore_newest
from noderuntime.space import keys
from noderuntime.space.environment import Space, open_space

SIZE = 64 << 20
KINDS = (
    "directory",
    "s3",
    "slatedb+directory",
    # `make test` needs nothing but Python; Azurite comes with `make test-long`
    pytest.param("az", marks=pytest.mark.long),
    pytest.param("slatedb+s3", marks=pytest.mark.long),
    pytest.param("slatedb+az", marks=pytest.mark.long),
)


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], dict[str, Any]]]:
    """The options of a place of that kind; its server is started when it is first needed."""
    known: dict[str, dict[str, Any]] = {"directory": {}}
    with contextlib.ExitStack() as running:

        def options(kind: str) -> dict[str, Any]:
            if kind not in known:
                known[kind] = running.enter_context({"s3": s3_server, "az": azure_server}[kind]())
            return known[kind]

        yield options


class Place:
    """A place for snapshots, and how to open it once more."""

    def __init__(self, kind: str, options: dict[str, Any], tmp_path: Path) -> None:
        self.kind = kind
        self.options = options
        self.root = tmp_path
        slate, _, inner = kind.rpartition("+")
        where = f"{inner}://{BUCKET}/{tmp_path.name}" if inner in ("s3", "az") else "kept"
        self.to = f"{slate}+{where}" if slate else where
        self._opened: list[Any] = []

    def open(self) -> Any:
        backend = open_backend(self.to, "run", self.root, self.root / "spool", self.options)
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        for backend in self._opened:
            backend.close()


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, servers: Callable[[str], dict[str, Any]], tmp_path: Path
) -> Iterator[Place]:
    kind: str = request.param
    place = Place(kind, servers(kind.rpartition("+")[2]), tmp_path)
    yield place
    place.close()


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    space = make_space(tmp_path / "space")
    save(space, 1, {f"key-{number:05d}": b"v" * 200 for number in range(2000)})
    yield space
    space.close()


def test_when_save_returns_the_snapshot_is_durable_and_listed_as_the_newest(place: Place, space: Space) -> None:
    mine = keeper(space, place.open())
    first = mine.take("asked").manifest
    save(space, 1, {"key-00001": b"changed"})
    second = mine.take("asked").manifest
    listed = place.open().snapshots()
    assert [item.number for item in listed] == [second.number, first.number]
    assert [item.manifest for item in listed] == [second, first]


def test_read_gives_exactly_the_records_of_the_cut(place: Place, space: Space) -> None:
    mine = keeper(space, place.open())
    wanted = {}
    for step in range(4):
        save(space, 1, {f"key-{step:05d}": None, f"new-{step}": b"%d" % step})
        wanted[mine.take("asked").manifest.number] = content(space)
        mine.keep = 10
    other = place.open()
    for number, held in wanted.items():
        found = read_all(other, number)
        assert {key: found.get(key) for key in held} == held
        assert other.verify(number).number == number


def test_a_space_comes_back_from_the_newest_snapshot(place: Place, space: Space, tmp_path: Path) -> None:
    mine = keeper(space, place.open())
    mine.take("periodic")
    save(space, 1, {"key-00003": b"later", "key-00004": None})
    newest = mine.take("end").manifest
    restored = restore_newest(place.open(), tmp_path / "other", SIZE, BOOT)
    assert restored is not None
    assert restored.manifest == newest
    assert not restored.skipped
    other = open_space(tmp_path / "other")
    assert content(other) == content(space)
    other.close()


def test_an_older_snapshot_can_be_chosen(place: Place, space: Space, tmp_path: Path) -> None:
    mine = keeper(space, place.open())
    first = mine.take("asked").manifest
    held = content(space)
    save(space, 1, {"key-00003": b"later"})
    mine.take("asked")
    assert restore_newest(place.open(), tmp_path / "other", SIZE, BOOT, first.number)
    other = open_space(tmp_path / "other")
    assert content(other) == held
    other.close()


def test_a_snapshot_that_was_never_taken_is_named_as_missing(place: Place, space: Space, tmp_path: Path) -> None:
    backend = place.open()
    assert restore_newest(backend, tmp_path / "other", SIZE, BOOT) is None
    keeper(space, backend).take("asked")
    with pytest.raises(SnapshotCorrupt, match="no such snapshot"):
        restore_newest(backend, tmp_path / "other", SIZE, BOOT, 77)


def test_a_save_that_fails_leaves_the_snapshots_before_it_as_they_were(
    place: Place, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = place.open()
    mine = keeper(space, backend)
    first = mine.take("asked").manifest
    held = content(space)
    save(space, 1, {"key-00001": b"changed"})
    target, name = (backend, "_admin") if place.kind.startswith("slatedb") else (backend.blobs, "put")

    def fail(*arguments: object) -> None:
        raise SnapshotUnavailable(backend.place, "the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        with pytest.raises(StoreError):
            mine.take("asked")
    other = place.open()
    assert [item.number for item in other.snapshots()] == [first.number]
    found = read_all(other, first.number)
    assert {key: found.get(key) for key in held} == held
    assert list(backend.spool.glob("*-*.part")) == [
        backend.spool / part.name for part in first.parts if place.kind == "directory"
    ]
    assert mine.take("asked").manifest.number == first.number + 1


def test_of_two_writers_that_do_not_know_each_other_one_fails_and_nothing_is_overwritten(
    place: Place, space: Space
) -> None:
    ours, theirs = keeper(space, place.open()), keeper(space, place.open())
    first = ours.take("asked").manifest
    theirs.take("asked")  # it has looked after our first one, and takes over
    with pytest.raises(SnapshotConflict, match="another run"):
        ours.take("asked")
    listed = place.open().snapshots()
    assert listed[-1].manifest == first
    assert listed[0].manifest is not None
    assert listed[0].manifest.writer == theirs.writer


def test_prune_keeps_the_newest_and_what_they_build_on(place: Place, space: Space) -> None:
    backend = place.open()
    mine = keeper(space, backend, keep=2)
    for step in range(6):
        save(space, 1, {"step": b"%d" % step})
        if step == 3:
            mine.last = None  # as after a restart of the store: a full one
        mine.take("asked")
    numbers = [item.number for item in backend.snapshots()]
    assert numbers[:2] == [6, 5]
    assert 1 not in numbers
    for number in numbers:
        backend.verify(number)


def test_prune_keeps_the_last_snapshot_of_each_run_that_holds_dead_letters(
    place: Place, space: Space, tmp_path: Path
) -> None:
    earlier = []
    for name in ("first", "second"):
        of_run = make_space(tmp_path / name)
        put_dead_letter(of_run, 1)
        mine = keeper(of_run, place.open(), keep=1)
        mine.take("periodic")
        save(of_run, 1, {"step": b"1"})
        earlier.append(mine.take("end").manifest.number)
        held = content(of_run)
        mine.backend.close()
        of_run.close()
    now = keeper(space, place.open(), keep=1)
    for step in range(3):
        save(space, 1, {"step": b"%d" % step})
        newest = now.take("asked").manifest.number
    backend = place.open()
    numbers = [item.number for item in backend.snapshots()]
    assert numbers[0] == newest and set(earlier) < set(numbers)
    found = read_all(backend, earlier[-1])
    assert {key: found.get(key) for key in held} == held


def test_a_snapshot_of_format_2_with_dead_letters_is_kept_too(
    place: Place, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_run = make_space(tmp_path / "first")
    letter = put_dead_letter(of_run, 1)
    made = Keeper._manifest

    def of_format_2(*given: Any) -> Manifest:
        return replace(made(*given), format=2, run_id="", counts={})

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_manifest", of_format_2)
        old = keeper(of_run, place.open(), keep=1)
        old.take("asked")
        with of_run.write() as txn:
            txn.put(keys.fact("more"), b"")
        last = old.take("end").manifest
    keeper(space, place.open(), keep=1).take("asked")
    assert [item.number for item in place.open().snapshots()] == [3, last.number]
    with of_run.write() as txn:
        txn.delete(letter)
    keeper(of_run, place.open(), keep=1).take(DROPPED)  # the same run, by what the old snapshot itself says
    assert [item.number for item in place.open().snapshots()] == [3]
    of_run.close()


def test_a_snapshot_that_a_command_made_of_an_earlier_run_is_not_the_one_to_resume(
    place: Place, space: Space, tmp_path: Path
) -> None:
    of_run = make_space(tmp_path / "first")
    letter = put_dead_letter(of_run, 1)
    keeper(of_run, place.open(), keep=1).take("end")
    newest = keeper(space, place.open(), keep=1).take("end").manifest
    with of_run.write() as txn:
        txn.delete(letter)
    keeper(of_run, place.open(), keep=1).take(DROPPED)
    backend = place.open()
    assert [item.number for item in backend.snapshots()] == [newest.number]  # there is nothing left in the earlier run
    put_dead_letter(of_run, 1)
    aside = keeper(of_run, place.open(), keep=1).take(REPLAYED).manifest
    backend = place.open()
    assert [item.number for item in backend.snapshots()] == [aside.number, newest.number]
    restored = restore_newest(backend, tmp_path / "other", SIZE, BOOT)
    assert restored is not None and restored.manifest == newest
    chosen = restore_newest(backend, tmp_path / "chosen", SIZE, BOOT, aside.number)
    assert chosen is not None and chosen.manifest == aside
    of_run.close()


def test_a_snapshot_that_is_pruned_while_others_look_is_not_listed(
    place: Place, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = place.open()
    mine = keeper(space, backend, keep=10)
    for step in range(3):
        save(space, 1, {"step": b"%d" % step})
        mine.last = None
        mine.take("asked")
    looking = place.open()
    names = looking._checkpoints if hasattr(looking, "_checkpoints") else looking.blobs.names
    target, name = (looking, "_checkpoints") if hasattr(looking, "_checkpoints") else (looking.blobs, "names")

    def then_pruned(*given: Any) -> Any:
        found = names(*given)
        if not hasattr(found, "send"):
            backend.prune(1)
            return found

        async def later() -> Any:
            listed = await found
            monkeypatch.undo()
            await asyncio.to_thread(backend.prune, 1)
            return listed

        return later()

    monkeypatch.setattr(target, name, then_pruned)
    assert [(item.number, item.problem) for item in looking.snapshots()] == [(3, "")]
    with pytest.raises(SnapshotGone):
        looking.stored(1)


def test_a_snapshot_with_a_parent_costs_about_what_has_changed(place: Place, space: Space) -> None:
    mine = keeper(space, place.open())
    full = mine.take("asked").manifest
    save(space, 1, {f"key-{number:05d}": b"w" * 200 for number in range(0, 2000, 100)})
    second = mine.take("asked").manifest
    assert second.chain == (full.number,)
    assert second.size_bytes < 0.03 * full.size_bytes


Damage = Callable[[bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "a flipped bit": lambda data: _flip(data),
    "zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}


def _flip(data: bytes) -> bytes:
    altered = bytearray(data)
    at = random.randrange(len(altered))
    altered[at] ^= 1 << random.randrange(8)
    return bytes(altered)


def damage_at(path: Path, how: Damage) -> None:
    altered = how(path.read_bytes())
    if altered is None:
        path.unlink()
    else:
        path.write_bytes(altered)


@pytest.mark.parametrize("how", DAMAGES)
def test_in_a_directory_any_damage_to_any_file_is_noticed_and_the_snapshot_before_it_used(
    how: str, space: Space, tmp_path: Path
) -> None:
    place = Place("directory", {}, tmp_path)
    mine = keeper(space, place.open(), keep=10)
    mine.take("asked")
    held = content(space)
    older = {path.name for path in (tmp_path / "kept" / "run").iterdir()}
    save(space, 1, {f"key-{number:05d}": b"w" * 200 for number in range(0, 2000, 2)})
    mine.last = None
    second = mine.take("asked").manifest
    for path in sorted((tmp_path / "kept" / "run").iterdir()):
        if path.name in older:
            continue
        before = path.read_bytes()
        damage_at(path, DAMAGES[how])
        folder = tmp_path / f"other-{path.name}"
        restored = restore_newest(place.open(), folder, SIZE, BOOT)
        path.write_bytes(before)
        assert restored is not None
        other = open_space(folder)
        assert content(other) == held
        other.close()
        if not (how == "missing" and path.suffix == ".json"):
            assert [text for text in restored.skipped if text.startswith(f"snapshot {second.number}")]
    place.close()


@pytest.mark.parametrize(
    "how", ["missing", *(pytest.param(how, marks=pytest.mark.long) for how in ("cut off", "a flipped bit"))]
)
def test_in_slatedb_damage_to_its_tables_never_gives_wrong_records(
    how: str, space: Space, tmp_path: Path
) -> None:
    place = Place("slatedb+directory", {}, tmp_path)
    backend = place.open()
    taken = keeper(space, backend).take("asked").manifest
    held = content(space)
    backend.close()
    place._opened.clear()
    tables = sorted((tmp_path / "kept").rglob("*.sst"), key=lambda path: path.stat().st_size)
    before = tables[-1].read_bytes()
    damage_at(tables[-1], DAMAGES[how])
    other = place.open()
    with contextlib.suppress(StoreError):
        found = read_all(other, taken.number)
        assert {key: found.get(key) for key in held} == held
    tables[-1].write_bytes(before)
    found = read_all(place.open(), taken.number)
    assert {key: found.get(key) for key in held} == held
    place.close()


def test_prune_never_removes_the_last_good_snapshot(space: Space, tmp_path: Path) -> None:
    place = Place("directory", {}, tmp_path)
    backend = place.open()
    warnings: list[str] = []
    backend.warn = warnings.append
    mine = keeper(space, backend, keep=10)
    for step in range(4):
        save(space, 1, {"step": b"%d" % step})
        mine.last = None
        mine.take("asked")
    for item in backend.snapshots()[:2]:
        assert item.manifest is not None
        damage_at(tmp_path / "kept" / "run" / item.manifest.parts[0].name, DAMAGES["zeros"])
    assert backend.prune(2) == [1]
    assert [item.number for item in backend.snapshots()] == [4, 3, 2]
    assert "2 is kept" in warnings[0]
    backend.verify(2)


def test_parts_that_a_killed_save_has_left_are_removed_by_the_next_one(space: Space, tmp_path: Path) -> None:
    place = Place("directory", {}, tmp_path)
    backend = place.open()
    (backend.spool / "0000000001-dead-0000.part").write_bytes(b"half")
    (backend.spool / "0000000001.json.77.tmp").write_bytes(b"{")
    (backend.spool / "notes.txt").write_text("mine")
    keeper(space, backend).take("asked")
    names = {path.name for path in backend.spool.iterdir()}
    assert not {"0000000001-dead-0000.part", "0000000001.json.77.tmp"} & names
    assert "notes.txt" in names


def test_files_on_their_way_that_a_killed_save_has_left_are_removed(space: Space, tmp_path: Path) -> None:
    backend = open_backend("slatedb+kept", "run", tmp_path, tmp_path / "state", {})
    (backend.spool / "0000000001-dead-0000.part").write_bytes(b"half")
    keeper(space, backend).take("asked")
    assert list(backend.spool.iterdir()) == []
    backend.close()


def test_without_a_place_nothing_is_kept_and_taking_one_says_why(space: Space, tmp_path: Path) -> None:
    backend = open_backend("none", "run", tmp_path, tmp_path, {})
    assert isinstance(backend, NoBackend)
    assert backend.snapshots() == []
    with pytest.raises(SnapshotUnavailable, match="to: none"):
        backend.save(None, None)  # type: ignore[arg-type]


def test_an_unknown_kind_of_place_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(SnapshotUnavailable, match="az://"):
        open_backend("ftp://example", "run", tmp_path, tmp_path, {})


def test_runs_of_different_names_can_share_a_place(space: Space, tmp_path: Path) -> None:
    for name in ("one", "two"):
        backend = open_backend("kept", name, tmp_path, tmp_path / "spool", {})
        assert keeper(space, backend).take("asked").manifest.number == 1
