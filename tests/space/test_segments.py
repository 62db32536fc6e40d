"""Large payloads lie in segments: shared by all receivers, never reused while anybody needs them."""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.kit import MB, Net, commit, staged

from noderuntime.errors import StoreFull, ValueTooLarge
from noderuntime.space import records, segments
from noderuntime.space.commit import Commits
from noderuntime.space.segments import (
    LAST_BYTES,
    SEGMENT_BYTES_MIN,
    THRESHOLD_BYTES,
    Dropped,
    SegmentPool,
    SegmentViews,
    referenced,
    size_class,
)
from noderuntime.space.staging import Staged

KB = 1024
FRAME = 200 * KB

DATAFLOW = {
    "camera": {"outputs": ["frame"]},
    "left": {"inputs": {"frame": "camera/frame"}},
    "right": {"inputs": {"frame": "camera/frame"}},
    "newest": {"inputs": {"frame": {"source": "camera/frame", "queue_size": 1, "queue_policy": "drop_oldest"}}},
}


class Sender:
    """The camera: `Payloads`, and what it sends."""

    def __init__(self, net: Net) -> None:
        self.commits = net.begin("camera")
        self.message_bytes_max = net.space.message_bytes_max
        self.event_bytes_max = net.space.event_bytes_max
        self.pool = SegmentPool(net.space, net.folder / "segments", self.commits.node)
        self.announced: list[set[int]] = []

    def announce(self, nodes: Collection[int]) -> None:
        self.announced.append(set(nodes))

    def send(self, value: Any) -> None:
        event = Staged()
        self.commits.outputs["frame"].stage(event, value, None, self)
        assert commit(self.commits, event) == 1
        for _, _, _, segment in event.outputs or ():
            if segment is not None:
                self.pool.done(segment)


@pytest.fixture
def net(shm: Path) -> Iterator[Net]:
    net = Net(shm, DATAFLOW, 16 * MB)
    yield net
    net.close()


@pytest.fixture
def sender(net: Net) -> Sender:
    return Sender(net)


@pytest.fixture
def views(net: Net) -> SegmentViews:
    return SegmentViews(net.space, net.folder / "segments")


def frame(number: int) -> np.ndarray[Any, Any]:
    return np.full(FRAME, number, dtype=np.uint8)


def see(views: SegmentViews, message: tuple[bytes, bytes]) -> Any:
    key, record = message
    assert record[1] == records.SEGMENT
    return records.decode_message(record, views.lease(key, records.reference_of(record)))[1]


def acknowledge(net: Net, commits: Commits) -> None:
    assert commit(commits, staged(commits, ack=net.messages(commits, 1)[0])) == 1


def files(net: Net) -> int:
    return len(list((net.folder / "segments").iterdir()))


def references(net: Net) -> int:
    with net.space.read() as txn:
        return sum(count for _, _, _, count in referenced(txn))


def test_all_receivers_share_one_segment_and_see_it_without_a_copy(
    net: Net, sender: Sender, views: SegmentViews
) -> None:
    sender.send(frame(7))
    assert (files(net), references(net)) == (1, 3)
    left = see(views, net.messages(net.begin("left"))[0])
    right = see(views, net.messages(net.begin("right"))[0])
    assert (left == 7).all()
    assert np.shares_memory(left, right)
    assert not left.flags.writeable


def test_receivers_are_announced_a_large_message_when_most_of_it_is_copied(net: Net, sender: Sender) -> None:
    left, right = (net.wirings[node].number for node in ("left", "right"))
    sender.send(b"small")
    assert sender.announced == []
    sender.send(frame(1))
    assert [nodes - {net.wirings["newest"].number} for nodes in sender.announced] == [{left, right}]
    large = np.ones(3 * MB, dtype=np.uint8)
    seen: list[np.ndarray[Any, Any]] = []

    def look() -> None:
        (segment,) = (item for pool in sender.pool._segments.values() for item in pool if item.size >= 3 * MB)
        seen.append(np.frombuffer(segment.map[: 3 * MB], dtype=np.uint8))

    sender.pool.fill(large.data, look)
    assert seen[0].sum() == 3 * MB - LAST_BYTES


def test_dtype_shape_metadata_and_small_values_are_as_without_segments(
    net: Net, sender: Sender, views: SegmentViews
) -> None:
    left = net.begin("left")
    sender.send(np.arange(60_000, dtype=">i4").reshape(300, 200).T)
    sender.send(b"x" * FRAME)
    sender.send(memoryview(b"y" * FRAME))
    sender.send(["a list", "z" * FRAME])
    sender.send(b"small")
    array, whole, view, listed, small = net.messages(left)
    assert (see(views, array) == np.arange(60_000, dtype=">i4").reshape(300, 200).T).all()
    assert see(views, whole) == b"x" * FRAME
    assert see(views, view) == b"y" * FRAME
    assert see(views, view).readonly
    assert see(views, listed) == ["a list", "z" * FRAME]
    assert small[1][1] == records.INLINE


def test_a_segment_is_not_reused_while_a_message_refers_to_it(net: Net, sender: Sender) -> None:
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    sender.send(frame(1))
    for receiver in receivers[:2]:
        acknowledge(net, receiver)
        sender.send(frame(2))
    assert files(net) == 2  # the third message took the segment of the first, which nobody had any more
    for receiver in receivers:
        while net.messages(receiver):
            acknowledge(net, receiver)
    assert references(net) == 0
    sender.send(frame(3))
    assert files(net) == 2


def test_a_segment_is_not_reused_while_a_view_of_it_lives(net: Net, sender: Sender, views: SegmentViews) -> None:
    left, right, newest = (net.begin(node) for node in ("left", "right", "newest"))
    sender.send(frame(1))
    kept = see(views, net.messages(left)[0])[100:200]
    for receiver in (left, right, newest):
        acknowledge(net, receiver)
    sender.send(frame(2))
    assert files(net) == 2
    assert (kept == 1).all()
    del kept
    gc.collect()
    views.work_off()
    for receiver in (left, right, newest):
        acknowledge(net, receiver)
    sender.send(frame(3))
    sender.send(frame(4))
    assert files(net) == 2


def test_with_many_messages_under_way_a_sender_does_not_look_at_the_segments_of_all(
    net: Net, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in ("right", "newest"):
        net.end(node)
    looks: list[int] = []
    look = SegmentPool._is_free
    monkeypatch.setattr(
        SegmentPool, "_is_free", lambda pool, txn, segment: looks.append(segment.number) or look(pool, txn, segment)
    )
    for number in range(150):
        sender.send(np.full(SEGMENT_BYTES_MIN, number, dtype=np.uint8))
    assert files(net) == 150
    assert len(looks) <= 16 * 150  # all: 11,175


def test_a_view_that_is_kept_for_long_does_not_hide_the_free_segments_behind_it(
    net: Net, sender: Sender, views: SegmentViews
) -> None:
    left = net.begin("left")
    for node in ("right", "newest"):
        net.end(node)
    kept = []
    counts = []
    for number in range(600):
        sender.send(frame(number % 200))
        if number < 5:
            kept.append(see(views, net.messages(left)[0]))
        acknowledge(net, left)
        counts.append(files(net))
    assert [int(view[-1]) for view in kept] == [0, 1, 2, 3, 4]
    assert counts[-1] == counts[200] <= 5 * len(kept)


def test_without_room_any_free_segment_is_found(net: Net, sender: Sender, views: SegmentViews) -> None:
    left = net.begin("left")
    for node in ("right", "newest"):
        net.end(node)
    with pytest.raises(StoreFull):
        while True:
            sender.send(frame(1))
    count, waiting = files(net), net.messages(left)
    assert len(waiting) > 10
    assert commit(left, staged(left, ack=waiting[len(waiting) // 2])) == 1
    sender.send(frame(2))
    assert files(net) == count
    assert (see(views, net.messages(left)[-1]) == 2).all()
    with pytest.raises(StoreFull):
        sender.send(frame(3))


def test_memory_that_was_given_back_holds_what_is_sent_next(net: Net, sender: Sender, views: SegmentViews) -> None:
    left = net.begin("left")
    for node in ("right", "newest"):
        net.end(node)
    for number in range(3):
        sender.send(frame(number))
        assert (see(views, net.messages(left)[0]) == number).all()
        acknowledge(net, left)
        gc.collect()
        views.work_off()
        assert sender.pool._give_back()[0] > 0
        assert taken(net) == 0
    assert files(net) == 1


def test_a_message_that_was_dropped_in_hand_is_not_read(net: Net, sender: Sender, views: SegmentViews) -> None:
    newest = net.begin("newest")
    sender.send(frame(1))
    in_hand = net.messages(newest)[0]
    sender.send(frame(2))
    with pytest.raises(Dropped):
        see(views, in_hand)
    assert (see(views, net.messages(newest)[0]) == 2).all()


def test_a_message_whose_segment_its_owner_only_looks_at_is_waited_for(
    net: Net, sender: Sender, views: SegmentViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = net.begin("left")
    sender.send(frame(5))
    (path,) = (net.folder / "segments").iterdir()
    with open(path, "rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_EX)
        monkeypatch.setattr(segments.time, "sleep", lambda seconds: fcntl.flock(looking, fcntl.LOCK_UN))
        assert (see(views, net.messages(left)[0]) == 5).all()


def test_dropped_discarded_and_emptied_messages_let_go_of_their_segments(net: Net, sender: Sender) -> None:
    newest = net.begin("newest")
    for number in range(3):
        sender.send(frame(number))
    assert references(net) == 7
    net.end("left")
    net.end("right")
    assert references(net) == 1
    sender.send(frame(4))
    assert references(net) == 1
    acknowledge(net, newest)
    assert references(net) == 0


def test_the_payload_counts_in_the_bytes_of_its_queue(net: Net, sender: Sender) -> None:
    sender.send(frame(1))
    assert net.figures("left")["inputs"]["frame"]["bytes"] > FRAME
    acknowledge(net, net.begin("left"))
    assert net.figures("left")["inputs"]["frame"]["bytes"] == 0


def test_an_allocated_array_is_sent_without_a_copy_and_cannot_be_written_afterwards(
    net: Net, sender: Sender, views: SegmentViews
) -> None:
    array = sender.pool.allocate((100, KB))
    array[:] = 5
    sender.send(array)
    assert files(net) == 1
    assert (see(views, net.messages(net.begin("left"))[0]) == 5).all()
    assert not array.flags.writeable
    with pytest.raises(ValueError):
        array[0, 0] = 6


def test_a_part_of_an_allocated_array_or_another_view_of_it_is_copied(
    net: Net, sender: Sender, views: SegmentViews
) -> None:
    array = sender.pool.allocate((200, KB))
    array[:] = np.arange(200, dtype=np.uint8)[:, None]
    sender.send(array[100:])
    sender.send(array.T)
    assert files(net) == 3
    first, second = net.messages(net.begin("left"))
    assert (see(views, first) == array[100:]).all()
    assert (see(views, second) == array.T).all()


class Own(np.ndarray[Any, Any]):
    pass


def still_written(array: np.ndarray[Any, Any]) -> bool:
    try:
        array[...] = 9
    except ValueError:
        return False
    return True


FORMS: dict[str, Callable[[Any], list[Any]]] = {  # the array to send, and what the sender keeps
    "the beginning": lambda array: [array[:100], array],
    "all of it, with slices that were made before": lambda array: [array, array[:50], array[60:]],
    "the beginning, with a slice that was made before": lambda array: [array[:100], array[20:30], array],
    "only a slice is kept": lambda array: [array[:100]],
    "another shape": lambda array: [array.reshape(-1), array],
    "another type": lambda array: [array.view("<u2"), array],
    "a view of a view": lambda array: [array[:150][:120], array],
    "a transposed one is kept": lambda array: [array, array.T],
    "a subclass": lambda array: [array.view(Own), array],
    "an array made of a subclass": lambda array: [np.asarray(array.view(Own)), array],
}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_sent_is_not_changed_by_its_sender_whatever_view_of_it_the_sender_keeps(
    net: Net, sender: Sender, views: SegmentViews, form: str
) -> None:
    array = sender.pool.allocate((200, KB))
    array[:] = 5
    sent, *kept = FORMS[form](array)
    del array
    held = sent.copy()
    sender.send(sent)
    for each in (sent, *kept):
        still_written(each)
    found = see(views, net.messages(net.begin("left"))[0])
    assert bytes(memoryview(found).cast("B")) == held.tobytes()


@pytest.mark.parametrize("form", ["the beginning", "only a slice is kept", "another shape", "another type"])
def test_views_of_an_allocated_array_from_its_beginning_are_sent_without_a_copy(
    net: Net, sender: Sender, form: str
) -> None:
    array = sender.pool.allocate((200, KB))
    sent, *kept = FORMS[form](array)
    del array
    sender.send(sent)
    assert files(net) == 1
    assert not any(map(still_written, (sent, *kept)))


def test_an_allocated_array_may_be_filled_through_views_and_sent_again(net: Net, sender: Sender) -> None:
    array = sender.pool.allocate((200, KB))
    for row in array:
        row[:] = 3
    np.multiply(array[:, ::2], 2, out=array[:, ::2])
    del row
    for _ in range(2):
        sender.send(array)
    assert files(net) == 1


def test_an_allocated_array_that_is_never_sent_gives_its_segment_back(net: Net, sender: Sender) -> None:
    array = sender.pool.allocate(FRAME)
    sender.send(frame(1))
    assert files(net) == 2
    del array
    gc.collect()
    sender.send(frame(2))
    assert files(net) == 2


def test_an_allocated_array_keeps_its_segment_after_its_message_is_gone(net: Net, sender: Sender) -> None:
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    array = sender.pool.allocate(FRAME)
    array[:] = 1
    sender.send(array)
    for receiver in receivers:
        acknowledge(net, receiver)
    sender.send(frame(2))
    assert (array == 1).all()


def test_a_new_life_adopts_the_segments_of_the_one_before(net: Net, sender: Sender) -> None:
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    sender.send(frame(1))
    sender.pool.close()
    (net.folder / "segments" / f"{sender.commits.node}-9").write_bytes(b"")  # made, but not allocated yet
    successor = Sender(net)
    successor.send(frame(2))
    assert files(net) == 2
    for receiver in receivers:
        while net.messages(receiver):
            acknowledge(net, receiver)
    successor.send(frame(3))
    assert files(net) == 2


def test_what_an_old_life_still_fills_is_not_given_to_the_new_one(net: Net, sender: Sender) -> None:
    filling = sender.pool.take(FRAME)
    successor = Sender(net)
    assert successor.pool.take(FRAME).number != filling.number


def test_no_room_is_store_full_and_leaves_nothing(net: Net, sender: Sender) -> None:
    with pytest.raises(StoreFull, match="no room for a payload"):
        for _ in range(100):
            sender.send(frame(1))
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    count = files(net)
    for receiver in receivers:
        while net.messages(receiver):
            acknowledge(net, receiver)
    sender.send(frame(2))
    assert files(net) == count


def test_who_waits_for_room_finds_out_whether_there_is_some_without_taking_it(net: Net, sender: Sender) -> None:
    assert sender.pool.has_room(), "nothing was ever sent"
    with pytest.raises(StoreFull, match="no room for a payload"):
        for _ in range(100):
            sender.send(frame(1))
    count = files(net)
    assert not sender.pool.has_room()
    again = SegmentPool(net.space, net.folder / "segments", sender.commits.node)  # of the next life
    assert not again.has_room()
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    for receiver in receivers:
        while net.messages(receiver):
            acknowledge(net, receiver)
    for _ in range(50):
        assert sender.pool.has_room() and again.has_room()
    sender.send(frame(2))
    assert files(net) == count
    again.close()


def taken(net: Net) -> int:
    """Bytes of memory that segments take."""
    return sum(path.stat().st_blocks * 512 for path in (net.folder / "segments").iterdir())


def test_the_limit_is_one_for_all_senders(net: Net, sender: Sender) -> None:
    other = SegmentPool(net.space, net.folder / "segments", 99)
    kept = [other.take(FRAME) for _ in range(25)]
    with pytest.raises(StoreFull, match="no room for a payload"):
        for _ in range(100):
            sender.send(frame(1))
    assert taken(net) < net.space.size_bytes * 3 // 4
    for segment in kept:
        other.done(segment)
    other.close()


def test_a_sender_of_which_nothing_is_under_way_may_always_send_one_event(net: Net, sender: Sender) -> None:
    """Else what waits in its mailbox could never leave it, and nobody would ever make room."""
    other = SegmentPool(net.space, net.folder / "segments", 99)
    kept = []
    with pytest.raises(StoreFull):
        while True:
            kept.append(other.take(FRAME))
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    for number in range(3):
        for segment in [sender.pool.fill(bytes(FRAME)), sender.pool.fill(bytes(FRAME))]:  # an event that sends two
            sender.pool.done(segment)
        sender.send(frame(number))
        sender.send(frame(number))
        with pytest.raises(StoreFull):
            sender.send(frame(number))
        for receiver in receivers:
            while net.messages(receiver):
                acknowledge(net, receiver)
    assert files(net) == len(kept) + 2
    other.close()


def test_free_segments_of_another_size_give_way(net: Net, sender: Sender, views: SegmentViews) -> None:
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    with pytest.raises(StoreFull):
        for _ in range(200):
            sender.send(np.zeros(FRAME // 2, dtype=np.uint8))
    full = taken(net)
    for receiver in receivers:
        while net.messages(receiver):
            acknowledge(net, receiver)
    for number in (1, 2):
        sender.send(np.full(FRAME * 5, number, dtype=np.uint8))
        sender.send(np.full(FRAME // 2, number, dtype=np.uint8))
    assert taken(net) <= full
    for value, size in ((1, FRAME * 5), (1, FRAME // 2), (2, FRAME * 5), (2, FRAME // 2)):
        message = net.messages(receivers[0])[0]
        seen = see(views, message)
        assert len(seen) == size and (seen == value).all()
        acknowledge(net, receivers[0])


def test_what_gave_its_memory_back_is_used_again_by_a_new_life(net: Net, sender: Sender) -> None:
    receivers = [net.begin(node) for node in ("left", "right", "newest")]
    with pytest.raises(StoreFull):
        for _ in range(200):
            sender.send(np.zeros(FRAME // 2, dtype=np.uint8))
    for receiver in receivers:
        while net.messages(receiver):
            acknowledge(net, receiver)
    sender.send(frame(1))
    count = files(net)
    sender.pool.close()
    successor = Sender(net)
    successor.send(np.ones(FRAME // 2, dtype=np.uint8))
    assert files(net) == count


def test_a_smaller_payload_takes_a_larger_segment_before_it_waits(net: Net, sender: Sender) -> None:
    large = sender.pool.take(FRAME)
    sender.pool.done(large)
    other = SegmentPool(net.space, net.folder / "segments", 99)
    with pytest.raises(StoreFull):
        for _ in range(100):
            other.take(FRAME)
    kept = [sender.pool.take(FRAME)]
    assert kept[0] is large
    sender.pool.done(large)
    assert sender.pool.take(FRAME // 2).size <= large.size
    other.close()


def test_a_message_larger_than_an_eighth_of_the_space_is_refused(net: Net, sender: Sender) -> None:
    with pytest.raises(ValueTooLarge, match="a message to 'frame'"):
        sender.send(bytes(2 * MB + 1))
    assert sender.commits.outputs["frame"].sent == 0


@pytest.mark.parametrize("length", [1, THRESHOLD_BYTES, THRESHOLD_BYTES + 1, 98_304, 98_305, 131_072, 4 * MB, 5 * MB])
def test_a_size_class_wastes_at_most_half(length: int) -> None:
    assert max(length, SEGMENT_BYTES_MIN) <= size_class(length) <= max(2 * length, SEGMENT_BYTES_MIN)


def test_closed_views_leave_no_descriptor_and_no_lock(net: Net, sender: Sender) -> None:
    """As the store closes those of a node without LMDB that died with a large message in hand."""
    left = net.begin("left")
    sender.send(frame(1))
    before = len(os.listdir("/proc/self/fd"))
    views = SegmentViews(net.space, net.folder / "segments")
    kept = see(views, net.messages(left)[0])[100:200]
    views.close()
    assert len(os.listdir("/proc/self/fd")) > before and is_locked(net)  # somebody still looks at it
    del kept
    del views
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before and not is_locked(net)


def is_locked(net: Net) -> bool:
    (path,) = (net.folder / "segments").iterdir()
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
