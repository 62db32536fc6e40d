"""Replicas come and go while messages flow, in the space: nothing is lost, nothing counted twice, per key in order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support import scaling
from support.kit import Net, Place, commit, staged
from test_replica_mailboxes import flow, replicas

from noderuntime.api.keyed.slots import slot_of
from noderuntime.errors import Fenced
from noderuntime.space import keys, records, routing
from noderuntime.space.commit import Commits
from noderuntime.space.mailbox import messages
from noderuntime.space.routing import Rescaled
from noderuntime.space.segments import SegmentPool
from noderuntime.space.staging import Staged

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
        self.read = 0

    def handle(self, limit: int) -> int:
        """Handle messages that wait, without a commit. Returns whether there was something to do."""
        found = self.net.messages(self.commits)[self.read :][:limit]
        self.commits.look()
        if self.commits.moved:
            self.start_over()
            return 1
        for key, record in found:
            self._handle((key, record))
        return len(found)

    def _handle(self, message: tuple[bytes, bytes]) -> None:
        self.read += 1
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
            self.read -= done
        self.staged.clear()

    def start_over(self) -> None:
        self.group.clear()
        self.staged.clear()
        self.read = 0
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


@pytest.mark.parametrize("seed", range(30))
def test_each_message_is_handled_once_and_per_key_in_order_whatever_moves_meanwhile(make: Make, seed: int) -> None:
    dice = random.Random(seed)
    count = dice.choice([1, 2, 3])
    net = make(flow(count))
    senders = [Sender(net, "a"), Sender(net, "b")]
    alive = {id: Replica(net, id) for id in replicas(count)}
    sent: list[dict[str, Any]] = []

    def change() -> None:
        nonlocal count
        wanted = dice.choice([number for number in (1, 2, 3, 4, 5) if number != count])
        parts = dice.choice([0, 1, 3, 1000])
        if wanted < count:
            for _ in range(parts):
                if not scaling.move(net, "s", wanted, bytes_max=dice.choice([1, 300, 100_000])):
                    break
        scaling.switch(net, flow(wanted))
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
            scaling.move(net, "s", count, bytes_max=dice.choice([1, 300, 100_000]))
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
    got = waiting(net, "c", "in")
    assert Counter(map(str, (value["n"] for value in got))) == Counter(map(str, (value["n"] for value in sent)))
    for key in range(25):
        of_key = [value for value in got if value["k"] == key]
        assert [value["count"] for value in of_key] == list(range(1, len(of_key) + 1))
        for sender in senders:
            numbers = [value["n"][1] for value in of_key if value["n"][0] == sender.id]
            assert numbers == sorted(numbers)
    assert waiting(net, "p", "x") == [value for value in sent if value["n"][0] == "a"]
    check_queues(net, count)
