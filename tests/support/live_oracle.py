"""What must hold at the end of a schedule that changed a run: every connection is exact, and nothing is left over.

`look` reads what the run has left in its space and in the files of its custom nodes, `check` compares that with the
dataflow of the end. Both know nothing of kills or changes; only a Link knows whether it was there from the beginning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
from support.live_flow import REPLICATED, Flow, Link
from support.live_nodes import KEYS, order_of, way

from noderuntime import merges
from noderuntime.api.keyed.codecs import unpack_stored
from noderuntime.dataflow.identifiers import node_of
from noderuntime.space import keys, kvs, lives, private, records, segments
from noderuntime.space.environment import open_space
from noderuntime.space.records import PRIVATE_BYTES
from noderuntime.space.transactions import ReadTxn

OWN = b"niqpktdwx"  # kinds of keys that a node's number follows


@dataclass(slots=True)
class Found:
    """By node: what it has seen (by input and path: numbers), how many events it counted, its figures in the space;
    and what was wrong already there.
    """

    seen: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    inputs: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    whole_files: bool = True  # the files of custom nodes have all that they have seen


def look(space: Path, folder: Path, flow: Flow) -> Found:
    """All nodes have ended. `folder` has the files of the custom nodes."""
    found = Found()
    opened = open_space(space)  # as the processes of the run do: the store may be writing
    with contextlib.closing(opened), opened.read() as txn:
        registry = lives.load(txn)
        for id, figures in lives.figures(txn, registry).items():
            node = node_of(id)
            for name, queue in figures["inputs"].items():
                sums = found.inputs.setdefault((node, name), dict.fromkeys(queue, 0))
                for what, count in queue.items():
                    sums[what] += count
            found.sent[node] = found.sent.get(node, 0) + figures["outputs"].get("out", 0)
        for id, part in flow.items():
            if part.keeps_state and id in registry:
                _state(found, id, part.kind, txn, registry[id].number)
            elif part.kind == "numbers" and id in registry:
                (position,) = [
                    msgpack.unpackb(record[PRIVATE_BYTES:]) for _, record in private.listed(txn, registry[id].number)
                ] or [0]
                found.seen[id] = {"": set(range(position))}
        for key, entry in kvs.entries(txn, b"count/", 0):
            found.counts[key.decode().removeprefix("count/")] = merges.decode(entry.value)
        found.left = list(_left_over(txn, registry))
    for id, part in flow.items():
        if part.kind == "takes":
            found.seen[id] = {}
            path = folder / f"{part.name}.txt"
            for line in path.read_text().splitlines() if path.exists() else []:
                name, n = line.split()
                found.seen[id].setdefault(name, set()).add(int(n))
    return found


def with_state(space: Path, flow: Flow) -> list[str]:
    """The nodes that have private state there by now; the run may go on."""
    opened = open_space(space)
    with contextlib.closing(opened), opened.read() as txn:
        registry = lives.load(txn)
        return [id for id, part in flow.items() if id in registry and private.size(txn, registry[id].number)]


def _state(found: Found, id: str, kind: str, txn: ReadTxn, number: int) -> None:
    seen = found.seen[id] = {}
    found.events[id] = 0
    for key, record in private.listed(txn, number):
        if kind == "keeps":
            value = msgpack.unpackb(record[PRIVATE_BYTES:])
            if key == b"events":
                found.events[id] = value
                continue
            if key == b"ticks":
                found.wrong += [f"{id}: {text}" for text in value[2:] if text]
                continue
            if key == b"uids":
                found.wrong += [f"{id}: {value['wrong']}"] if "wrong" in value else []
                continue
            noted, wrong = {key.decode().removeprefix("seen "): value}, ""
        else:
            value = unpack_stored(record[PRIVATE_BYTES:])[0]
            found.events[id] += value["events"]
            noted, wrong = value["seen"], value.get("wrong", "")
        found.wrong += [f"{id}: {wrong}"] if wrong else []
        for name, (bits, _, trouble) in noted.items():
            seen.setdefault(name, set()).update(_numbers(bits))
            found.wrong += [f"{id} of {name}: {trouble}"] if trouble else []


def _numbers(bits: bytes) -> Iterator[int]:
    return (byte * 8 + bit for byte, value in enumerate(bits) for bit in range(8) if value >> bit & 1)


def _left_over(txn: ReadTxn, registry: lives.Registry) -> Iterator[str]:
    """Records that nothing refers to."""
    numbers = {entry.number: entry for entry in registry.values()}
    queues = {
        key
        for entry in registry.values()
        for key in (
            *(keys.queue(entry.number, number) for number, _ in entry.all_inputs()), keys.gone_inputs(entry.number)
        )
    }  # fmt: skip
    for id, entry in registry.items():
        if entry.leaves or entry.leaving:
            yield f"{id} still leaves: {entry}"
    for key, value in txn.cursor():
        kind = key[:1]
        if kind in (b"m", b"a", keys.TAPPED_PREFIX):
            yield f"{key!r}: {value[:60]!r}"
        elif key[0] in OWN:
            number = int.from_bytes(key[1:3], "big")
            removed = kind == b"n" and records.NodeRecord.parse(value).status == records.REMOVED
            if number not in numbers and not removed and kind != b"n":
                yield f"{key!r} of node {number}, which is not there"
            elif kind == b"q" and key not in queues:
                yield f"{key!r}: the queue of no input of {numbers[number].id}"
    if list(segments.referenced(txn)):
        yield "a payload is still referred to"


@dataclass(frozen=True, slots=True)
class Stream:
    """What a node has sent that came by one path. `exact`: all of these; else these at most."""

    numbers: set[int]
    exact: bool = True


Streams = dict[str, Stream]


def _sent(flow: Flow, found: Found) -> dict[str, Streams]:
    """What each node has sent, by path."""
    sent: dict[str, Streams] = {}

    def of(id: str) -> Streams:
        if id not in sent:
            part = flow[id]
            if part.kind == "numbers":
                sent[id] = {part.name: Stream(found.seen[id][""])}
            elif part.kind == "free":  # keeps nothing: what came to it can be told only if it was there all the time
                sent[id] = {
                    way(path, part.name, name, part.kind): Stream(stream.numbers, stream.exact and link.whole)
                    for name, link in part.links.items()
                    for path, stream in of(link.source).items()
                }
            else:
                sent[id] = {}
                for name, numbers in found.seen[id].items() if part.kind != "takes" or found.whole_files else ():
                    input, _, path = name.partition(":")
                    # what a custom node had in hand when it was killed may be dropped before it comes again
                    exact = part.kind != "takes" or not part.links[input].drop
                    sent[id][way(path, part.name, input, part.kind)] = Stream(numbers, exact)
        return sent[id]

    for id in flow:
        of(id)
    return sent


def check(flow: Flow, found: Found) -> None:
    """AssertionError with all that is not exact."""
    wrong = [*found.wrong, *found.left]
    sent = _sent(flow, found)
    for id, part in flow.items():
        wrong += [f"{id}: {text}" for text in _figures(id, flow, found)]
        if part.kind in ("numbers", "free"):
            continue
        present: set[str] = set()
        for name, link in part.links.items():
            present |= {f"{name}:{path}" for path in sent[link.source]}
            for path, stream in sent[link.source].items():
                got = found.seen[id].get(f"{name}:{path}", set())
                wrong += [f"{id} of {name}:{path}: {text}" for text in _connection(link, path, stream, got)]
            wrong += [f"{id} of {name}: {text}" for text in _newest(link, sent[link.source], found.seen[id], name)]
        for name, numbers in found.seen[id].items():
            if name not in present and order_of(name) == 2 and "drop" not in name:
                gaps = set(range(min(numbers), max(numbers))) - numbers
                wrong += [f"{id} of {name}, which is no more: {_some(gaps)} did not come"] if gaps else []
    assert not wrong, "\n".join(wrong)


def _connection(link: Link, path: str, stream: Stream, got: set[int]) -> Iterator[str]:
    """What is wrong with what came over a connection that is still there."""
    extra = got - stream.numbers
    if extra:
        yield f"{_some(extra)} came, but were not sent"
    if link.drop or not stream.exact:
        return
    order = order_of(path)
    groups = range(KEYS) if order == 1 else [0]
    for group in groups:
        mine = {n for n in got if order != 1 or n % KEYS == group}
        wanted = {n for n in stream.numbers if order != 1 or n % KEYS == group}
        if link.whole:
            missing = wanted - mine
        elif order and mine:
            missing = {n for n in wanted if n >= min(mine)} - mine
        else:
            missing = set()
        if missing:
            yield f"{_some(missing)} did not come, of {len(wanted)}, the last of which is {max(wanted)}"


def _newest(link: Link, streams: Streams, seen: dict[str, set[int]], input: str) -> Iterator[str]:
    """An input that drops the oldest does not drop the newest."""
    for path, stream in streams.items():
        newest, came = max(stream.numbers, default=-1), max(seen.get(f"{input}:{path}", ()), default=-1)
        known = stream.exact and order_of(path) == 2 and len(streams) == 1  # of several ways one has sent the newest
        if link.drop and known and came != newest and (came >= 0 or link.whole):
            yield f"the newest is {came}, not {newest}"


def _figures(id: str, flow: Flow, found: Found) -> Iterator[str]:
    """What is wrong with what is counted."""
    part = flow[id]
    counted = found.counts.get(part.name, 0)
    if part.kind in ("keeps", "keyed") and counted != found.events[id]:
        yield f"the shared KVS counts {counted} events, its state {found.events[id]}"
    if part.kind == "numbers" and found.sent[id] != len(found.seen[id][""]):
        yield f"{found.sent[id]} messages are counted, {len(found.seen[id][''])} were sent"
    more = found.sent[id] - found.events.get(id, 0)
    if part.kind == "keeps" and (more < 0 or (more and not part.again)):
        yield f"{found.sent[id]} messages are counted, {found.events[id]} events were handled"
    for name, link in part.links.items():
        queue = found.inputs[id, name]
        if queue["queued"]:
            yield f"{name}: {queue['queued']} messages are queued"
        if not link.drop and queue["dropped"]:
            yield f"{name}: {queue['dropped']} messages were dropped"
        if not link.whole or part.kind in REPLICATED:
            continue
        total = queue["taken"] + queue["dropped"] + queue["discarded"]
        if flow[link.source].kind in ("numbers", "keeps", "takes") and total != found.sent[link.source]:
            yield f"{name}: {queue}, of {found.sent[link.source]} that were sent"
        came = {path: numbers for path, numbers in found.seen.get(id, {}).items() if path.startswith(f"{name}:")}
        handled = sum(len(numbers) for numbers in came.values())
        if part.kind == "keeps" and not any("*" in path for path in came) and handled != queue["taken"]:
            yield f"{name}: {handled} messages were handled, {queue['taken']} taken"


def _some(numbers: set[int]) -> str:
    """A few of them, in words."""
    found = sorted(numbers)
    return f"{len(found)} messages ({', '.join(map(str, found[:6]))}{', ...' if len(found) > 6 else ''})"
