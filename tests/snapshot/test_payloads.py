"""Payloads of large messages in snapshots: what is restored is what was sent, or the snapshot is known to be bad."""

from __future__ import annotations

import random
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.spaces import BOOT, keeper, make_space, save

from noderuntime.api import values
from noderuntime.errors import SnapshotCorrupt, StoreError
from noderuntime.snapshot import cut as cuts
from noderuntime.snapshot.blobs import BlobBackend
from noderuntime.snapshot.directory import DirectoryBlobs
from noderuntime.snapshot.keeper import Keeper
from noderuntime.snapshot.proof import DIGEST_BYTES, chunk_key, parse_chunk
from noderuntime.snapshot.restore import restore_newest
from noderuntime.space import keys, records
from noderuntime.space.environment import Space, open_space, scan
from noderuntime.space.segments import Segment, SegmentPool, adjust, read_segment, register

SIZE = 64 << 20
FORMAT_1 = Path(__file__).parent / "kept" / "format-1.tar.gz"


class World:
    """A space with a sender and a receiver, and a plain record of what must come back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.space = make_space(root / "machine-1" / "space", SIZE)
        self.pool = SegmentPool(self.space, root / "machine-1" / "segments", 0)
        self.backend = BlobBackend(DirectoryBlobs(root / "kept"), root / "kept")
        self.keeper = keeper(self.space, self.backend, keep=1000)
        self.arrays: list[np.ndarray[Any, Any]] = []
        self.sent: dict[bytes, bytes] = {}  # by the key of the message or dead letter
        save(self.space, 1, {"big": b"v" * 70_000})  # so that an incremental snapshot is worth it

    def send(self, array: np.ndarray[Any, Any]) -> None:
        segment = self.pool.segment_of(array)
        if segment is None:
            segment = self.pool.fill(array.tobytes())
        self.put(segment, array.nbytes)
        self.pool.done(segment)

    def put(self, segment: Segment, length: int) -> None:
        with self.space.write() as txn:
            key = keys.message(1, 0, self.space.base + txn.id(), 0)
            head = records.pack_message(values.BYTES, records.SEGMENT, 0, 0, 1, 0)
            txn.put(key, head + segment.reference(length))
            register(txn, segment, 1)
        self.sent[key] = bytes(segment.map[:length])

    def bury(self, key: bytes) -> None:
        _, input, sequence, index = keys.parse_message(key)
        dead = keys.dead(1, sequence, index, input)
        with self.space.write() as txn:
            letter = {"input": "n", "uid": "numbers/n#1", "message": txn.get(key), "error": "", "trace": "",
                      "attempts": 3, "buried_ns": 0}  # fmt: skip
            txn.put(dead, msgpack.packb(letter))
            txn.delete(key)
        self.sent[dead] = self.sent.pop(key)

    def drop(self, key: bytes) -> None:
        with self.space.write() as txn:
            adjust(txn, reference(key, txn.get(key)), -1)
            txn.delete(key)
        del self.sent[key]

    def cut(self, full: bool) -> int:
        if full:
            self.keeper.last = None
        return self.keeper.take("asked").manifest.number

    def restored(self, number: int) -> dict[bytes, bytes]:
        """The bodies of what refers to payloads, in a space made from that snapshot."""
        folder = self.root / f"machine-{number + 1}"
        assert restore_newest(self.backend, folder / "space", SIZE, BOOT, number)
        found = bodies(folder)
        shutil.rmtree(folder)
        return found

    def close(self) -> None:
        self.pool.close()
        self.space.close()


def reference(key: bytes, record: bytes) -> bytes:
    return records.reference_of(msgpack.unpackb(record)["message"] if key[:1] == b"d" else record)


def bodies(folder: Path) -> dict[bytes, bytes]:
    space = open_space(folder / "space")
    try:
        with space.read() as txn:
            found = [(key, reference(key, value)) for kind in (b"m", b"d") for key, value in scan(txn, kind)]
        return {key: read_segment(folder / "segments", place) for key, place in found}
    finally:
        space.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(64, 300)),
        st.tuples(st.just("send"), st.integers(0, 9), st.integers(64, 300)),
        st.tuples(st.just("copy"), st.integers(64, 300)),
        st.tuples(st.just("forget"), st.integers(0, 9)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.tuples(st.just("bury"), st.integers(0, 9)),
        st.tuples(st.just("cut"), st.booleans()),
    ),
    max_size=25,
)


@given(steps=STEPS, seed=st.integers(0, 1 << 16))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_is_sent_dropped_and_cut_each_snapshot_gives_back_what_was_sent(
    steps: list[tuple[Any, ...]], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths in KiB. An allocation is sent as a whole, and its beginning, as often as it comes."""
    monkeypatch.setattr(cuts, "SEGMENT_CHUNK", 100 << 10)
    dice = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="payloads-") as root:
        world = World(Path(root))
        try:
            for what, *given_ in [*steps, ("cut", False)]:
                _step(world, dice, what, *given_)
        finally:
            world.close()


def _step(world: World, dice: np.random.Generator, what: str, at: int = 0, length: int = 0) -> None:
    chosen = list(world.sent)[at % len(world.sent)] if world.sent else b""
    if what == "allocate":
        array = world.pool.allocate(at << 10)
        array[:] = dice.integers(0, 256, array.size, dtype="uint8")
        world.arrays.append(array)
    elif what == "copy":
        world.send(dice.integers(0, 256, at << 10, dtype="uint8"))
    elif what == "send" and world.arrays:
        world.send(world.arrays[at % len(world.arrays)][: length << 10])
    elif what == "forget" and world.arrays:
        del world.arrays[at % len(world.arrays)]
    elif what == "drop" and chosen:
        world.drop(chosen)
    elif what == "bury" and chosen[:1] == b"m":
        world.bury(chosen)
    elif what == "cut":
        number = world.cut(full=bool(at))
        world.backend.verify(number)
        assert world.restored(number) == world.sent


def test_a_payload_whose_beginning_was_sent_before_is_restored_as_a_whole(world: World) -> None:
    array = world.pool.allocate(600_000)
    array[:] = 7
    world.send(array[:100_000])
    world.cut(full=True)
    world.send(array)
    second = world.cut(full=False)
    assert world.restored(second) == world.sent
    assert max(map(len, world.sent.values())) == 600_000


def test_a_dead_letter_keeps_all_of_its_payload_beside_a_message_with_its_beginning(world: World) -> None:
    array = world.pool.allocate(600_000)
    array[:] = 7
    world.send(array)
    world.bury(next(iter(world.sent)))
    world.send(array[:100_000])
    assert world.restored(world.cut(full=True)) == world.sent


def test_a_payload_that_changes_after_it_was_copied_is_copied_again(world: World) -> None:
    """A sender that does what it must not: the next snapshot tells what is there now, and is whole."""
    segment = world.pool.fill(b"a" * 100_000)
    world.put(segment, 100_000)
    world.cut(full=True)
    segment.map[5:6] = b"X"
    second = world.cut(full=False)
    (body,) = world.restored(second).values()
    assert body[:7] == b"aaaaaXa"


def test_payloads_that_have_not_changed_cost_an_incremental_snapshot_nothing(world: World) -> None:
    world.send(np.frombuffer(random.Random(1).randbytes(2_000_000), dtype="uint8"))
    world.cut(full=True)
    world.cut(full=False)
    newest = world.backend.snapshots()[0].manifest
    assert newest is not None
    assert newest.chain
    assert newest.size_bytes < 10_000


def test_a_payload_that_is_shorter_than_its_message_says_fails_the_snapshot(world: World) -> None:
    segment = world.pool.fill(b"a" * 100_000)
    world.put(segment, 100_000)
    with world.space.write() as txn:
        key = next(iter(world.sent))
        record = txn.get(key)
        short = replace_length(record, segment.size + 1)
        txn.put(key, short)
    with pytest.raises(StoreError, match="payload 0-0 has"):
        world.cut(full=True)
    assert not list(world.backend.spool.glob("*.part"))


def replace_length(record: bytes, length: int) -> bytes:
    return record[:-8] + length.to_bytes(8, "little")


# --- what a snapshot says about itself ------------------------------------------------------------------------------


class Forger(Keeper):
    """Leaves something out, or puts something else, in what is published next."""

    def take_without(self, why: str, **changed: Any) -> int:
        save_as_it_is = self.backend.save
        self.backend.save = lambda manifest, walked: save_as_it_is(  # type: ignore[method-assign]
            replace(manifest, **changed), walked
        )
        try:
            return super().take(why).manifest.number
        finally:
            self.backend.save = save_as_it_is  # type: ignore[method-assign]


def test_a_snapshot_whose_values_are_not_those_of_its_cut_is_not_used(world: World) -> None:
    forger = Forger(world.space, world.backend, "test", 10)
    number = forger.take_without("asked", content=12345)
    with pytest.raises(SnapshotCorrupt, match="other values"):
        world.backend.verify(number)
    with pytest.raises(SnapshotCorrupt, match="other values"):
        world.restored(number)


def test_a_record_that_is_written_again_under_its_key_is_in_the_next_snapshot(world: World) -> None:
    """No key is trusted to be written once."""
    key = keys.message(1, 0, 1, 0)
    for value in ("first", "later"):
        with world.space.write() as txn:
            txn.put(key, records.encode_message(value, None, 1, 0)[0])
        number = world.cut(full=value == "first")
    folder = world.root / "other"
    assert restore_newest(world.backend, folder / "space", SIZE, BOOT, number)
    other = open_space(folder / "space")
    with other.read() as txn:
        assert records.decode_message(txn.get(key))[1] == "later"
    other.close()


def test_the_key_of_a_chunk_tells_its_payload_and_proves_its_bytes() -> None:
    key = chunk_key((3, 5, 7), 1 << 20, b"body")
    assert parse_chunk(key) == ((3, 5, 7), 1 << 20)
    other = chunk_key((3, 5, 7), 1 << 20, b"bodY")
    assert key[:-DIGEST_BYTES] == other[:-DIGEST_BYTES]
    assert key != other


# --- snapshots of format 1 ------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> BlobBackend:
    """1, 2 (on 1): payloads of 80,000 and 90,000 bytes. 3, 4 (on 3): 600,000 bytes whose beginning was sent before."""
    with tarfile.open(FORMAT_1) as archive:
        archive.extractall(tmp_path, filter="data")
    return BlobBackend(DirectoryBlobs(tmp_path / "kept"), tmp_path / "kept")


def test_snapshots_of_format_1_are_restored(old: BlobBackend, tmp_path: Path) -> None:
    assert [item.problem for item in old.snapshots()] == ["", "", "", ""]
    for number, lengths in ((1, [80_000]), (2, [80_000, 90_000])):
        old.verify(number)
        folder = tmp_path / f"machine-{number}"
        assert restore_newest(old, folder / "space", SIZE, BOOT, number)
        assert list(bodies(folder).values()) == [b"y" * length for length in lengths]


def test_a_snapshot_of_format_1_that_lacks_a_part_of_a_payload_is_not_used(old: BlobBackend, tmp_path: Path) -> None:
    with pytest.raises(SnapshotCorrupt, match="payload 0-2 has 100000 bytes, and a message refers to 600000"):
        old.verify(4)
    restored = restore_newest(old, tmp_path / "other" / "space", SIZE, BOOT)
    assert restored is not None
    assert restored.manifest.number == 3
    assert "payload 0-2" in restored.skipped[0]


def test_a_snapshot_on_top_of_old_ones_is_a_full_one(old: BlobBackend, tmp_path: Path) -> None:
    folder = tmp_path / "other" / "space"
    assert restore_newest(old, folder, SIZE, BOOT)
    space: Space = open_space(folder)
    taken = keeper(space, old, keep=10).take("asked").manifest
    assert taken.full
    assert old.verify(taken.number) == taken
    space.close()
