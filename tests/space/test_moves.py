"""Replicas come and go while messages flow, in the space: nothing is lost, nothing counted twice, per key in order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgpack
import pytest
from support import scaling
from support.kit import Net, Place, StoreRefused, commit, send, staged
from test_replica_mailboxes import flow, replicas

from noderuntime.api.keyed.slots import slot_of
from noderuntime.errors import Fenced, StoreError
from noderuntime.runtime.plan import store_nodes
from noderuntime.space import by_slot, keys, lives, records, routing, taps
from noderuntime.space.commit import Commits
from noderuntime.space.environment import Space, scan
from noderuntime.space.mailbox import messages
from noderuntime.space.routing import Rescaled
from noderuntime.space.segments import SegmentPool
from noderuntime.space.staging import Staged
from noderuntime.space.transactions import ReadTxn, WriteTxn

Make = Callable[..., Net]


class Replica:
    """What the process of a replica does: it counts the messages of each key, and sends (key, count, n) on."""

    def __init__(self, net: Net, id: str) -> None:
        self.net, self.id = net, id
        self.commits: Commits
        self.begin()

    def begin(self) -> None:
        self.commits = self.net.begin(self.id)
        self.group: list[Staged] = []
        self.staged: dict[bytes, int] = {}
        self.hands: set[bytes] = set()  # what was handled, by its key

    def handle(self, limit: int) -> int:
        """Handle messages that wait, without a commit. Returns whether there was something to do."""
        found = [item for item in self.net.messages(self.commits) if item[0] not in self.hands][:limit]
        self.commits.look()
        if self.commits.moved:
            self.start_over()
            return 1
        for key, record in found:
            self._handle((key, record))
        return len(found)

    def _handle(self, message: tuple[bytes, bytes]) -> None:
        self.hands.add(message[0])
        value = value_of(self.net, message[1])
        if value is None:
            self.group.append(staged(self.commits, ack=message))
            return
        wiring = self.commits.wiring
        with self.net.space.read() as txn:
            owned = routing.owners_of(txn, wiring.state_number, len(wiring.replicas) or 1)
            place = keys.keyed(wiring.state_number, slot_of(value["k"]), str(value["k"]).encode())
            stored = txn.get(place)
        assert owned[slot_of(value["k"])] == wiring.replica, (self.id, value)
        count = self.staged.get(place, int(stored[records.PRIVATE_BYTES :]) if stored else 0) + 1
        self.staged[place] = count
        event = staged(self.commits, ("out", {"k": value["k"], "count": count, "n": value["n"]}), ack=message)
        event.private = {place: str(count).encode()}
        self.group.append(event)

    def commit(self) -> None:
        while self.group:
            try:
                done = commit(self.commits, *self.group)
            except Rescaled:
                self.start_over()
                return
            del self.group[:done]
        self.hands.clear()
        self.staged.clear()

    def start_over(self) -> None:
        self.group.clear()
        self.staged.clear()
        self.hands.clear()
        self.commits.start_over()


class OnePool(Place):
    """As in a process: one pool, which knows what is staged."""

    def __init__(self, commits: Commits) -> None:
        super().__init__(commits)
        self._pool = super().pool

    @property
    def pool(self) -> SegmentPool:
        return self._pool


class Sender:
    """A node whose messages wait for their commit while slots move."""

    def __init__(self, net: Net, id: str) -> None:
        self.net, self.id, self.number = net, id, 0
        self.begin()

    def begin(self) -> None:
        self.commits = self.net.begin(self.id)
        self.place = OnePool(self.commits)
        self.group: list[tuple[Staged, list[dict[str, Any]]]] = []

    def stage(self, dice: random.Random) -> None:
        values = []
        for _ in range(dice.choice([1, 1, 2, 5])):
            self.number += 1
            value = {"k": dice.randrange(25), "n": [self.id, self.number]}
            if dice.random() < 0.05:
                value["pad"] = b"x" * 100_000  # in a segment
            values.append(value)
        event = Staged()
        for value in values:
            self.commits.outputs["out"].stage(event, value, None, self.place)
        self.group.append((event, values))

    def commit(self) -> list[dict[str, Any]]:
        """Commit what is staged; returns it."""
        sent: list[dict[str, Any]] = []
        while self.group:
            done = commit(self.commits, *(event for event, _ in self.group))
            if not done:
                return sent
            for event, values in self.group[:done]:
                for _, _, _, segment in event.outputs or ():
                    if segment is not None:
                        self.place.pool.done(segment)
                sent += values
            del self.group[:done]
        return sent


def value_of(net: Net, record: bytes) -> Any:
    """What a message or notice is; None for a notice."""
    kind, value, _, _, _ = records.decode_message(record, routing.body_of(net.space, record))
    return None if kind >= records.NOTICE_MIN else value


def waiting(net: Net, node: str, input: str) -> list[Any]:
    """The messages that wait in one input, in order."""
    ids = net.numbers[node]["number"], net.numbers[node]["inputs"][input]
    with net.space.read() as txn:
        found = [value_of(net, record) for _, record in messages(txn, keys.mailbox(*ids))]
    return [value for value in found if value is not None]


def check_queues(net: Net, count: int) -> None:
    """Queues count what is in them, and what is in them belongs to them."""
    with net.space.read() as txn:
        owned = routing.owners_of(txn, net.numbers["s"]["number"], count)
    assert set(owned) <= set(range(count))
    for replica, node in enumerate(replicas(count)):
        for input in ("x", "y"):
            found = waiting(net, node, input)
            assert net.queue(node, input)[records.QUEUED] == len(found)
            assert {owned[slot_of(value["k"])] for value in found} <= {replica}


def moved(make: Make, seed: int, **of_input: Any) -> tuple[Net, list[dict[str, Any]], int]:
    """Let senders and replicas work while the number of replicas changes, until nothing waits. Returns what was sent,
    and how many replicas there are then. `of_input`: of the input that a feeds.
    """
    dice = random.Random(seed)
    count = dice.choice([1, 2, 3])
    net = make(flow(count, **of_input))
    senders = [Sender(net, "a"), Sender(net, "b")]
    alive = {id: Replica(net, id) for id in replicas(count)}
    sent: list[dict[str, Any]] = []

    def change() -> None:
        nonlocal count
        wanted = dice.choice([number for number in (1, 2, 3, 4, 5) if number != count])
        parts = dice.choice([0, 1, 3, 1000])
        if wanted < count:
            for _ in range(parts):
                sizes = {"bytes_max": dice.choice([1, 10_000, 1_000_000]), "read_max": dice.choice([1, 20, 5000])}
                if not scaling.move(net, "s", wanted, **sizes):
                    break
        scaling.switch(net, flow(wanted, **of_input))
        for id in set(alive) - set(replicas(wanted)):
            gone = alive.pop(id)
            with pytest.raises(Fenced):
                commit(gone.commits, *(gone.group or [Staged()]))
        scaling.settle(net)
        for id in set(replicas(wanted)) - set(alive):
            alive[id] = Replica(net, id)
        count = wanted
        check_queues(net, count)

    for _ in range(250):
        what = dice.random()
        sender = dice.choice(senders)
        replica = alive[dice.choice(sorted(alive))]
        if what < 0.35:
            sender.stage(dice)
        elif what < 0.55:
            sent += sender.commit()
        elif what < 0.75:
            replica.handle(dice.choice([1, 3, 100]))
        elif what < 0.88:
            replica.commit()
        elif what < 0.91:  # it is killed
            replica.begin()
        elif what < 0.97:
            sizes = {"bytes_max": dice.choice([1, 10_000, 1_000_000]), "read_max": dice.choice([1, 20, 5000])}
            scaling.move(net, "s", count, **sizes)
            check_queues(net, count)
        else:
            change()
    for sender in senders:
        sent += sender.commit()
        assert commit(sender.commits, staged(sender.commits, ends=True)) == 1
    while True:
        left = scaling.move(net, "s", count)
        worked = [replica.handle(100) for replica in alive.values()]
        for replica in alive.values():
            replica.commit()
        if not any(worked) and not left:
            break
    check_queues(net, count)
    assert waiting(net, "p", "x") == [value for value in sent if value["n"][0] == "a"]
    return net, sent, count


def check_keys(got: list[dict[str, Any]]) -> None:
    """Each key has counted each of its messages, and those of each sender came in order."""
    for key in range(25):
        of_key = [value for value in got if value["k"] == key]
        assert [value["count"] for value in of_key] == list(range(1, len(of_key) + 1))
        for sender in "ab":
            numbers = [value["n"][1] for value in of_key if value["n"][0] == sender]
            assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("seed", range(30))
def test_each_message_is_handled_once_and_per_key_in_order_whatever_moves_meanwhile(make: Make, seed: int) -> None:
    net, sent, _ = moved(make, seed)
    got = waiting(net, "c", "in")
    assert Counter(map(str, (value["n"] for value in got))) == Counter(map(str, (value["n"] for value in sent)))
    check_keys(got)


@pytest.mark.parametrize("seed", range(20))
def test_what_an_input_drops_while_slots_move_is_counted_and_nothing_else_is_missing(make: Make, seed: int) -> None:
    """Also what is dropped while a replica has it in hand, and then gives it up because its slot has moved."""
    net, sent, count = moved(make, seed, queue_policy="drop_oldest", queue_size=1 + seed % 5)
    got = waiting(net, "c", "in")
    check_keys(got)
    found, everything = [{str(value["n"]) for value in values} for values in (got, sent)]
    missing = [value for value in sent if str(value["n"]) not in found]
    assert found <= everything and {value["n"][0] for value in missing} == {"a"}  # the other input keeps all
    queues = [net.queue(id, "x") for id in replicas(count)]
    assert sum(queue[records.DROPPED] for queue in queues) == len(missing)
    assert sum(queue[records.TAKEN] for queue in queues) == sum(value["n"][0] == "a" for value in got)
    assert all(queue[records.DROPPED] >= 0 and not queue[records.QUEUED] for queue in queues)


@pytest.mark.parametrize("as_applied", [False, True])
def test_a_resume_evens_out_slots_that_were_on_their_way(make: Make, as_applied: bool) -> None:
    net = make(flow(3))
    a, dice = Sender(net, "a"), random.Random(1)
    for _ in range(30):
        a.stage(dice)
    a.commit()
    net.begin("s")
    before = [value for node in replicas(3) for value in waiting(net, node, "x")]
    scaling.move(net, "s", 1)
    assert not waiting(net, "s[1]", "x") and not waiting(net, "s[2]", "x")
    net.ask(
        "open", nodes=store_nodes(net.dataflow), fingerprint="f", fresh=False, resume=True, as_applied=as_applied
    )
    check_queues(net, 3)
    with net.space.read() as txn:
        shares = Counter(routing.owners_of(txn, net.numbers["s"]["number"], 3))
    assert sorted(shares.values()) == [85, 85, 86]
    after = [value for node in replicas(3) for value in waiting(net, node, "x")]
    assert sorted(map(str, after)) == sorted(map(str, before))


def without_s() -> dict[str, Any]:
    return {id: node for id, node in flow().items() if id in ("a", "b", "p")}


def at_owners(net: Net, count: int) -> list[list[Any]]:
    """What waits at each replica; all of it must be in slots that it owns."""
    with net.space.read() as txn:
        owned = routing.owners_of(txn, net.numbers["s"]["number"], count)
    found = [waiting(net, node, "x") for node in replicas(count)]
    assert [{owned[slot_of(value["k"])] for value in values} for values in found] == [{at} for at in range(count)]
    return found


def test_a_resume_leaves_what_waits_for_replicas_that_a_change_has_added_with_the_owners_of_its_slots(
    make: Make,
) -> None:
    net = make(without_s())
    scaling.switch(net, flow(3))
    send(net.begin("a"), *({"k": number % 20, "n": number} for number in range(60)))
    before = at_owners(net, 3)
    net.ask("open", nodes=store_nodes(net.dataflow), fingerprint="f", fresh=False, resume=True, as_applied=True)
    assert at_owners(net, 3) == before
    check_queues(net, 3)


@pytest.mark.parametrize("count", [1, 2])
def test_a_node_that_was_removed_and_comes_back_with_fewer_replicas_can_have_more_again(
    make: Make, count: int
) -> None:
    net = make(flow(3))
    for node in replicas(3):
        net.begin(node)
    scaling.switch(net, without_s())
    for node in (*replicas(3), "c"):
        net.end(node)
    net.ask("change_settle", nodes=[*replicas(3), "c"])
    scaling.switch(net, flow(count))
    send(net.begin("a"), *({"k": number % 20, "n": number} for number in range(60)))
    at_owners(net, count)
    scaling.scale(net, flow(4), "s", count, 4, begin=lambda: [net.begin(node) for node in replicas(4)] and None)
    at_owners(net, 4)
    check_queues(net, 4)


def test_parts_hold_about_as_much_as_is_asked_for_and_a_slot_that_holds_more_moves_alone(make: Make) -> None:
    net = make(flow(1))
    a = net.begin("a")
    values = [{"k": key, "n": number, "pad": "x" * 400} for number in range(20) for key in range(30)]
    values += [{"k": "much", "n": number, "pad": "x" * 400} for number in range(200)]
    for value in values:
        assert commit(a, staged(a, ("out", value))) == 1
    scaling.switch(net, flow(4))
    net.begin("s[1]")
    lefts = [1]
    moved = [0]
    while lefts[-1]:
        lefts.append(scaling.move(net, "s", 4, bytes_max=30_000))
        moved.append(sum(len(waiting(net, node, "x")) for node in replicas(4)[1:]))
        check_queues(net, 4)
        for node in replicas(4):
            numbers = [(value["k"], value["n"]) for value in waiting(net, node, "x")]
            for key in {key for key, _ in numbers}:
                assert [number for of, number in numbers if of == key] == list(range(20 if key != "much" else 200))
    assert len(lefts) > 5 and lefts[1:] == sorted(lefts[1:], reverse=True)
    steps = [now - before for before, now in pairwise(moved)]
    assert all(step <= 30_000 // 400 or step == 200 for step in steps)
    assert scaling.move(net, "s", 4) == 0


def keyed(*numbers: int) -> list[dict[str, Any]]:
    return [{"k": number % 97, "n": number} for number in numbers]


@dataclass
class Decoded:
    """How many messages were decoded for their slot: in all, and while the write lock was held."""

    in_all: int = 0
    locked: int = 0


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    counts, is_locked = Decoded(), False
    message_slot, write = by_slot.message_slot, Space.write

    def counted(*arguments: Any) -> int:
        counts.in_all += 1
        counts.locked += is_locked
        return message_slot(*arguments)

    @contextmanager
    def locked(space: Space) -> Iterator[WriteTxn]:
        nonlocal is_locked
        with write(space) as txn:
            is_locked = True
            try:
                yield txn
            finally:
                is_locked = False

    monkeypatch.setattr(by_slot, "message_slot", counted)
    monkeypatch.setattr(Space, "write", locked)
    return counts


def grown(make: Make, waiting: int) -> tuple[Net, Commits]:
    """Four replicas, of which the first has all slots, and all that waits."""
    net = make(flow(1))
    a = net.begin("a")
    for at in range(0, waiting, 10):
        assert send(a, *keyed(*range(at, at + 10))) == 10
    scaling.switch(net, flow(4))
    for node in replicas(4)[1:]:
        net.begin(node)
    return net, a


def moved_in_order(net: Net, count: int) -> bool:
    """Whether the replicas have the numbers from 0 to `count`, each once, and in order of each key."""
    check_queues(net, 4)
    found = [value for node in replicas(4) for value in waiting(net, node, "x")]
    by_key = {key: [value["n"] for value in found if value["k"] == key] for key in range(97)}
    return all(numbers == list(range(key, count, 97)) for key, numbers in by_key.items())


def test_each_message_that_waits_is_decoded_once_and_without_the_write_lock(make: Make, decoded: Decoded) -> None:
    net, _ = grown(make, 700)
    assert decoded.in_all == 0  # more replicas own nothing in the switch
    left, moved = 1, [0]
    while left:
        left = scaling.move(net, "s", 4, bytes_max=30_000, read_max=50)
        moved.append(sum(len(waiting(net, node, "x")) for node in replicas(4)[1:]))
    assert len(moved) > 40 and max(now - before for before, now in pairwise(moved)) <= 30_000 // by_slot.COUNTS_MIN
    assert decoded.in_all == 700 and decoded.locked == 0
    assert moved_in_order(net, 700)


def test_nothing_moves_before_all_that_waits_was_read(make: Make, decoded: Decoded) -> None:
    net, _ = grown(make, 700)
    for part in range(1, 14):
        assert scaling.move(net, "s", 4, read_max=50) > 0
        assert len(waiting(net, "s", "x")) == 700 and decoded.in_all == 50 * part
    while scaling.move(net, "s", 4, read_max=50):
        pass
    assert moved_in_order(net, 700)
    assert len(waiting(net, "s", "x")) < 400


@pytest.mark.parametrize("late", [1, 30, 200])
def test_what_comes_between_the_reading_and_the_move_moves_too(make: Make, decoded: Decoded, late: int) -> None:
    net, a = grown(make, 300)
    read = net.store.ahead["change_move"]
    sent = 300

    def then_more_comes(txn: ReadTxn, given: Any) -> Any:
        nonlocal sent
        found = read(txn, given)
        if sent < 300 + 2 * late:
            assert send(a, *keyed(*range(sent, sent + late))) == late
            sent += late
        return found

    net.store.ahead["change_move"] = then_more_comes
    while scaling.move(net, "s", 4, bytes_max=40_000, read_max=100):
        pass
    assert sent == 300 + 2 * late and moved_in_order(net, sent)
    assert decoded.in_all == sent and decoded.locked <= 2 * late


def test_a_part_that_is_not_committed_moves_nothing_and_the_next_one_everything(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = grown(make, 300)
    raise_wiring = taps.raise_wiring

    def fails(*arguments: Any) -> None:
        monkeypatch.setattr(taps, "raise_wiring", raise_wiring)
        raise StoreError("no room")

    assert scaling.move(net, "s", 4, bytes_max=20_000) > 0
    moved = sum(len(waiting(net, node, "x")) for node in replicas(4)[1:])
    monkeypatch.setattr(taps, "raise_wiring", fails)
    with pytest.raises(StoreRefused, match="no room"):
        scaling.move(net, "s", 4)
    assert sum(len(waiting(net, node, "x")) for node in replicas(4)[1:]) == moved > 0
    assert scaling.move(net, "s", 4) == 0
    assert moved_in_order(net, 300)


def test_a_dead_letter_is_decoded_once_and_moves_with_its_slot(make: Make, decoded: Decoded) -> None:
    net, _ = grown(make, 300)
    first = net.begin("s")
    hands = [[*keys.parse_message(key)[1:]] for key, _ in net.messages(first, 40)]
    net.claim("s", cause="raised", counts=True, hands=hands, max_attempts=1)
    while scaling.move(net, "s", 4, bytes_max=10_000):
        pass
    assert decoded.in_all < 300 + 4 * 40
    with net.space.read() as txn:
        owned = routing.owners_of(txn, net.numbers["s"]["number"], 4)
        for replica, node in enumerate(replicas(4)):
            for _, packed in scan(txn, keys.dead_prefix(net.numbers[node]["number"])):
                assert owned[slot_of(value_of(net, msgpack.unpackb(packed)["message"])["k"])] == replica
        letters = [len(list(scan(txn, keys.dead_prefix(net.numbers[node]["number"])))) for node in replicas(4)]
    assert sum(letters) == 40 and min(letters) > 0


def ends_behind_all(net: Net, node: str) -> bool:
    """Whether INPUT_CLOSED comes once, behind all that waits."""
    ids = net.numbers[node]["number"], net.numbers[node]["inputs"]["x"]
    with net.space.read() as txn:
        found = [record[0] for _, record in messages(txn, keys.mailbox(*ids))]
    return found.count(records.INPUT_CLOSED) == 1 and found[-1] == records.INPUT_CLOSED


def test_the_end_of_an_input_comes_once_behind_all_that_waits(make: Make) -> None:
    net, a = grown(make, 300)
    assert commit(a, staged(a, ends=True)) == 1
    left = 1
    while left:
        left = scaling.move(net, "s", 4, bytes_max=30_000)
        assert all(ends_behind_all(net, node) for node in replicas(4))


def test_the_end_of_an_input_comes_once_also_if_letters_were_put_behind_it(make: Make) -> None:
    net, _ = grown(make, 300)
    while scaling.move(net, "s", 4):
        pass
    hands = [[*keys.parse_message(key)[1:]] for key, _ in net.messages(net.begin("s[1]"), 5)]
    net.claim("s[1]", cause="raised", counts=True, hands=hands, max_attempts=1)
    net.end("a", error="raised")
    assert ends_behind_all(net, "s[1]")
    net.ask("letters_replay", node="s[1]", uids=[])
    assert not ends_behind_all(net, "s[1]")
    while scaling.move(net, "s", 2):
        pass
    assert all(ends_behind_all(net, node) for node in replicas(2))


def test_without_a_partition_a_part_is_what_waits_in_front(make: Make) -> None:
    net = make(flow(2, partition=""))
    a = net.begin("a")
    for number in range(60):
        assert commit(a, staged(a, ("out", number))) == 1
    before = waiting(net, "s[1]", "x")
    lefts = []
    while not lefts or lefts[-1]:
        lefts.append(scaling.move(net, "s", 1, bytes_max=200))
        assert waiting(net, "s[1]", "x") == before[len(before) - len(waiting(net, "s[1]", "x")) :]
    assert len(lefts) > 3 and lefts == sorted(lefts, reverse=True)
    assert len(waiting(net, "s", "x")) == 60 and waiting(net, "s[1]", "x") == []
    scaling.switch(net, flow(1, partition=""))
    assert sorted(waiting(net, "s", "x")) == list(range(60))


def test_a_replica_that_is_failed_loses_nothing_when_it_is_no_longer_wanted(make: Make) -> None:
    net = make(flow(3))
    a, dice = Sender(net, "a"), random.Random(2)
    for _ in range(30):
        a.stage(dice)
    a.commit()
    bad = net.begin("s[2]")
    first = net.messages(bad)[0]
    net.claim("s[2]", cause="raised", counts=True, hands=[[*keys.parse_message(first[0])[1:]]], max_attempts=1)
    net.end("s[2]", error="raised again")
    before = sorted(str(value) for node in replicas(3) for value in waiting(net, node, "x"))
    scaling.switch(net, flow(2))
    check_queues(net, 2)
    assert sorted(str(value) for node in replicas(2) for value in waiting(net, node, "x")) == before
    with net.space.read() as txn:
        letters = [len(list(scan(txn, keys.dead_prefix(net.numbers[node]["number"])))) for node in replicas(3)]
        assert sum(letters) == 1 and letters[2] == 0
        assert lives.node_record(txn, net.numbers["s[2]"]["number"]).status == records.ENDED
    scaling.settle(net)
    scaling.switch(net, flow(3))
    again = net.begin("s[2]")
    assert scaling.move(net, "s", 3) == 0
    assert again.outputs["out"].sent >= 2 << records.REPLICA_SHIFT


def test_the_number_of_messages_of_a_replica_goes_on_when_it_comes_back(make: Make) -> None:
    net = make(flow(2))
    for round in range(3):
        last = net.begin("s[1]")
        assert last.outputs["out"].sent == (1 << records.REPLICA_SHIFT) + 2 * round
        send(last, 1, 2)
        scaling.switch(net, flow(1))
        scaling.settle(net)
        scaling.switch(net, flow(2))


def test_a_node_that_had_replicas_for_a_moment_gives_up_what_went_away_and_came_back(make: Make) -> None:
    net = make(flow(1))
    a = net.begin("a")
    for number in range(20):
        assert commit(a, staged(a, ("out", {"k": number, "n": number}))) == 1
    first = Replica(net, "s")
    assert first.handle(20) == 20
    scaling.scale(net, flow(3), "s", 1, 3)
    scaling.scale(net, flow(1), "s", 3, 1)
    with pytest.raises(Rescaled):
        commit(first.commits, *first.group)
    first.start_over()
    assert first.handle(20) == 20
    first.commit()
    assert [value["count"] for value in waiting(net, "c", "in")] == [1] * 20


def test_a_shared_process_sends_to_the_owners_of_now(make: Make) -> None:
    op = {"operator": {"python": "o.py"}, "process": "p"}
    nodes = {
        "one": {**op, "outputs": ["out"]},
        "two": {**op, "outputs": ["out"]},
        "s": {"operator": {"python": "s.py"}, "inputs": {"x": "one/out", "y": "two/out"}, "replicas": 3,
              "partition_by": "value.k"},
    }  # fmt: skip
    net = make(nodes)
    both = Commits(net.space, net.wirings["one"], net.claim("one")["incarnation"])
    values = [{"k": number, "n": number} for number in range(40)]
    events = []
    for value in values:
        event = Staged()
        for ports in both.nodes:
            ports.outputs["out"].stage(event, value, None, Place(both))
        events.append(event)
    scaling.move(net, "s", 1)
    assert commit(both, *events) == 40
    assert waiting(net, "s", "x") == waiting(net, "s", "y") == values
    scaling.move(net, "s", 3)
    check_queues(net, 3)
    event = Staged()
    for value in values:
        both.nodes[0].outputs["out"].stage(event, value, None, Place(both))
    assert commit(both, event) == 1
    check_queues(net, 3)


def test_without_a_partition_what_waits_for_a_replica_goes_to_those_that_stay(make: Make) -> None:
    net = make(flow(3, partition=""))
    a = net.begin("a")
    for number in range(90):
        assert commit(a, staged(a, ("out", number))) == 1
    held = staged(a, *(("out", number) for number in range(90, 99)))
    assert scaling.move(net, "s", 2) == 0
    scaling.switch(net, flow(2, partition=""))
    assert commit(a, held) == 1
    counts = [len(waiting(net, node, "x")) for node in replicas(2)]
    assert sum(counts) == 99 and min(counts) > 41  # about as much to each
    scaling.settle(net)
    scaling.switch(net, flow(4, partition=""))
    assert scaling.move(net, "s", 4) == 0
    assert [len(waiting(net, node, "x")) for node in replicas(2)] == counts
    send(a, *range(99, 119))
    assert all(len(waiting(net, node, "x")) == 10 for node in replicas(4)[2:])


@pytest.mark.parametrize("how", ["a change", "a resume"])
def test_a_replica_that_comes_back_waits_anew_for_the_first_message_of_an_input_with_a_timeout(
    make: Make, how: str
) -> None:
    """Else it would tell at once that the input is silent, or that it has recovered."""
    net = make(flow(2, input_timeout="1s"))
    last = net.begin("s[1]")
    counter = last.inputs["x"].counter
    assert commit(last, staged(last, counters={counter: 77, counter + 1: 1})) == 1
    if how == "a change":
        scaling.switch(net, flow(1, input_timeout="1s"))
        scaling.settle(net)
    else:
        net.open(flow(1, input_timeout="1s"), resume=True)
    scaling.switch(net, flow(2, input_timeout="1s"))
    again = net.begin("s[1]")
    counter = again.inputs["x"].counter
    assert again.counters[counter : counter + 2] == [0, 0]
