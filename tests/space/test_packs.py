"""Packs: a mailbox that holds them is, message by message, one that holds none."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.kit import CHAIN, MB, Make, commit, send, shown, staged, take
from support.spaces import make_space

from noderuntime.api.values import BYTES
from noderuntime.errors import StoreError
from noderuntime.space import environment, keys, mailbox, packs, records
from noderuntime.space.ahead import Ahead
from noderuntime.space.environment import Space, open_space, scan
from noderuntime.space.mailbox import Removal
from noderuntime.space.records import BYTES as QUEUE_BYTES
from noderuntime.space.records import DROPPED, MARK_SEQUENCE, QUEUED
from noderuntime.space.writer import MessageGone

LIMIT = 10**9


def parcels_of(sends: list[tuple[int, bytes]]) -> list[packs.Parcel]:
    indexes, messages = [index for index, _ in sends], [record for _, record in sends]
    return packs.parcels(indexes, messages, sum(map(len, messages)), any(record[1] for record in messages))


def message(size: int, number: int) -> bytes:
    return records.pack_message(BYTES, records.INLINE, 0, 0, number, 0) + bytes([number % 251]) * size


# --- the layout -----------------------------------------------------------------------------------------------------

SIZES = st.lists(st.sampled_from([0, 1, 60, 700, 2000, 5000, 16_000, 60_000]), min_size=1, max_size=300)


@given(SIZES, st.integers(0, 10**6), st.integers(1, 1000))
def test_parcels_hold_the_messages_in_their_order(sizes: list[int], first: int, step: int) -> None:
    sends = [(first + step * at, message(size, at)) for at, size in enumerate(sizes)]
    found = []
    for index, record, is_pack in parcels_of(sends):
        key = keys.message(1, 2, 3, index)
        if not is_pack:
            found.append((key, record))
            continue
        assert len(record) <= packs.PACK_BYTES_MAX
        pack = packs.Pack(key + keys.PACK_MARK, record)
        assert pack.count > 1
        found += packs.messages(key, record)
        assert packs.whole(key, record) == (pack.count, pack.size(0, pack.count), pack.last)
        assert [pack.position(pack.index(at)) for at in range(pack.count)] == list(range(pack.count))
    assert found == [(keys.message(1, 2, 3, index), record) for index, record in sends]


def test_small_messages_of_one_commit_are_one_record() -> None:
    sends = [(at, message(64, at)) for at in range(128)]
    assert [(index, is_pack) for index, _, is_pack in parcels_of(sends)] == [(0, True)]


def test_messages_that_have_pages_of_their_own_lie_alone() -> None:
    assert [is_pack for _, _, is_pack in parcels_of([(at, message(5000, at)) for at in range(3)])] == [False] * 3
    mixed = [(at, message(60_000 if at == 4 else 1000, at)) for at in range(8)]
    assert [(index, is_pack) for index, _, is_pack in parcels_of(mixed)] == [(0, True), (4, False), (5, True)]


def test_messages_with_a_segment_are_in_no_pack() -> None:
    large = records.pack_message(BYTES, records.SEGMENT, 0, 0, 1, 0) + bytes(22)
    sends = [(0, message(1, 0)), (1, message(1, 1)), (2, large), (3, large), (4, message(1, 4))]
    assert [(index, is_pack) for index, _, is_pack in parcels_of(sends)] == [
        (0, True), (2, False), (3, False), (4, False),
    ]  # fmt: skip


def test_all_receivers_of_an_output_get_the_same_record(make: Make) -> None:
    net = make({"a": {"outputs": ["out"]}, **{f"r{n}": {"inputs": {"in": "a/out"}} for n in range(4)}})
    send(net.begin("a"), *range(30))
    with net.space.read() as txn:
        found = list(scan(txn, b"m"))
    assert len({record for _, record in found}) == 1
    assert [keys.is_pack(key) for key, _ in found] == [True] * 4
    assert [net.queued(f"r{n}", "in") for n in range(4)] == [list(range(30))] * 4
    places = [key[5:] for n in range(4) for key, _ in net.messages(net.begin(f"r{n}"))]
    assert len(set(places)) == 120


# --- against a list -------------------------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.lists(st.sampled_from([0, 10, 1500, 3000, 9000]), min_size=1, max_size=12)),
        st.tuples(st.just("front"), st.integers(1, 15)),
        st.tuples(st.just("any"), st.lists(st.integers(0, 40), min_size=1, max_size=8)),
        st.tuples(st.just("move"), st.lists(st.integers(0, 40), min_size=1, max_size=20)),
        st.tuples(st.just("again"), st.lists(st.integers(0, 40), min_size=1, max_size=8)),
        st.tuples(st.just("drop"), st.integers(0, 12)),
        st.tuples(st.just("notice"), st.just(0)),
        st.tuples(st.just("forget"), st.just(0)),
        st.tuples(st.just("empty"), st.just(0)),
    ),
    max_size=25,
)
NODES = itertools.count(1)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    space = make_space(tmp_path_factory.mktemp("packs") / "space", 64 * MB)
    yield space
    space.close()


class Box:
    """A mailbox, and the list that it should be. `written`: all records that it ever had."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.node = next(NODES) % keys.NODES_MAX
        self.prefix = keys.mailbox(self.node, 0)
        self.queue_key = keys.queue(self.node, 0)
        self.waiting: list[tuple[bytes, bytes]] = []
        self.gone: list[tuple[bytes, bytes]] = []
        self.written: dict[bytes, bytes] = {}
        self.dropped = 0
        self.number = 0

    def play(self, what: str, how: object) -> None:
        with self.space.write() as txn:
            queue = mailbox.queue_of(txn, self.queue_key)
            sequence = self.space.base + txn.id()
            getattr(self, what)(txn, queue, sequence, how)
            txn.put(self.queue_key, records.pack_queue(queue))
        self.check()

    def send(self, txn, queue, sequence, sizes) -> None:  # type: ignore[no-untyped-def]
        sends = []
        for at, size in enumerate(sizes):
            self.number += 1
            sends.append((3 * at + 1, message(size, self.number)))
        for index, record, is_pack in parcels_of(sends):
            txn.put(keys.message(self.node, 0, sequence, index) + keys.PACK_MARK * is_pack, record)
        for index, record in sends:
            queue[QUEUED] += 1
            queue[QUEUE_BYTES] += len(record)
            self.waiting.append((keys.message(self.node, 0, sequence, index), record))

    def notice(self, txn, queue, sequence, how) -> None:  # type: ignore[no-untyped-def]
        key, record = keys.message(self.node, 0, sequence, 0), records.encode_notice(records.NODE_RESTARTED, "x", "", 0)
        txn.put(key, record)
        self.waiting.append((key, record))

    def front(self, txn, queue, sequence, count) -> None:  # type: ignore[no-untyped-def]
        self.remove(txn, queue, self.waiting[:count])

    def any(self, txn, queue, sequence, places) -> None:  # type: ignore[no-untyped-def]
        self.remove(txn, queue, [self.waiting[at] for at in dict.fromkeys(places) if at < len(self.waiting)])

    def move(self, txn, queue, sequence, places) -> None:  # type: ignore[no-untyped-def]
        """As `any`, but nobody asks for them any more. What remains of a pack is a pack, but for its first message."""
        chosen = [item for at, item in enumerate(self.waiting) if at in places and item[1][0] < records.NOTICE_MIN]
        before = len(list(scan(txn, self.prefix)))
        freed, size = mailbox.remove(txn, self.prefix, queue, Removal(chosen), releases=False, moves=True)
        assert (freed, size) == (len(chosen), sum(len(record) for _, record in chosen))
        large = sum(len(record) > packs.MESSAGE_BYTES_MAX for _, record in self.waiting)  # may lie alone from now on
        assert len(list(scan(txn, self.prefix))) <= 2 * before + 2 * large
        queue[QUEUED] -= freed
        queue[QUEUE_BYTES] -= size
        self.waiting = [item for item in self.waiting if item not in chosen]

    def former(self, places: list[int]) -> list[tuple[bytes, bytes]]:
        return [self.gone[-1 - at] for at in dict.fromkeys(places) if at < len(self.gone)]

    def remove(self, txn, queue, chosen, gone=()) -> None:  # type: ignore[no-untyped-def]
        removal = Removal([*chosen, *gone])
        real = [record for _, record in chosen if record[0] < records.NOTICE_MIN]
        freed, size = mailbox.remove(txn, self.prefix, queue, removal)
        assert (freed, size) == (len(real), sum(map(len, real)))
        assert removal.count == len(real) + sum(record[0] < records.NOTICE_MIN for _, record in gone)
        queue[QUEUED] -= freed
        queue[QUEUE_BYTES] -= size
        self.gone += chosen
        self.waiting = [item for item in self.waiting if item not in chosen]

    def drop(self, txn, queue, sequence, keep) -> None:  # type: ignore[no-untyped-def]
        mailbox.drop_oldest(txn, self.prefix, queue, keep, LIMIT, 0)
        real = [item for item in self.waiting if item[1][0] < records.NOTICE_MIN]
        dropped = real[: max(0, len(real) - keep)]
        self.dropped += len(dropped)
        self.gone += dropped
        self.waiting = [item for item in self.waiting if item not in dropped]

    def forget(self, txn, queue, sequence, how) -> None:  # type: ignore[no-untyped-def]
        mailbox.remove_notices(txn, self.prefix, (records.NODE_RESTARTED,))
        self.waiting = [item for item in self.waiting if item[1][0] < records.NOTICE_MIN]

    def empty(self, txn, queue, sequence, how) -> None:  # type: ignore[no-untyped-def]
        real = sum(record[0] < records.NOTICE_MIN for _, record in self.waiting)
        assert mailbox.empty(txn, self.prefix, queue) == real
        self.gone += [item for item in self.waiting if item[1][0] < records.NOTICE_MIN]
        self.waiting = []

    def check(self) -> None:
        with self.space.read() as txn:
            queue = mailbox.queue_of(txn, self.queue_key)
            assert list(mailbox.messages(txn, self.prefix)) == self.waiting
            for key, record in self.waiting[:3] + self.waiting[-3:]:
                assert mailbox.find(txn, key) == record
            for key, _ in self.gone[-8:]:
                assert mailbox.find(txn, key) is None
            for known in ([*self.waiting, *self.gone], self.waiting[1::2], self.gone[::3]):
                places = sorted(mailbox.by_place(message) for message in known)
                there = [message for message in self.waiting if message in known]
                assert mailbox.present(txn, self.prefix, places) == there
            stored = dict(scan(txn, self.prefix))
        for key, record in stored.items():
            assert self.written.setdefault(key, record) == record, "a record was written anew under its key"
        real = [record for _, record in self.waiting if record[0] < records.NOTICE_MIN]
        assert queue[: DROPPED + 1] == [len(real), sum(map(len, real)), 0, self.dropped]
        if not any(keys.is_pack(key) for key in stored):
            assert not queue[MARK_SEQUENCE]
        for limit in (1, 7, 1000):
            assert mailbox.next_messages(self.space, [self.prefix], limit) == self.waiting[:limit]
        taken = {key for key, _ in self.waiting[::2]}
        assert mailbox.next_messages(self.space, [self.prefix], 5, taken) == self.waiting[1::2][:5]


def _play(box: Box, operations: list[tuple[str, object]]) -> None:
    for what, how in operations:
        if what == "again":
            gone = box.former(how)  # type: ignore[arg-type]
            with box.space.write() as txn:
                queue = mailbox.queue_of(txn, box.queue_key)
                box.remove(txn, queue, box.waiting[:4], gone)
                txn.put(box.queue_key, records.pack_queue(queue))
            box.check()
        else:
            box.play(what, how)


@given(operations=OPERATIONS)
@example(operations=[("send", [0, 1500, 3000, 0]), ("move", [3])])
def test_a_mailbox_with_packs_does_what_a_list_does(space: Space, operations: list[tuple[str, object]]) -> None:
    _play(Box(space), operations)


@given(ones=st.lists(st.lists(st.integers(1, 12), max_size=6), min_size=2, max_size=4), limit=st.integers(1, 30))
def test_several_inputs_are_read_in_the_order_in_which_their_messages_were_sent(
    space: Space, ones: list[list[int]], limit: int
) -> None:
    boxes = [Box(space) for _ in ones]
    everything = []
    for turn in itertools.zip_longest(*ones):
        for box, count in zip(boxes, turn, strict=True):
            if count is not None:
                before = len(box.waiting)
                box.play("send", [1] * count)
                everything += box.waiting[before:]
    prefixes = [box.prefix for box in boxes]
    assert mailbox.next_messages(space, prefixes, limit) == everything[:limit]
    ahead = Ahead(space, prefixes)
    found: list[tuple[bytes, bytes]] = []
    while more := ahead.read(limit):
        found += more
        assert found == everything[: len(found)]
        if len(found) % 3 == 0:  # one more comes in the meantime, and what was handled goes
            box = boxes[len(found) % len(boxes)]
            if len(everything) < 300:
                box.play("send", [1])
                everything.append(box.waiting[-1])
    assert found == everything
    taken = {key for key, _ in everything[::3]}
    left = [item for item in everything if item[0] not in taken]
    assert mailbox.next_messages(space, prefixes, limit, taken) == left[:limit]


# --- a dataflow -----------------------------------------------------------------------------------------------------


def test_the_front_of_a_pack_is_acknowledged_without_moving_it(make: Make) -> None:
    net = make(CHAIN)
    send(net.begin("a"), *range(10))
    b = net.begin("b")
    with net.space.read() as txn:
        before = list(scan(txn, b"m"))
    for number in range(9):
        assert take(net, b) == number
        with net.space.read() as txn:
            assert list(scan(txn, b"m")) == before
        assert net.queue("b", "in")[QUEUED] == 9 - number
    assert take(net, b) == 9
    with net.space.read() as txn:
        assert not list(scan(txn, b"m"))
        assert len(txn.get(keys.queue(1, 0)) or b"") == struct.calcsize("<6Q")


def test_messages_of_a_pack_that_are_acknowledged_out_of_order_leave_the_others_waiting(make: Make) -> None:
    net = make(CHAIN)
    send(net.begin("a"), *range(10))
    b = net.begin("b")
    found = net.messages(b)
    commit(b, *[staged(b, ack=found[at]) for at in (7, 3, 4)])
    assert net.queued("b", "in") == [0, 1, 2, 5, 6, 8, 9]
    commit(b, staged(b, ack=found[0]))
    commit(b, staged(b, ack=found[8]), staged(b, ack=found[1]))
    assert net.queued("b", "in") == [2, 5, 6, 9]
    assert net.queue("b", "in")[:4] == [4, sum(len(found[at][1]) for at in (2, 5, 6, 9)), 6, 0]


def test_a_dead_letter_out_of_a_pack_leaves_the_others_with_their_attempts(make: Make) -> None:
    net = make(CHAIN)
    send(net.begin("a"), *range(6))
    b = net.begin("b")
    places = [list(keys.parse_message(key)[1:]) for key, _ in net.messages(b)]
    net.claim("b", "raised", True, places[2:3])
    net.claim("b", "raised", True, places[2:4], max_attempts=2)
    assert net.queued("b", "in") == [0, 1, 3, 4, 5]
    found = net.claim("b", "raised", True, [])["attempts"]
    assert found == [[*places[3], 1]]
    (letter,) = net.ask("letters_ls", node="b")["letters"]
    assert letter["uid"] == "a/out#3"
    net.ask("letters_replay", node="b", uids=[])
    assert net.queued("b", "in") == [0, 1, 3, 4, 5, 2]


def test_dead_letters_of_two_inputs_never_meet(make: Make) -> None:
    net = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"x": "a/out", "y": "a/out"}}})
    send(net.begin("a"), *range(3))
    b = net.begin("b")
    places = [list(keys.parse_message(key)[1:]) for key, _ in net.messages(b)]
    net.claim("b", "raised", True, places, max_attempts=1)
    letters = net.ask("letters_ls", node="b")["letters"]
    assert sorted((letter["input"], letter["uid"]) for letter in letters) == [
        (input, f"a/out#{number}") for input in "xy" for number in (1, 2, 3)
    ]
    with net.space.read() as txn:
        assert all(key[-2:] in (b"\0\0", b"\0\1") for key, _ in scan(txn, b"d"))


# --- the format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 2000], ids=["one pack", "several packs"])
def test_packs_that_are_not_committed_leave_nothing(make: Make, count: int) -> None:
    net = make(CHAIN)
    a, b = net.begin("a"), net.begin("b")
    event = staged(a, *[("out", number) for number in range(count)])
    gone = staged(b, ack=(keys.message(1, 0, 77, 0), message(1, 1)))
    event.ack = gone.ack[0], b.inputs["in"], gone.ack[2]  # comes after the packs, and is refused
    with pytest.raises(MessageGone):
        commit(a, event)
    assert net.queued("b", "in") == []
    event.ack = None
    commit(a, event)
    assert len(net.queued("b", "in")) == count


def test_a_space_of_a_later_format_is_refused(tmp_path: Path) -> None:
    space = make_space(tmp_path / "space")
    with space.write() as txn:
        txn.put(keys.fact("format"), bytes([environment.FORMAT + 1]))
    space.close()
    with pytest.raises(StoreError, match="has format 4; this noderuntime reads 1, 2, 3"):
        open_space(tmp_path / "space")


def test_several_messages_of_one_event_are_a_pack_too(make: Make) -> None:
    net = make(CHAIN)
    a = net.begin("a")
    commit(a, staged(a, ("out", 1), ("out", 2), ("out", 3)))
    with net.space.read() as txn:
        assert [keys.is_pack(key) for key, _ in scan(txn, b"m")] == [True]
    assert [shown(record) for _, record in net.messages(net.begin("b"))] == [1, 2, 3]


def test_of_a_group_that_does_not_fit_what_fits_is_a_pack(make: Make) -> None:
    net = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": {"source": "a/out", "queue_size": 5}}}})
    assert send(net.begin("a"), *range(8)) == 5
    with net.space.read() as txn:
        assert [keys.is_pack(key) for key, _ in scan(txn, b"m")] == [True]
    assert net.queued("b", "in") == [0, 1, 2, 3, 4]
