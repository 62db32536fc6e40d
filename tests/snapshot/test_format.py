from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot.format import (
    GONE,
    RECORDS,
    KeyIndex,
    Manifest,
    Part,
    PartWriter,
    parse_manifest,
    read_frames,
)

MANIFEST = Manifest(
    run="r", fingerprint="f", number=3, writer="ab", why="asked", created_ns=1, base=0, cut=9, wall_ns=1, clock_ns=2,
    keys=4, keys_crc=5, finished=False, counts={"a": {"outputs": {"x": 3}}}, parts=(Part("p", RECORDS, 1, "s", 1),),
)  # fmt: skip


def part_of(records: list[tuple[bytes, bytes]]) -> tuple[Part, bytes]:
    file = io.BytesIO()
    writer = PartWriter(file, RECORDS)
    for key, value in records:
        writer.add_record(key, value)
    return writer.finish("part"), file.getvalue()


def read(part: Part, data: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for items in read_frames("7", part, [data[at : at + 1000] for at in range(0, len(data), 1000)]):
        found += zip(items[::2], items[1::2], strict=True)
    return found


def test_a_manifest_comes_back_as_it_was() -> None:
    again = parse_manifest("3", MANIFEST.pack())
    assert again == MANIFEST
    assert again.sha256


@given(at=st.integers(0, len(MANIFEST.pack()) - 1), bit=st.integers(0, 7))
def test_any_bit_that_flips_in_a_manifest_is_noticed(at: int, bit: int) -> None:
    stored = bytearray(MANIFEST.pack())
    stored[at] ^= 1 << bit
    with pytest.raises(SnapshotCorrupt):
        parse_manifest("3", bytes(stored))


@given(length=st.integers(0, len(MANIFEST.pack()) - 1))
def test_a_truncated_manifest_is_noticed(length: int) -> None:
    with pytest.raises(SnapshotCorrupt):
        parse_manifest("3", MANIFEST.pack()[:length])


def test_a_manifest_of_another_format_is_refused_by_its_version() -> None:
    with pytest.raises(SnapshotCorrupt, match="format 99"):
        parse_manifest("3", replace(MANIFEST, format=99).pack())


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=3000)), max_size=30))
def test_records_come_back_as_they_were(records: list[tuple[bytes, bytes]]) -> None:
    part, data = part_of(records)
    assert read(part, data) == records
    assert part.size_bytes == len(data)


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_bit_that_flips_in_a_part_is_noticed(at: int, bit: int) -> None:
    part, data = part_of([(b"k%d" % number, b"v" * 50) for number in range(20)])
    altered = bytearray(data)
    altered[at % len(altered)] ^= 1 << bit
    with pytest.raises(SnapshotCorrupt):
        read(part, bytes(altered))


@given(st.integers(0, 10_000))
def test_a_part_that_is_cut_off_is_noticed(length: int) -> None:
    part, data = part_of([(b"k%d" % number, b"v" * 50) for number in range(20)])
    with pytest.raises(SnapshotCorrupt):
        read(part, data[: length % len(data)])


def test_a_part_with_bytes_behind_it_is_noticed() -> None:
    part, data = part_of([(b"k", b"v")])
    with pytest.raises(SnapshotCorrupt):
        read(part, data + b"x")


def test_a_part_of_another_snapshot_under_the_same_name_is_noticed() -> None:
    part, _ = part_of([(b"k", b"v")])
    _, other = part_of([(b"k", b"w")])
    with pytest.raises(SnapshotCorrupt, match="checksum"):
        read(part, other)


def test_keys_that_are_gone_come_back() -> None:
    file = io.BytesIO()
    writer = PartWriter(file, GONE)
    for number in range(10):
        writer.add_key(b"%d" % number)
    part = writer.finish("p")
    found = [key for items in read_frames("1", part, [file.getvalue()]) for key in items]
    assert found == [b"%d" % number for number in range(10)]


def test_the_key_index_gives_all_keys_in_order_with_their_records_crc_and_takes_little_memory() -> None:
    index = KeyIndex()
    records = [(b"p\0\1str:%08d" % number, number * 2654435761 % (1 << 32)) for number in range(50_000)]
    for key, record_crc in records:
        index.add(key, record_crc)
    index.finish()
    assert list(index) == records
    assert index.count == 50_000
    assert index.content == sum(record_crc for _, record_crc in records)
    assert index.size_bytes < 12 * 50_000


def test_manifests_of_older_formats_are_read_and_written_as_they_were() -> None:
    for version, missing in ((1, (b'"content"', b'"run_id"')), (2, (b'"run_id"',))):
        old = replace(MANIFEST, format=version, content=None)
        packed = old.pack()
        assert not any(name in packed for name in missing)
        assert parse_manifest("3", packed) == old
    assert b'"run_id"' in MANIFEST.pack()
