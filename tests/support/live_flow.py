"""Dataflows that are changed step by step: what one is, and what one change makes of it. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

NODES_MAX = 7
SLACK: dict[str, Any] = {
    "restart_policy": "on-failure", "max_restarts": 0, "restart_delay": "5ms", "max_restart_delay": "50ms",
    "max_attempts": 0,
}  # fmt: skip
REPLICATED = ("keyed", "mapped", "free")
OPERATORS = {"numbers": "Numbers", "keeps": "Keeps", "keyed": "Keyed", "mapped": "mapped", "free": "Free"}
OUTPUTS = ["out"]


@dataclass(frozen=True, slots=True)
class Link:
    """An input. `drop`: it drops the oldest. `whole`: sender and receiver have had it from their beginning on."""

    source: str
    size: int
    drop: bool = False
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """A node. `name`: what it calls itself, whatever its id is by now; `version` is part of its config; `before`: nodes
    that its input came from before; `again`: a node of its id was there before, and its numbers go on.
    """

    kind: str
    name: str
    links: dict[str, Link] = field(default_factory=dict)
    replicas: int = 1
    process: str = ""
    version: int = 0
    tick: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    again: bool = False

    @property
    def main(self) -> str:
        """The name of its first input."""
        return next(iter(self.links))

    @property
    def keeps_state(self) -> bool:
        return self.kind in ("keeps", "keyed", "mapped")


Flow = dict[str, Part]


def text(flow: Flow, snapshots: dict[str, Any], **more: Any) -> str:
    """The dataflow file. JSON is YAML."""
    nodes: list[dict[str, Any]] = [
        {"id": "keeper", "operator": {"python": "live_nodes.py:Keeper"}, "restart_policy": "on-failure", **SLACK}
    ]
    for id, part in flow.items():
        inputs: dict[str, Any] = {
            name: {
                "source": f"{link.source}/out",
                "queue_size": link.size,
                "queue_policy": "drop_oldest" if link.drop else "backpressure",
            }
            for name, link in part.links.items()
        }
        if part.tick:
            inputs["tick"] = "timer/millis/20"
        config = {"name": part.name, "version": part.version, **part.config}
        node: dict[str, Any] = {"id": id, "config": config, **SLACK}
        if part.kind == "takes":
            node |= {"path": "live_nodes.py", "args": "takes", "inputs": inputs, "outputs": OUTPUTS}
        else:
            python = f"live_nodes.py:{OPERATORS[part.kind]}"
            node["operator"] = {"python": python, "inputs": inputs, "outputs": OUTPUTS}
        if part.process:
            node["process"] = part.process
        if part.kind in REPLICATED:
            node["replicas"] = part.replicas
            if part.kind != "free":
                node["partition_by"] = "value.key"
        nodes.append(node)
    return json.dumps({"state": {"size": "48MB"}, "snapshots": snapshots, "nodes": nodes, **more}, indent=1)


def first(rng: random.Random) -> Flow:
    """The dataflow of the start: one or two Sources, and some nodes behind them."""
    flow: Flow = {}
    for number in range(rng.choice([1, 1, 2])):
        batch, pause_ms = rng.choice([(1, 5), (2, 10), (5, 20), (100, 400)])
        config = {"batch": batch, "pause_ms": pause_ms, "large": rng.choice([0, 0, 50])}
        flow[f"s{number}"] = Part("numbers", f"s{number}", config=config)
    for number in range(rng.randint(2, 4)):
        flow[f"a{number}"] = part(rng, flow, f"a{number}", rng.choice(list(flow)), whole=True)
    if rng.random() < 0.35:
        flow["p0"] = replace(part(rng, flow, "p0", rng.choice(list(flow)), "keeps", whole=True), process="p")
        flow["p1"] = replace(part(rng, flow, "p1", "p0", "keeps", whole=True), process="p")
    return flow


def part(rng: random.Random, flow: Flow, name: str, source: str, kind: str = "", whole: bool = False) -> Part:
    """A new node behind `source`."""
    kinds = ["keeps", "keeps", "keeps", "keyed", "keyed", "free", "takes"]
    if whole and not any(part.kind == "mapped" for part in flow.values()):
        kinds.append("mapped")  # one at most: its function does not know its name
    kind = kind or rng.choice(kinds)
    config = {"slow_ms": 1} if kind != "mapped" and rng.random() < 0.2 else {}
    drop = kind in ("keeps", "takes") and rng.random() < 0.15
    size = rng.randint(1, 5) if drop else rng.choice([1, 3, 20, 1000])
    tick = kind == "keyed" or (kind == "keeps" and rng.random() < 0.2)
    replicas = rng.choice([1, 2, 3]) if kind in REPLICATED else 1
    links = {"drop" if drop else "in": Link(source, size, drop, whole)}
    return Part(kind, "mapped" if kind == "mapped" else name, links, replicas, tick=tick, config=config)


def behind(flow: Flow, *ids: str) -> list[str]:
    """These, and all that get messages from them."""
    found = list(ids)
    for each in found:
        found += [
            id
            for id, part in flow.items()
            if id not in found and any(link.source == each for link in part.links.values())
        ]
    return found


def upstream(flow: Flow, id: str) -> set[str]:
    """All whose messages come to a node."""
    found: set[str] = set()
    left = [id]
    while left:
        for link in flow[left.pop()].links.values():
            if link.source not in found:
                found.add(link.source)
                left.append(link.source)
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """What one step makes of a dataflow. `gone`: nodes that are removed; `restarted`: those that get a new life;
    `renamed`: old id -> new id; `discard`: what waits for those that are gone is dropped.
    """

    kind: str
    flow: Flow
    gone: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    discard: bool = False


def change(rng: random.Random, flow: Flow, fresh: str, kinds: Sequence[str]) -> Change | None:
    """Some change of one of these kinds; None when it cannot be made of this dataflow. `fresh`: an id that is new."""
    kind = rng.choice(kinds)
    return {
        "add": _add, "remove": _remove, "rewire": _rewire, "queue": _queue, "input": _input, "change": _change,
        "replicas": _replicas, "rename": _rename, "several": _several,
    }[kind](rng, flow, fresh)  # fmt: skip


def _movable(flow: Flow) -> list[str]:
    return [id for id, part in flow.items() if part.links and not part.process]


def _add(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    if len(flow) >= NODES_MAX:
        return None
    return Change("add", {**flow, fresh: part(rng, flow, fresh, rng.choice(list(flow)))})


def _remove(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    found = [id for id, part in flow.items() if part.links]
    if len(found) < 2:
        return None
    first = rng.choice(found)
    mates = [id for id, part in flow.items() if part.process and part.process == flow[first].process]
    gone = behind(flow, *(mates or [first]))
    if len(gone) == len(found) or any(flow[id].process and "p0" not in gone for id in gone):
        return None
    left = {id: part for id, part in flow.items() if id not in gone}
    return Change("remove", left, tuple(gone), discard=rng.random() < 0.3)


def _rewire(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    found = _movable(flow)
    if not found:
        return None
    id = rng.choice(found)
    was = flow[id]
    link = was.links[was.main]
    closed = {*behind(flow, id), link.source, *was.before, *(other.source for other in was.links.values())}
    free = [other for other in flow if other not in closed]
    if not free:
        return None
    moved = replace(link, source=rng.choice(free), whole=False)
    now = replace(was, links={**was.links, was.main: moved}, before=(*was.before, link.source))
    return Change("rewire", {**flow, id: now})


def _queue(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    found = _movable(flow)
    if not found:
        return None
    id = rng.choice(found)
    name = flow[id].main
    link = flow[id].links[name]
    sizes = [size for size in ((1, 2, 5) if link.drop else (1, 3, 20, 1000)) if size != link.size]
    now = replace(flow[id], links={**flow[id].links, name: replace(link, size=rng.choice(sizes))})
    return Change("queue", {**flow, id: now})


def _input(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    """A second input or a timer comes, or goes."""
    found = [id for id in _movable(flow) if flow[id].kind in ("keeps", "takes")]
    if not found:
        return None
    id = rng.choice(found)
    was = flow[id]
    if was.kind == "keeps" and rng.random() < 0.4:
        return Change("input", {**flow, id: replace(was, tick=not was.tick)})
    if "also" in was.links:
        links = {name: link for name, link in was.links.items() if name != "also"}
        before = (*was.before, was.links["also"].source)
        return Change("input", {**flow, id: replace(was, links=links, before=before)})
    closed = {*behind(flow, id), *was.before, was.links[was.main].source}
    free = [other for other in flow if other not in closed]
    if not free:
        return None
    also = Link(rng.choice(free), rng.choice([1, 20, 1000]), whole=False)
    return Change("input", {**flow, id: replace(was, links={**was.links, "also": also})})


def _change(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    id = rng.choice(list(flow))
    now = replace(flow[id], version=flow[id].version + 1)
    mates = [other for other, part in flow.items() if part.process and part.process == now.process]
    return Change("change", {**flow, id: now}, restarted=tuple(mates or [id]))


def _replicas(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    found = [id for id, part in flow.items() if part.kind in REPLICATED]
    if not found:
        return None
    id = rng.choice(found)
    count = rng.choice([count for count in (1, 2, 3, 4) if count != flow[id].replicas])
    return Change("replicas", {**flow, id: replace(flow[id], replicas=count)})


def _rename(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    found = _movable(flow)
    if not found:
        return None
    old = rng.choice(found)

    def named(id: str) -> str:
        return fresh if id == old else id

    made: Flow = {}
    for id, part in flow.items():
        links = {name: replace(link, source=named(link.source)) for name, link in part.links.items()}
        made[named(id)] = replace(part, links=links, before=tuple(named(other) for other in part.before))
    return Change("rename", made, restarted=(fresh,), renamed={old: fresh})


def _several(rng: random.Random, flow: Flow, fresh: str) -> Change | None:
    """Two or three changes at once."""
    now, discard = flow, False
    gone: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    for number in range(rng.randint(2, 3)):
        made = change(rng, now, f"{fresh}{'xyz'[number]}", ["add", "remove", "rewire", "queue", "input", "change"])
        if made is not None:
            now, gone, discard = made.flow, (*gone, *made.gone), discard or made.discard
            restarted = (*restarted, *made.restarted)
    there = tuple(id for id in gone if id in flow)
    if now == flow or any(id in now for id in there):
        return None
    return Change("several", now, there, restarted, discard=discard)
