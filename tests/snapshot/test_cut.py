from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.spaces import BOOT, content, delete, keeper, make_space, put_message, put_shared, read_all, save

from noderuntime.api import values
from noderuntime.snapshot import cut as cuts
from noderuntime.snapshot.blobs import BlobBackend
from noderuntime.snapshot.cut import SpaceTooFull, open_cut
from noderuntime.snapshot.directory import DirectoryBlobs
from noderuntime.snapshot.restore import restore_newest
from noderuntime.space import keys, kvs, lives, records
from noderuntime.space.environment import Space, open_space, scan
from noderuntime.space.segments import Segment, SegmentPool, SegmentViews, adjust, register

SIZE = 64 << 20


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    space = make_space(tmp_path / "space")
    yield space
    space.close()


@pytest.fixture
def backend(tmp_path: Path) -> BlobBackend:
    return BlobBackend(DirectoryBlobs(tmp_path / "kept"), tmp_path / "kept")


def restored(backend: BlobBackend, folder: Path, number: int | None = None) -> Space:
    assert restore_newest(backend, folder, SIZE, BOOT, number)
    return open_space(folder)


def test_a_restored_space_holds_what_the_cut_held(space: Space, backend: BlobBackend, tmp_path: Path) -> None:
    save(space, 1, {"total": b"5050"})
    put_shared(space, "alarm", b"on")
    put_message(space, 1, 0, {"n": 3})
    keeper(space, backend).take("asked")
    other = restored(backend, tmp_path / "other")
    assert content(other) == content(space)
    other.close()


def test_what_is_committed_after_the_cut_is_not_in_it(space: Space, backend: BlobBackend, tmp_path: Path) -> None:
    save(space, 1, {"total": b"1"})
    with open_cut(space) as cut:
        save(space, 1, {"total": b"2"})
        walked = cut.walk(tmp_path, "x", None, None)
    assert walked.parts
    data = b"".join(path.read_bytes() for _, path in walked.parts)
    assert records.PRIVATE.pack(cut.sequence) + b"1" in data
    assert records.PRIVATE.pack(cut.sequence + 1) + b"2" not in data


def test_a_restore_raises_the_sequence_above_everything_in_it(
    space: Space, backend: BlobBackend, tmp_path: Path
) -> None:
    for number in range(20):
        save(space, 1, {"n": b"%d" % number})
    message = put_message(space, 1, 0, "old")
    taken = keeper(space, backend).take("asked").manifest
    other = restored(backend, tmp_path / "other")
    new = put_message(other, 1, 0, "new")
    assert keys.parse_message(new)[2] > taken.cut >= keys.parse_message(message)[2]
    other.close()


def test_the_clock_of_a_restored_space_goes_on(space: Space, backend: BlobBackend, tmp_path: Path) -> None:
    taken = keeper(space, backend).take("asked").manifest
    other = restored(backend, tmp_path / "other")
    assert other.clock[0] == space.clock[0]
    assert other.now_ns() >= taken.clock_ns
    other.close()


@pytest.mark.parametrize("outputs", [0, 1, 2, 5])
def test_inputs_with_a_timeout_start_to_wait_anew_after_a_restore_and_nothing_else_of_a_node_changes(
    space: Space, backend: BlobBackend, tmp_path: Path, outputs: int
) -> None:
    late = 1 << 60
    node = {
        "id": "sums", "kind": "operator", "outputs": [f"o{number}" for number in range(outputs)],
        "inputs": [["n", "numbers/n"], ["m", "numbers/n"], ["tick", ""]],
    }  # fmt: skip
    counters = [0] * 20
    for number in range(outputs):
        counters[records.output_counter(number)] = 40 + number
    for number in range(2):  # when the last message came, and that the input has timed out since
        counters[records.input_counter(number)], counters[records.input_counter(number) + 1] = late, 1
    counters[records.input_counter(2)] = 7
    with space.write() as txn:
        lives.register(txn, [{"id": "numbers", "kind": "operator", "inputs": [], "outputs": ["n"]}, node])
        txn.put(keys.node(1), records.NodeRecord(3, records.LIVE, 7, counters).pack())
    keeper(space, backend).take("asked")
    other = restored(backend, tmp_path / "other")
    with other.read() as txn:
        record = lives.node_record(txn, 1)
    for number in range(2):
        assert 0 < record.counters[records.input_counter(number)] < late
        counters[records.input_counter(number)] = record.counters[records.input_counter(number)]
    assert record.counters == counters
    assert (record.incarnation, record.status, record.commit) == (3, records.LIVE, 7)
    other.close()


def test_what_clients_were_answered_is_not_kept(space: Space, backend: BlobBackend) -> None:
    with space.write() as txn:
        txn.put(keys.request("runtime-1"), b"...")
    number = keeper(space, backend).take("asked").manifest.number
    assert keys.request("runtime-1") not in read_all(backend, number)


def test_an_incremental_snapshot_holds_what_has_changed_and_what_is_gone(
    space: Space, backend: BlobBackend, tmp_path: Path
) -> None:
    save(space, 1, {f"k{number}": b"v" * 100 for number in range(1000)})
    put_shared(space, "old", b"1")
    message = put_message(space, 1, 0, "in flight")
    mine = keeper(space, backend)
    full = mine.take("asked").manifest
    save(space, 1, {"k3": b"changed", "k4": None, "new": b"here"})
    put_shared(space, "young", b"2")
    delete(space, message)
    put_message(space, 1, 0, "next")
    second = mine.take("asked").manifest
    assert full.full
    assert second.chain == (full.number,)
    assert second.size_bytes < full.size_bytes / 20
    other = restored(backend, tmp_path / "other")
    assert content(other) == content(space)
    other.close()


def test_a_change_that_a_lowered_history_writes_again_is_in_the_next_snapshot(
    space: Space, backend: BlobBackend, tmp_path: Path
) -> None:
    """Forgetting a deletion alters the digest that the newest change of the log tells, under the key that it has."""
    save(space, 1, {f"k{number}": b"v" * 100 for number in range(1000)})
    with space.write() as txn:
        changes = kvs.Changes(txn, space.base + txn.id(), space.now_ns(), space.origin)
        for key in ("gone", "here"):
            changes.write(kvs.SharedWrite(keys.user_key(key), b"1"))
        changes.write(kvs.SharedWrite(keys.user_key("gone"), None))
        changes.write(kvs.SharedWrite(keys.user_key("last"), b"2"))
        changes.finish()
    mine = keeper(space, backend)
    mine.take("asked")
    with space.read() as txn:
        before = dict(scan(txn, keys.CHANGE_PREFIX))
    with space.write() as txn:
        kvs.prepare(txn, history=1, ttl_ns=0)
        kvs.Changes(txn, space.base + txn.id(), space.now_ns(), space.origin).finish()
    with space.read() as txn:
        after = dict(scan(txn, keys.CHANGE_PREFIX))
    assert [key for key in after if after[key] != before[key]]
    number = mine.take("asked").manifest.number
    backend.verify(number)
    other = restored(backend, tmp_path / "other", number)
    assert content(other) == content(space)
    other.close()


def test_one_percent_of_change_costs_about_one_percent_of_the_bytes(space: Space, backend: BlobBackend) -> None:
    save(space, 1, {f"key-{number:06d}": b"v" * 200 for number in range(20_000)})
    mine = keeper(space, backend)
    full = mine.take("asked").manifest
    save(space, 1, {f"key-{number:06d}": b"w" * 200 for number in range(0, 20_000, 100)})
    second = mine.take("asked").manifest
    assert second.size_bytes < 0.02 * full.size_bytes


def test_any_history_of_full_and_incremental_snapshots_restores_each_cut(
    space: Space, backend: BlobBackend, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    mine = keeper(space, backend, keep=100)
    wanted: dict[int, dict[bytes, bytes]] = {}
    messages: list[bytes] = []
    save(space, 0, {f"k{number}": b"x" * 500 for number in range(200)})
    for _ in range(12):
        for _ in range(dice.randrange(1, 8)):
            key = f"k{dice.randrange(220)}"
            save(space, dice.randrange(2), {key: dice.choice([None, dice.randbytes(dice.randrange(80))])})
            put_shared(space, f"s{dice.randrange(5)}", dice.randbytes(9))
            messages.append(put_message(space, 1, 0, dice.randrange(1000)))
            if dice.random() < 0.5:
                delete(space, messages.pop(dice.randrange(len(messages))))
        wanted[mine.take("asked").manifest.number] = content(space)
    chains = [item.manifest.chain for item in backend.snapshots() if item.manifest]
    assert any(chains), seed
    for number, held in wanted.items():
        other = restored(backend, tmp_path / f"other-{number}", number)
        assert content(other) == held, seed
        other.close()


def test_a_snapshot_of_a_restored_space_can_be_restored(space: Space, backend: BlobBackend, tmp_path: Path) -> None:
    save(space, 1, {"total": b"1"})
    keeper(space, backend).take("asked")
    second = restored(backend, tmp_path / "second")
    save(second, 1, {"total": b"2"})
    keeper(second, backend).take("asked")
    third = restored(backend, tmp_path / "third")
    assert content(third) == content(second)
    assert third.base > second.base > space.base
    second.close()
    third.close()


def test_a_cut_is_consistent_while_writers_go_on(space: Space, backend: BlobBackend, tmp_path: Path) -> None:
    """Two keys are always written together; in no snapshot do they differ."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            save(space, 0, {"a": b"%d" % number, "b": b"%d" % number})

    writer = threading.Thread(target=write)
    writer.start()
    mine = keeper(space, backend, keep=100)
    try:
        numbers = [mine.take("asked").manifest.number for _ in range(20)]
    finally:
        stop.set()
        writer.join()
    prefix = keys.private_prefix(0)
    for number in numbers:
        found = read_all(backend, number)
        a, b = found.get(prefix + b"a"), found.get(prefix + b"b")
        assert a == b


def test_a_walk_stops_when_the_space_grows_too_much_meanwhile(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "GROWTH_MARK", 0.001)
    save(space, 1, {f"k{number}": b"v" * 900 for number in range(5000)})
    with open_cut(space) as cut:
        for start in range(0, 5000, 500):
            save(space, 1, {f"k{number}": b"w" * 900 for number in range(start, start + 500)})
        with pytest.raises(SpaceTooFull, match="put off"):
            cut.walk(tmp_path, "x", None, None)
    assert not list(tmp_path.glob("*.part"))


def test_a_space_that_is_too_full_to_be_walked_is_copied_first_and_gives_the_same_snapshot(
    space: Space, backend: BlobBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(space, 1, {f"k{number}": b"v" * 900 for number in range(5000)})
    mine = keeper(space, backend)
    mine.take("asked")
    save(space, 1, {"k7": b"changed", "k8": None})
    looks: list[cuts.Cut] = []

    def too_full(cut: cuts.Cut) -> None:
        looks.append(cut)
        if cut._grown is None:
            raise SpaceTooFull(0.9)

    monkeypatch.setattr(cuts.Cut, "_look", too_full)
    second = mine.take("asked").manifest
    assert len({id(cut) for cut in looks}) == 2
    assert second.chain
    assert second.size_bytes < 10_000
    assert not list(tmp_path.glob("cut-*"))
    other = restored(backend, tmp_path / "other")
    assert content(other) == content(space)
    other.close()


def test_the_growth_during_a_walk_is_reported(space: Space, tmp_path: Path) -> None:
    save(space, 1, {f"k{number}": b"v" * 900 for number in range(2000)})
    with open_cut(space) as cut:
        save(space, 1, {f"k{number}": b"w" * 900 for number in range(2000)})
        save(space, 1, {f"k{number}": b"x" * 900 for number in range(2000)})
        walked = cut.walk(tmp_path, "x", None, None)
    assert walked.growth_bytes > 1_000_000


def test_a_run_whose_nodes_have_all_ended_is_marked_as_finished(space: Space, backend: BlobBackend) -> None:
    mine = keeper(space, backend)
    assert not mine.take("asked").manifest.finished
    with space.write() as txn:
        graph = lives.load(txn)
        for vertex in graph.values():
            lives.end(txn, space, graph, [vertex], failed=None)
    assert mine.take("end").manifest.finished


def test_payload_segments_of_messages_in_flight_come_back(
    space: Space, backend: BlobBackend, tmp_path: Path
) -> None:
    body = random.Random(1).randbytes(2_500_000)
    pool = SegmentPool(space, tmp_path / "segments", 0)
    key, segment = _send(space, pool, body)
    mine = keeper(space, backend)
    first = mine.take("asked").manifest
    _send(space, pool, b"x" * 100_000)
    second = mine.take("asked").manifest
    assert second.size_bytes < 200_000 < first.size_bytes
    folder = tmp_path / "machine-2" / "space"
    other = restored(backend, folder)
    with other.read() as txn:
        message = txn.get(key)
    views = SegmentViews(other, tmp_path / "machine-2" / "segments")
    assert views.lease(key, records.reference_of(message)).tobytes() == body
    adopted = SegmentPool(other, tmp_path / "machine-2" / "segments", 0)
    assert adopted.take(len(body)).number != segment.number
    adopted.close()
    pool.close()
    other.close()


def test_a_segment_that_nothing_refers_to_any_more_is_not_restored(
    space: Space, backend: BlobBackend, tmp_path: Path
) -> None:
    pool = SegmentPool(space, tmp_path / "segments", 0)
    key, _ = _send(space, pool, b"y" * 100_000)
    mine = keeper(space, backend)
    mine.take("asked")
    with space.write() as txn:
        adjust(txn, records.reference_of(txn.get(key)), -1)
        txn.delete(key)
    mine.take("asked")
    other = restored(backend, tmp_path / "machine-2" / "space")
    assert not list((tmp_path / "machine-2" / "segments").glob("*"))
    pool.close()
    other.close()


def _send(space: Space, pool: SegmentPool, body: bytes) -> tuple[bytes, Segment]:
    segment = pool.fill(body)
    with space.write() as txn:
        key = keys.message(1, 0, space.base + txn.id(), 0)
        head = records.pack_message(values.BYTES, records.SEGMENT, 0, 0, 1, 0)
        txn.put(key, head + segment.reference(len(body)))
        register(txn, segment, 1)
    pool.done(segment)
    return key, segment
