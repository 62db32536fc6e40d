"""A dataflow without a runtime: its space, the store's operations on it, and its nodes' commits, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from noderuntime import errors
from noderuntime.dataflow import plain
from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.reader import parse
from noderuntime.dataflow.replicas import expanded
from noderuntime.ipc.protocol import VERSION, Request
from noderuntime.ipc.store_records import InputFigures, NodeFigures
from noderuntime.runtime.plan import plan, store_nodes
from noderuntime.space import keys, kvs, records
from noderuntime.space.commit import Commits
from noderuntime.space.environment import Space, create, scan
from noderuntime.space.mailbox import Removal, messages, next_messages, queue_of, remove
from noderuntime.space.segments import SegmentPool
from noderuntime.space.staging import Staged
from noderuntime.store.operations import Store

MB = 1 << 20

Nodes = Mapping[str, Mapping[str, Any]]

CHAIN: Nodes = {
    "a": {"outputs": ["out"]},
    "b": {"inputs": {"in": "a/out"}, "outputs": ["out"]},
    "c": {"inputs": {"in": "b/out"}},
}


def dataflow_of(nodes: Nodes, folder: Path) -> Any:
    """The dataflow of {id: fields}; where nothing else is said, a node is a custom node."""
    listed = [{"id": id, **({} if "operator" in spec else {"path": "dynamic"}), **spec} for id, spec in nodes.items()]
    text = json.dumps({"nodes": listed}).encode()
    return expanded(parse(text, file="dataflow.yml", folder=str(folder), env={}))


def node_figures(
    outputs: Mapping[str, int] | None = None, dead_letters: int = 0, **inputs: Mapping[str, int]
) -> NodeFigures:
    """A node's figures in which everything that is not said is 0."""
    none: InputFigures = {"queued": 0, "bytes": 0, "taken": 0, "dropped": 0, "discarded": 0, "dead": 0}
    filled: dict[str, Any] = {name: {**none, **counts} for name, counts in inputs.items()}
    return {
        "status": "live", "incarnation": 1, "inputs": filled, "outputs": dict(outputs or {}),
        "dead_letters": dead_letters,
    }  # fmt: skip


class Place:
    """Where the large payloads of a node go."""

    def __init__(self, commits: Commits) -> None:
        self.message_bytes_max = commits.space.message_bytes_max
        self.event_bytes_max = commits.space.event_bytes_max
        self.commits = commits

    def announce(self, nodes: Collection[int]) -> None:
        """Nobody sleeps here."""

    @property
    def pool(self) -> SegmentPool:
        return SegmentPool(self.commits.space, self.commits.space.folder.parent / "segments", self.commits.node)


class Net:
    """A dataflow in a space of its own."""

    def __init__(self, folder: Path, nodes: Nodes, size_bytes: int = 16 * MB, resume: bool = False) -> None:
        self.folder = folder
        self.space: Space = create(folder / "space", size_bytes, "this boot")
        self.store = Store(self.space)
        self.requests = 0
        self.client = f"test-{id(self)}"
        self.open(nodes, resume)

    def open(self, nodes: Nodes, resume: bool = False) -> Mapping[str, Any]:
        """Register a dataflow, as the runtime does at its start."""
        self.dataflow = dataflow_of(nodes, self.folder)
        opened = self.ask(
            "open",
            nodes=store_nodes(self.dataflow),
            fingerprint=self.dataflow.fingerprint(),
            fresh=False,
            resume=resume,
        )
        self.numbers = opened["numbers"]
        self.wirings = plan(self.dataflow, "run", self.numbers)
        return opened

    def ask(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """One request to the store; its errors are raised."""
        self.requests += 1
        reply = self.store.handle(Request(VERSION, self.client, self.requests, operation, arguments))
        if reply.error:
            raise StoreRefused(reply.error, reply.text)
        return reply.result

    def claim(
        self,
        node: str,
        cause: str = "",
        counts: bool = False,
        hands: Sequence[Any] = (),
        max_attempts: int = 3,
        of_others: Mapping[str, Sequence[Any]] | None = None,
    ) -> Mapping[str, Any]:
        """`of_others`: what of the other operators in its process was in hand."""
        given = of_others or {}
        together = self.wirings[node].others if node in self.wirings else ()
        others = [[other.node, max_attempts, list(given.get(other.node, ()))] for other in together]
        return self.ask(
            "claim", node=node, cause=cause, counts=counts, hands=list(hands), max_attempts=max_attempts, trace="trace",
            others=others,
        )  # fmt: skip

    def begin(self, node: str) -> Commits:
        """A new life of a node."""
        return Commits(self.space, self.wirings[node], self.claim(node)["incarnation"])

    def end(self, node: str, error: str | None = None) -> None:
        others = [other.node for other in self.wirings[node].others]
        self.ask("end", node=node, others=others, failed=error is not None, error=error or "")

    def figures(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("figures")["nodes"][node]
        return found

    def messages(self, commits: Commits, limit: int = 1000) -> list[tuple[bytes, bytes]]:
        mailboxes = [item.mailbox for item in commits.inputs.values() if not item.wiring.period_ns]
        return next_messages(self.space, mailboxes, limit)

    def queued(self, node: str, input: str) -> list[Any]:
        """The values (or notices as (kind, id)) that wait in one input, oldest first."""
        wiring = self.wirings[node]
        number = self.numbers[node]["inputs"][input]
        return [
            shown(record) for _, record in next_messages(self.space, [keys.mailbox(wiring.number, number)], 100_000)
        ]

    def queue(self, node: str, input: str) -> list[int]:
        """The queue record of an input, without its mark."""
        with self.space.read() as txn:
            queue = queue_of(txn, keys.queue(self.numbers[node]["number"], self.numbers[node]["inputs"][input]))
            return queue[: records.MARK_SEQUENCE]

    def private(self, node: str) -> dict[str, bytes]:
        prefix = keys.private_prefix(self.numbers[node]["number"])
        with self.space.read() as txn:
            return {k[len(prefix) :].decode(): v[records.PRIVATE_BYTES :] for k, v in scan(txn, prefix)}

    def shared(self) -> dict[str, bytes]:
        with self.space.read() as txn:
            found = kvs.entries(txn, b"", self.space.now_ns())
            return {key.decode(): entry.value for key, entry in found}

    def steal(self, node: str, input: str, at: int) -> None:
        """Take a message out of a mailbox as nothing in a run does, its queue kept right."""
        ids = self.numbers[node]["number"], self.numbers[node]["inputs"][input]
        with self.space.write() as txn:
            key, record = list(messages(txn, keys.mailbox(*ids)))[at]
            queue = queue_of(txn, keys.queue(*ids))
            assert remove(txn, keys.mailbox(*ids), queue, Removal([(key, record)])) == (1, len(record))
            queue[records.QUEUED] -= 1
            queue[records.BYTES] -= len(record)
            txn.put(keys.queue(*ids), records.pack_queue(queue))

    def close(self) -> None:
        self.space.close()


Make = Callable[..., Net]


class StoreRefused(Exception):
    """A reply with an error."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(f"{error}: {text}")
        self.kind = getattr(errors, error)
        self.text = text


def shown(record: bytes) -> Any:
    kind, value, _, _, _ = records.decode_message(record)
    return (records.NOTICE_TYPES[kind], *value) if kind >= records.NOTICE_MIN else value


def staged(
    commits: Commits,
    *sends: tuple[str, Any],
    ack: tuple[bytes, bytes] | None = None,
    private: Mapping[str, bytes | None] | None = None,
    shared: Sequence[Any] = (),
    counters: dict[int, int] | None = None,
    ends: bool = False,
) -> Staged:
    """What one event changes: `sends` are (output, value), `ack` is (key, record)."""
    event = Staged()
    for output, value in sends:
        commits.outputs[output].stage(event, value, None, Place(commits))
    if ack is not None:
        key, record = ack
        event.ack = key, next(i for i in commits.inputs.values() if key.startswith(i.mailbox)), record
    if private:
        prefix = keys.private_prefix(commits.node)
        event.private = {prefix + key.encode(): value for key, value in private.items()}
    if shared or counters or ends:
        rare = event.also()
        rare.shared = list(shared) or None
        rare.counters = counters
        rare.ends = ends
    return event


def commit(commits: Commits, *events: Staged) -> int:
    return commits.commit(events, commits.space.now_ns())


def send(commits: Commits, *values: Any, output: str = "out") -> int:
    """Commit one event per value, as a group; how many were committed."""
    group = [staged(commits, (output, value)) for value in values]
    done = commit(commits, *group)
    while done < len(group) and not commits.waits_for:
        done += commit(commits, *group[done:])
    commits.outputs[output].sent -= len(values) - done  # as if what did not fit had not been staged
    return done


def take(net: Net, commits: Commits, *sends: tuple[str, Any], **more: Any) -> Any:
    """Handle the oldest message in one commit; what it was."""
    message = net.messages(commits, 1)[0]
    assert commit(commits, staged(commits, *sends, ack=message, **more)) == 1
    return shown(message[1])


def switch(net: Net, nodes: Nodes, renewed: Any = (), discard: bool = False, drop: Any = ()) -> int:
    """Change the dataflow of a net, as the runtime does. Returns the wiring number."""
    new = dataflow_of(nodes, net.folder)
    prepared = net.ask("change_prepare", nodes=store_nodes(new), file="new.yml")
    version: int = prepared["version"]
    made = plan(new, "run", prepared["numbers"])
    touched: set[str] = set()
    for id, wiring in made.items():
        was = net.wirings.get(id)
        if was is None:
            continue
        kept = {item.number for item in wiring.inputs}
        left = [replace(item, leaving=True) for item in was.inputs if item.number not in kept and not item.period_ns]
        wiring = replace(wiring, inputs=(*wiring.inputs, *([] if discard else left)), version=was.version)
        made[id] = wiring
        if (was.inputs, was.outputs) != (wiring.inputs, wiring.outputs) or id in renewed:
            touched |= {id, *_together(new, id)}
    for id in touched:
        made[id] = replace(made[id], version=version)
    for id, wiring in made.items():
        made[id] = replace(wiring, others=tuple(made[other.node] for other in wiring.others))
    net.ask(
        "change_switch", version=version, nodes=store_nodes(new), ports={id: made[id].ports() for id in touched},
        renewed=[[id] for id in renewed], revived=[], discard=discard, drop=list(drop), dataflow=plain.to_text(new),
        leaving="", file="new.yml", fingerprint=new.fingerprint(),
    )  # fmt: skip
    net.dataflow, net.numbers = new, prepared["numbers"]
    net.wirings = {**net.wirings, **made}
    return version


def settle(net: Net, *gone: str) -> Mapping[str, Any]:
    """Let go what has drained, as the runtime does. `gone`: removed nodes whose processes have ended."""
    processes = {node.process for node in net.dataflow.nodes} - {""}
    groups = [[node.id for node in net.dataflow.nodes if node.process == name] for name in processes]
    return net.ask("change_settle", nodes=list(gone), together=groups)


def _together(dataflow: Dataflow, id: str) -> list[str]:
    process = dataflow.node(id).process
    return [node.id for node in dataflow.nodes if process and node.process == process]
