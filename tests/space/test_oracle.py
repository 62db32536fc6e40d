"""Random operations against the space and against plain Python objects; after each, all of the space is compared.

A failure names its seed: `pytest tests/space/test_oracle.py -k "seed_17 and ..."` plays the same again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.kit import Make, Net, shown, staged

from noderuntime.errors import Fenced
from noderuntime.merges import Add, Max, decode
from noderuntime.space import keys, kvs, records
from noderuntime.space.commit import Commits
from noderuntime.space.environment import scan
from noderuntime.space.mailbox import messages, queue_of
from noderuntime.space.staging import Staged

SECOND = 10**9
ATTEMPTS_MAX = 3


@dataclass
class Queue:
    """One input. `waiting`: (order, what it shows, bytes; 0 for a notice)."""

    node: str
    source: str
    size: int
    size_bytes: int
    drop_oldest: bool
    waiting: list[tuple[int, Any, int]] = field(default_factory=list)
    taken: int = 0
    dropped: int = 0
    discarded: int = 0
    closed: bool = False
    source_ended: bool = False
    source_failed: bool = False
    cut_off: bool = False

    @property
    def messages(self) -> list[tuple[int, Any, int]]:
        return [item for item in self.waiting if item[2]]

    @property
    def bytes(self) -> int:
        return sum(size for _, _, size in self.waiting)

    def facts(self) -> Any:
        flags = records.CLOSED * self.closed
        flags |= records.SOURCE_ENDED * self.source_ended | records.SOURCE_FAILED * self.source_failed
        flags |= records.CUT_OFF * self.cut_off
        return [len(self.messages), self.bytes, self.taken, self.dropped, self.discarded, flags]

    def is_full(self) -> bool:
        return len(self.messages) >= self.size or (self.bytes >= self.size_bytes and len(self.messages) >= 1)


@dataclass
class Model:
    """What the space should hold."""

    queues: dict[tuple[str, str], Queue]
    outputs: dict[str, list[str]]
    status: dict[str, str]
    order: int = 0
    incarnation: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    private: dict[str, dict[str, bytes]] = field(default_factory=dict)
    shared: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # value, when it expires (0: never)
    attempts: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # (input, order) -> lives, failures
    dead: list[tuple[str, Any]] = field(default_factory=list)

    def receivers(self, source: str) -> list[Queue]:
        return [queue for queue in self.queues.values() if queue.source == source]

    def downstream(self, node: str, by_output: bool = False) -> list[Queue]:
        """In the order of the dataflow, as the store sees it, or by output, as the node itself does."""
        if by_output:
            return [queue for output in self.outputs[node] for queue in self.receivers(f"{node}/{output}")]
        return [queue for queue in self.queues.values() if queue.source.partition("/")[0] == node]

    def own(self, node: str) -> list[Queue]:
        return [queue for (owner, _), queue in self.queues.items() if owner == node]

    def put(self, queue: Queue, what: Any, size: int) -> None:
        self.order += 1
        queue.waiting.append((self.order, what, size))

    def fits(self, node: str, sends: list[tuple[str, Any, int]]) -> bool:
        queues = [queue for output, _, _ in sends for queue in self.receivers(f"{node}/{output}")]
        return not any(queue.is_full() for queue in queues if not queue.closed and not queue.drop_oldest)

    def send(self, node: str, output: str, value: Any, size: int) -> None:
        self.sent[f"{node}/{output}"] = self.sent.get(f"{node}/{output}", 0) + 1
        for queue in self.receivers(f"{node}/{output}"):
            if queue.closed:
                queue.discarded += 1
                continue
            self.put(queue, value, size)
            while queue.drop_oldest and (
                len(queue.messages) > queue.size or (queue.bytes > queue.size_bytes and len(queue.messages) > 1)
            ):
                queue.waiting.remove(queue.messages[0])
                queue.dropped += 1

    def take(self, queue: Queue, order: int, size: int) -> None:
        present = [item for item in queue.waiting if item[0] == order]
        if present:
            queue.waiting.remove(present[0])
            queue.taken += bool(size)
        elif size:
            queue.taken += 1
            queue.dropped -= 1

    def close(self, node: str, failed: str | None, by_itself: bool = False) -> None:
        cut_off = failed is None and any(queue.source_failed or queue.cut_off for queue in self.own(node))
        told = set()
        for queue in self.downstream(node, by_itself):
            if queue.source_ended:
                continue
            queue.source_ended, queue.source_failed, queue.cut_off = True, failed is not None, cut_off
            if queue.closed:
                continue
            if failed is not None and queue.node not in told:
                told.add(queue.node)
                self.put(queue, ("NODE_FAILED", node, failed), 0)
            self.put(queue, ("INPUT_CLOSED", "", failed), 0)
        if failed is None:
            for queue in self.own(node):
                queue.closed = True
                queue.discarded += len(queue.messages)
                queue.waiting.clear()
            self.attempts = {at: tries for at, tries in self.attempts.items() if at[0] != node}
        self.status[node] = "ended" if failed is None else "failed"

    def tell(self, node: str, cause: str) -> None:
        told = set()
        for queue in self.downstream(node):
            if queue.node not in told and not queue.closed and not queue.source_ended:
                told.add(queue.node)
                self.put(queue, ("NODE_RESTARTED", node, cause), 0)

    def reopen(self) -> None:
        again = [
            node
            for node, status in self.status.items()
            if status == "failed"
            or (status == "ended" and any(queue.source_failed or queue.cut_off for queue in self.own(node)))
        ]
        for node in again:
            self.status[node] = "live"
            for queue in self.own(node):
                queue.closed = False
            for queue in self.downstream(node):
                queue.source_ended = queue.source_failed = queue.cut_off = False
                queue.waiting = [item for item in queue.waiting if item[2] or item[1][0] == "NODE_RESTARTED"]

    def revive(self, node: str) -> None:
        ended = self.status[node] == "ended"
        self.status[node] = "live"
        for queue in self.downstream(node):
            queue.source_ended = queue.source_failed = False
            if not queue.closed:
                queue.cut_off = False
        if ended:
            for queue in self.own(node):
                queue.closed = False
        elif "failed" not in self.status.values():
            for queue in self.queues.values():
                queue.cut_off = False

    def write(self, item: kvs.SharedWrite, now: int) -> None:
        key = item.key.decode()
        value = item.value
        if item.merge is not None:
            old, expires = self.shared.get(key, (None, 0))
            in_force = old is not None and not 0 < expires <= now
            value = item.merge.apply(old if in_force else None)
            self.shared[key] = value, expires if in_force else 0  # a time to live goes on
            return
        if value is None:
            self.shared.pop(key, None)
        else:
            self.shared[key] = value, now + item.ttl_ns if item.ttl_ns else 0


class Game:
    """One seed: a random dataflow, and random operations on it. `restless`: nodes end, fail and come back often.

    `packed`: groups are large, several messages are in hand, and they are acknowledged in any order.
    """

    def __init__(self, make: Make, seed: int, restless: bool, packed: bool) -> None:
        self.random = random.Random(seed)
        self.restless = restless
        self.packed = packed
        self.spec = self.dataflow()
        self.net: Net = make(self.spec)
        self.model = Model(
            queues={
                (node, input): Queue(
                    node, of["source"], of["queue_size"], of["queue_bytes"], of["queue_policy"] == "drop_oldest"
                )
                for node, spec in self.spec.items()
                for input, of in spec["inputs"].items()
            },
            outputs={node: spec["outputs"] for node, spec in self.spec.items()},
            status=dict.fromkeys(self.spec, "live"),
        )
        self.now = 1_000 * SECOND
        self.lives: dict[str, Commits] = {}
        self.held: dict[str, list[tuple[Queue, int, int, tuple[bytes, bytes]]]] = {node: [] for node in self.spec}
        for node in self.spec:
            self.claim(node)

    def dataflow(self) -> dict[str, Any]:
        random = self.random
        nodes: dict[str, Any] = {}
        outputs: list[str] = []
        for number in range(random.randint(2, 5)):
            inputs = {}
            node = f"n{number}"
            own = [f"o{which}" for which in range(random.randint(0 if number else 1, 2))]
            for which in range(min(random.randint(0, 3), len(outputs) + bool(own))):
                policy = random.choice(["backpressure", "drop_oldest"])
                sources = list(outputs)
                if policy == "drop_oldest":
                    sources += [f"{node}/{output}" for output in own]
                if sources:
                    inputs[f"i{which}"] = {
                        "source": random.choice(sources),
                        "queue_size": random.choice([1, 2, 5, 100]),
                        "queue_bytes": random.choice([100, 1000, 10**7]),
                        "queue_policy": policy,
                    }
            nodes[node] = {"inputs": inputs, "outputs": own}
            outputs += [f"{node}/{output}" for output in own]
        return nodes

    # --- operations -----------------------------------------------------------------------------------------------

    def step(self) -> str:
        kinds = ["commit"] * 30 + ["claim"] * 3 + ["hold"] * 3 + ["time", "end", "fail", "zombie", "resume", "revive"]
        if self.restless:
            kinds += ["end", "fail", "revive"] * 10
        if self.packed:
            kinds += ["hold"] * 5
        kind = self.random.choice(kinds)
        node = self.random.choice(list(self.spec))
        live = self.model.status[node] == "live"
        if kind == "commit" and live:
            return self.commit(node)
        if kind == "claim":
            return self.claim(node)
        if kind == "hold" and live:
            return self.hold(node)
        if kind in ("end", "fail") and self.random.random() < 0.3:
            return self.end(node, "broken" if kind == "fail" else None)
        if kind == "zombie" and live:
            return self.zombie(node)
        if kind == "revive":
            return self.revive(node)
        if kind == "resume":
            return self.resume()
        self.now += self.random.choice([0, SECOND, 10 * SECOND])
        return "time"

    def commit(self, node: str) -> str:
        """A group of events; how far it goes is foretold by the model."""
        commits, random, model = self.lives[node], self.random, self.model
        numbers = {name: output.sent for name, output in commits.outputs.items()}
        in_hand = {message[0] for *_, message in self.held[node]}
        waiting = [item for item in self.waiting(node) if item[3][0] not in in_hand]
        group: list[Staged] = []
        foreseen = 0
        blocked = False
        for _ in range(random.choice([1, 3, 10, 30] if self.packed else [1, 1, 1, 2, 5, 40])):
            sends = (
                [
                    (output, random.choice(["", "x" * 50, "y" * 300]) + str(random.randrange(100)))
                    for output in random.choices(self.spec[node]["outputs"], k=random.choice([0, 1, 1, 3]))
                    if self.spec[node]["outputs"]
                ]
                if self.spec[node]["outputs"]
                else []
            )
            held = self.held[node]
            taken: Any = None
            if held and random.random() < 0.5:
                taken = held.pop(random.randrange(len(held)) if self.packed else 0)
            elif waiting and random.random() < 0.7:
                taken = waiting.pop(random.choice([0, 0, random.randrange(len(waiting))]))
            writes = [self.shared_write() for _ in range(random.choice([0, 0, 1, 2]))]
            private = {
                f"k{random.randrange(4)}": random.choice([None, b"", b"v" * 9]) for _ in range(random.randrange(3))
            }
            ends = random.random() < 0.01
            event = staged(commits, *sends, ack=taken and taken[3], private=private, shared=writes, ends=ends)
            event.also().attempts = taken is not None and (node, taken[1]) in model.attempts
            group.append(event)
            sized = [
                (output.name, value, len(record))
                for (_, value), (output, record, _, _) in zip(sends, event.outputs or [], strict=True)
            ]
            if blocked or not model.fits(node, sized):
                if taken is not None:
                    self.held[node].append(taken)
                blocked = True
                continue
            foreseen += 1
            for name, value, size in sized:
                model.send(node, name, value, size)
            if taken is not None:
                queue, order, size, _ = taken
                model.take(queue, order, size)
                model.attempts.pop((node, order), None)
            for write in writes:
                model.write(write, self.now)
            for key, value in private.items():
                model.private.setdefault(node, {})[key] = value  # type: ignore[assignment]
            model.private[node] = {k: v for k, v in model.private.get(node, {}).items() if v is not None}
            if ends:
                model.close(node, None, by_itself=True)
                break
        done = commits.commit(group, self.now)
        assert done == foreseen, f"{done} events were committed, not {foreseen}"
        assert bool(commits.waits_for) == (done < len(group))
        for name, output in commits.outputs.items():
            output.sent = model.sent.get(f"{node}/{name}", numbers[name])
        return f"commit of {node}: {done} of {len(group)}"

    def shared_write(self) -> kvs.SharedWrite:
        random = self.random
        key = f"s{random.randrange(3)}".encode()
        number = f"n{random.randrange(2)}".encode()
        return random.choice(
            [
                kvs.SharedWrite(key, b"w" * random.randrange(5), ttl_ns=random.choice([0, 0, 5 * SECOND])),
                kvs.SharedWrite(key),
                kvs.SharedWrite(number, merge=random.choice([Add, Max])(random.randrange(5))),
            ]
        )

    def waiting(self, node: str) -> list[Any]:
        """What the node may take: (queue, order, bytes, message), oldest first."""
        found = self.net.messages(self.lives[node])
        model = sorted((item, queue) for queue in self.model.own(node) for item in queue.waiting) if found else []
        return [(queue, item[0], item[2], message) for (item, queue), message in zip(model, found, strict=True)]

    def hold(self, node: str) -> str:
        """Have messages in hand: they may be dropped meanwhile."""
        self.held[node] = self.waiting(node)[: self.random.randint(1, 20 if self.packed else 3)]
        return f"{node} holds {len(self.held[node])}"

    def claim(self, node: str) -> str:
        model = self.model
        cause, counts = self.random.choice([("", False), ("killed", False), ("raised", True)])
        live = model.status[node] == "live"
        hands = self.held[node] if cause and live else []
        places = [list(keys.parse_message(message[0])[1:]) for *_, message in hands]
        result = self.net.claim(node, cause, counts, places, ATTEMPTS_MAX)
        if not live:
            assert result == {"ended": True, "stop_all": False}
            return f"{node} cannot be claimed"
        model.incarnation[node] = model.incarnation.get(node, 0) + 1
        assert result["incarnation"] == model.incarnation[node]
        for queue, order, size, message in hands:
            if not size or order not in [item[0] for item in queue.waiting]:
                continue
            tries = model.attempts.setdefault((node, order), [0, 0])
            tries[0] += 1
            tries[1] += counts
            if counts and tries[1] >= ATTEMPTS_MAX:
                del model.attempts[node, order]
                queue.waiting = [item for item in queue.waiting if item[0] != order]
                model.dead.append((node, shown(message[1])))
        present = {item[0] for queue in model.own(node) for item in queue.waiting}
        for owner, order in list(model.attempts):
            if owner == node and order not in present:
                del model.attempts[owner, order]
        if cause:
            model.tell(node, cause)
        assert sorted(item[3] for item in result["attempts"]) == sorted(
            lives for (owner, _), (lives, _) in model.attempts.items() if owner == node
        )
        assert result["state"] == {key.encode().decode(): v for key, v in model.private.get(node, {}).items()}
        self.held[node] = []
        self.lives[node] = Commits(self.net.space, self.net.wirings[node], result["incarnation"])
        return f"claim of {node}: {cause or 'first'}"

    def end(self, node: str, error: str | None) -> str:
        self.net.end(node, error)
        if self.model.status[node] == "live":
            self.model.close(node, error)
            self.model.incarnation[node] += 1
        return f"end of {node}: {error}"

    def revive(self, node: str) -> str:
        """A node that failed or ended comes back while the run continues; a failed one with what its mailbox kept."""
        self.net.ask("revive", node=node)
        if self.model.status[node] == "live":
            return f"{node} is live"
        self.model.revive(node)
        self.held[node] = []
        return f"{self.claim(node)}, revived"

    def zombie(self, node: str) -> str:
        old = self.lives[node]
        self.claim(node)
        with pytest.raises(Fenced):
            old.commit([staged(old, private={"z": b"z"})], self.now)
        return f"zombie of {node}"

    def resume(self) -> str:
        """A new runtime takes over: all lives are new."""
        if self.random.random() < 0.7:
            return "nothing"
        opened = self.net.open(self.spec, resume=True)
        self.model.reopen()
        assert opened["ended"] == [node for node, status in self.model.status.items() if status == "ended"]
        assert opened["failed"] == []
        for node, status in self.model.status.items():
            self.held[node] = []
            if status == "live":
                self.claim(node)
        return "resume"

    # --- comparing ------------------------------------------------------------------------------------------------

    def content(self) -> dict[str, Any]:
        """All of the space, in the model's words."""
        net = self.net
        names = {item["number"]: node for node, item in net.numbers.items()}
        with net.space.read() as txn:
            private: dict[str, dict[str, bytes]] = {}
            for key, value in scan(txn, b"p"):
                node = names[int.from_bytes(key[1:3], "big")]
                private.setdefault(node, {})[key[3:].decode()] = value[records.PRIVATE_BYTES :]
            queues = {}
            for (node, input), _ in self.model.queues.items():
                ids = net.numbers[node]["number"], net.numbers[node]["inputs"][input]
                waiting = [shown(record) for _, record in messages(txn, keys.mailbox(*ids))]
                facts = queue_of(txn, keys.queue(*ids))[: records.MARK_SEQUENCE]
                queues[node, input] = (waiting, facts)
            nodes = {}
            for node in self.spec:
                record = records.NodeRecord.parse(txn.get(keys.node(net.numbers[node]["number"])))
                counts = {
                    output: (record.counters + [0] * 99)[records.output_counter(number)]
                    for output, number in net.numbers[node]["outputs"].items()
                }
                nodes[node] = (records.STATUSES[record.status], record.incarnation, counts)
            return {
                "queues": queues,
                "nodes": nodes,
                "private": private,
                "shared": {key.decode(): entry.value for key, entry in kvs.entries(txn, b"", self.now)},
                "attempts": sorted(records.ATTEMPTS.unpack(value) for _, value in scan(txn, b"a")),
                "dead": sum(1 for _ in scan(txn, b"d")),
            }

    def expected(self) -> dict[str, Any]:
        model = self.model
        return {
            "queues": {
                at: ([what for _, what, _ in queue.waiting], queue.facts()) for at, queue in model.queues.items()
            },
            "nodes": {
                node: (
                    model.status[node],
                    model.incarnation[node],
                    {output: model.sent.get(f"{node}/{output}", 0) for output in spec["outputs"]},
                )
                for node, spec in self.spec.items()
            },
            "private": {node: state for node, state in model.private.items() if state},
            "shared": {k: value for k, (value, expires) in sorted(model.shared.items()) if not 0 < expires <= self.now},
            "attempts": sorted((lives, failures) for lives, failures in model.attempts.values()),
            "dead": len(model.dead),
        }

    def check_sums(self) -> None:
        """Nothing is lost: what was sent is waiting, taken, dropped, discarded or a dead letter."""
        dead = sum(1 for _ in self.model.dead)
        sent = sum(count * len(self.model.receivers(output)) for output, count in self.model.sent.items())
        found = [self.net.queue(node, input) for node, input in self.model.queues]
        assert sent == sum(sum(queue[at] for at in (0, 2, 3, 4)) for queue in found) + dead


def play(make: Make, seed: int, steps: int, restless: bool = False, packed: bool = False) -> None:
    game = Game(make, seed, restless, packed)
    story = []
    try:
        for _ in range(steps):
            story.append(game.step())
            assert game.content() == game.expected()
        game.check_sums()
        with game.net.space.write() as txn:
            changes = kvs.Changes(txn, game.net.space.base + txn.id(), game.now, game.net.space.origin)
            changes.expire(1000)
            changes.finish()
        assert game.content() == game.expected()
        assert all(decode(value) >= 0 for key, value in game.net.shared().items() if key.startswith("n"))
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, step {len(story)}, {story[-3:]}: {error}") from error


@pytest.mark.parametrize("seed", range(40), ids="seed_{}".format)
def test_the_space_does_what_plain_objects_do(make: Make, seed: int) -> None:
    play(make, seed, 80)


@pytest.mark.parametrize("seed", range(20), ids="restless_seed_{}".format)
def test_the_space_does_what_plain_objects_do_while_nodes_end_and_come_back(make: Make, seed: int) -> None:
    play(make, seed, 150, restless=True)


@pytest.mark.parametrize("seed", range(40), ids="packed_seed_{}".format)
def test_the_space_does_what_plain_objects_do_with_many_messages_in_one_record(make: Make, seed: int) -> None:
    play(make, seed, 60, packed=True)


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_the_space_does_what_plain_objects_do_for_long(make: Make, part: int) -> None:
    for seed in range(1000 + part * 25, 1025 + part * 25):
        play(make, seed, 300, restless=seed % 2 == 1)
