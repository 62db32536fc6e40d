"""Every backend, cut off at each of its steps: what was there stays, the next save is whole, and nothing is left over.

A step is a request to the place: a blob that is put or removed, a write or a checkpoint of SlateDB. It is cut off
before it is done, or done and only its answer lost; then the same process tries again, or it was killed and a new one
begins. A prune is a part of each save here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.spaces import BOOT, content, keeper, make_space, save
from test_backends import SIZE, Place, place, servers  # noqa: F401 - fixtures

from noderuntime.errors import StoreError
from noderuntime.snapshot.backend import SnapshotUnavailable
from noderuntime.snapshot.keeper import Keeper
from noderuntime.snapshot.restore import restore_newest
from noderuntime.space.environment import Space, open_space

BLOB_STEPS = ("put_file", "put", "delete")
SLATE_STEPS = ("write", "flush_with_options", "create_detached_checkpoint", "delete_checkpoint")
KEPT = 2


class Killed(BaseException):
    """The process is gone: nothing of ours catches it."""


class Cutter:
    """Counts the steps of a backend, and cuts the one that it was made for off."""

    def __init__(self, at: int, done: bool, killed: bool, where: str) -> None:
        self.at = at
        self.done = done
        self.killed = killed
        self.where = where
        self.steps = 0
        self.armed = False

    @property
    def hit(self) -> bool:
        return self.steps > self.at

    def _cut(self) -> None:
        if self.killed:
            raise Killed
        raise SnapshotUnavailable(self.where, "cut off")

    def _counts(self) -> bool:
        if not self.armed:
            return False
        self.steps += 1
        return self.steps == self.at + 1

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def carried_out(*arguments: Any) -> Any:
            cut = self._counts()
            if cut and not self.done:
                self._cut()
            result = function(*arguments)
            if cut:
                self._cut()
            return result

        return carried_out

    def awaited_step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def carried_out(*arguments: Any) -> Any:
            cut = self._counts()
            if cut and not self.done:
                self._cut()
            result = await function(*arguments)
            if cut:
                self._cut()
            return result

        return carried_out


class Stepping:
    """An object of the SlateDB binding whose steps are cut."""

    def __init__(self, inner: Any, cutter: Cutter, steps: tuple[str, ...]) -> None:
        self._inner = inner
        self._cutter = cutter
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._cutter.awaited_step(found) if name in self._steps else found


def watch(backend: Any, cutter: Cutter, steps: tuple[str, ...] = (*BLOB_STEPS, *SLATE_STEPS)) -> None:
    """Have the steps of a backend counted, and cut."""
    if not hasattr(backend, "blobs"):
        writer, admin = backend._writer, backend._admin

        async def stepping_writer() -> Any:
            return Stepping(await writer(), cutter, steps)

        backend._writer = stepping_writer
        backend._admin = lambda: Stepping(admin(), cutter, steps)
        return
    for name in set(BLOB_STEPS) & set(steps):
        setattr(backend.blobs, name, cutter.step(getattr(backend.blobs, name)))
    if cutter.killed:
        discard = backend._discard

        def discard_if_alive(*arguments: Any) -> None:
            if not cutter.hit:
                discard(*arguments)

        backend._discard = discard_if_alive


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    space = make_space(tmp_path / "space")
    save(space, 1, {f"key-{number:05d}": b"v" * 200 for number in range(1000)})
    yield space
    space.close()


def left_over(backend: Any) -> list[str]:
    """What is in the place, and no snapshot needs."""
    listed = [item.manifest for item in backend.snapshots()]
    assert all(listed)
    if hasattr(backend, "blobs"):
        needed = {f"{manifest.number:010d}.json" for manifest in listed if manifest}
        needed |= {part.name for manifest in listed if manifest for part in manifest.parts}
        return sorted(set(backend.blobs.names()) - needed)

    async def rows() -> list[str]:
        db = await backend._writer()
        found = await (await db.scan_prefix(b"m", backend._all())).next_batch(1000)
        numbers = [int.from_bytes(row.key[1:], "big") for row in found]
        generations = await backend._generations(db)
        stray = [f"manifest {number}" for number in numbers if number not in {m.number for m in listed if m}]
        in_use = {int.from_bytes(row.value[:4], "little") for row in found}
        return stray + [f"generation {item}" for item in generations if item not in in_use]

    left: list[str] = backend._run(rows())
    return left


WAYS = [  # full, killed, done
    pytest.param(
        full, killed, done, id=f"{kind} {how} {when}", marks=[pytest.mark.long] if full is (killed is done) else []
    )
    for full, kind in ((True, "full"), (False, "incremental"))
    for killed, how in ((False, "fails"), (True, "is killed"))
    for done, when in ((False, "before"), (True, "after"))
]


@pytest.mark.timeout(600)  # some dozens of saves to a server, each verified
@pytest.mark.parametrize(("full", "killed", "done"), WAYS)
def test_a_save_that_is_cut_off_at_any_step_harms_nothing_and_leaves_nothing(
    place: Place, space: Space, tmp_path: Path, full: bool, killed: bool, done: bool  # noqa: F811
) -> None:
    step = 0
    while _has_step(place, space, tmp_path / f"{tmp_path.name}-{step}", step, full, killed, done):
        step += 1
    assert step >= 3


def _has_step(place: Place, space: Space, folder: Path, step: int, full: bool, killed: bool, done: bool) -> bool:  # noqa: F811
    """Cut off at this step, in a place of its own, which is closed then: SlateDB works on in each that is open."""
    folder.mkdir()
    own = Place(place.kind, place.options, folder)
    try:
        return _cut_at(own, space, folder / "other", step, full, killed, done)
    finally:
        own.close()


def _cut_at(place: Place, space: Space, folder: Path, step: int, full: bool, killed: bool, done: bool) -> bool:  # noqa: F811
    """Whether the save had such a step."""
    backend = place.open()
    cutter = Cutter(step, done, killed, backend.place)
    watch(backend, cutter)
    mine = keeper(space, backend, keep=KEPT)
    save(space, 1, {f"key-{number:05d}": b"%d" % step for number in range(0, 1000, 100)})
    save(space, 0, {f"short-lived-{step}": b"x"})
    mine.take("asked")
    save(space, 1, {"key-00007": b"first %d" % step})
    mine.take("asked")  # beyond KEPT: something is to be pruned from now on
    before = {item.number: item.manifest for item in backend.snapshots()}
    save(space, 0, {f"short-lived-{step}": None, f"middle-{step}": b"y"})
    if full:
        mine.last = None
    cutter.armed = True
    with contextlib.suppress(StoreError, Killed):
        mine.take("asked")
    cutter.armed = False

    _still_good(place, before)
    save(space, 0, {f"middle-{step}": None, "end": b"%d" % step})
    if killed:
        mine = keeper(space, place.open(), keep=KEPT)
    taken = mine.take("asked").manifest
    assert mine.backend.verify(taken.number) == taken
    save(space, 0, {"end": b"later %d" % step})
    last = mine.take("asked").manifest
    assert mine.backend.verify(last.number) == last
    assert restore_newest(mine.backend, folder / "space", SIZE, BOOT)
    other = open_space(folder / "space")
    assert content(other) == content(space)
    other.close()
    assert left_over(mine.backend) == []
    return cutter.hit


def _still_good(place: Place, before: dict[int, Any]) -> None:  # noqa: F811
    """What is listed now can be read, and the newest of before, which is never removed, is as it was."""
    backend = place.open()
    now = {item.number: item for item in backend.snapshots()}
    assert all(item.manifest is not None for item in now.values()), now
    newest = max(before)
    assert newest in now
    assert now[newest].manifest == before[newest]
    for number in now:
        if number >= newest:
            backend.verify(number)


def test_saves_that_are_killed_one_after_the_other_leave_no_more_than_the_last_of_them(
    place: Place, space: Space  # noqa: F811
) -> None:
    """Else a store that is killed during every save fills the place, and no save can succeed again to tidy it."""
    Keeper(space, place.open(), "test", 3, owner="0b0b0b0b").take("asked")
    left = []
    for _ in range(3):
        _killed_before_it_is_published(place, space, "0a0a0a0a")
        left.append(left_over(place.open()))
    assert left[0]
    assert [len(names) for names in left] == [len(left[0])] * 3


def _killed_before_it_is_published(place: Place, space: Space, owner: str) -> None:  # noqa: F811
    backend = place.open()
    publishes = "put" if hasattr(backend, "blobs") else "create_detached_checkpoint"
    cutter = Cutter(0, False, True, backend.place)
    watch(backend, cutter, (publishes,))
    cutter.armed = True
    with pytest.raises(Killed):
        Keeper(space, backend, "test", 3, owner=owner).take("asked")


def test_parts_of_another_writer_and_of_snapshots_that_are_there_stay(space: Space, tmp_path: Path) -> None:
    here = Place("directory", {}, tmp_path)
    _killed_before_it_is_published(here, space, "0a0a0a0a")
    foreign = left_over(here.open())
    assert foreign
    first = Keeper(space, here.open(), "test", 3, owner="0b0b0b0b")
    kept = first.take("asked").manifest
    (first.backend.spool / foreign[0]).write_bytes(b"it writes again")
    save(space, 1, {"key-00001": b"changed"})
    with pytest.raises(StoreError):
        _full(Keeper(space, here.open(), "test", 3, owner="0b0b0b0b")).take("asked")
    assert left_over(here.open()) == foreign[:1]
    assert here.open().verify(kept.number) == kept
    here.close()


def _full(keeper: Keeper) -> Keeper:
    """Its place takes nothing more."""
    def put_file(name: str, path: Path) -> None:
        raise SnapshotUnavailable(keeper.backend.place, "No space left on device")

    keeper.backend.blobs.put_file = put_file
    return keeper


def test_a_manifest_that_reads_differently_fails_the_snapshot(
    place: Place, space: Space, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    mine: Keeper = keeper(space, place.open())
    first = mine.take("asked").manifest
    with monkeypatch.context() as patch:
        patch.setattr(mine.backend, "stored", lambda number: first)
        save(space, 1, {"key-00001": b"changed"})
        with pytest.raises(StoreError, match="reads differently"):
            mine.take("asked")
    assert mine.take("asked").manifest.full


def test_copies_of_a_space_that_a_killed_process_left_are_removed(space: Space, tmp_path: Path) -> None:
    here = Place("directory", {}, tmp_path)
    backend = here.open()
    for folder in (backend.spool, space.folder.parent):
        (folder / "cut-123").mkdir()
        (folder / "cut-flowers").mkdir()
    keeper(space, backend)
    assert not list(tmp_path.rglob("cut-123"))
    assert len(list(tmp_path.rglob("cut-flowers"))) == 2
    here.close()
