"""Dataflows of many shapes, as data: written as YAML for the run, and read by the oracle."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from noderuntime.dataflow.reader import parse
from noderuntime.errors import DataflowError

OPERATORS = {"source": "Numbers", "worker": "Worker", "adder": "Adder"}


@dataclass(slots=True)
class Link:
    """An input of a node: where it comes from, and its queue."""

    source: str  # "node/output", or a timer
    size: int = 1000
    drop: bool = False

    @property
    def is_timer(self) -> bool:
        return self.source.startswith("timer/")


@dataclass(slots=True)
class Vertex:
    """`role`: source | worker | adder (operators), counting | writing (custom nodes)."""

    role: str
    inputs: dict[str, Link] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    process: str = ""  # operators with the same share one

    @property
    def is_operator(self) -> bool:
        return self.role in OPERATORS


@dataclass(slots=True)
class Flow:
    """`nodes` by id. `keeper`: a node that keeps the run alive until it has been looked at."""

    nodes: dict[str, Vertex]
    size: str = "48MB"

    def leader(self, id: str) -> str:
        """The node whose name the process of `id` has: the first of its operators."""
        process = self.nodes[id].process
        return next((other for other, vertex in self.nodes.items() if process and vertex.process == process), id)

    def yaml(self, folder: str) -> str:
        """The dataflow file. JSON is YAML."""
        nodes: list[dict[str, Any]] = []
        for id, vertex in self.nodes.items():
            inputs = {
                name: link.source
                if link.is_timer
                else {
                    "source": link.source,
                    "queue_size": link.size,
                    "queue_policy": "drop_oldest" if link.drop else "backpressure",
                }
                for name, link in vertex.inputs.items()
            }
            config = {**vertex.config, "inputs": list(vertex.inputs), "outputs": vertex.outputs}
            if vertex.role == "writing":
                config["file"] = f"{folder}/{id}.txt"
            node: dict[str, Any] = {
                "id": id, "config": config, "restart_policy": "on-failure", "max_restarts": 0, "restart_delay": "5ms",
                "max_restart_delay": "50ms", "max_attempts": 0,
            }  # fmt: skip
            if vertex.process:
                node["process"] = vertex.process
            if vertex.is_operator:
                python = f"cast.py:{OPERATORS[vertex.role]}"
                node["operator"] = {"python": python, "inputs": inputs, "outputs": vertex.outputs}
            else:
                node |= {"path": "cast.py", "args": vertex.role, "inputs": inputs, "outputs": vertex.outputs}
            nodes.append(node)
        env = {"KEEP_UNTIL": f"{folder}/done"}
        nodes.append({"id": "keeper", "path": "cast.py", "args": "keeping", "env": env, "restart_policy": "on-failure",
                      "max_restarts": 0, "restart_delay": "5ms", "max_restart_delay": "50ms"})  # fmt: skip
        return json.dumps({"state": {"size": self.size}, "snapshots": {"to": "none"}, "nodes": nodes}, indent=1)


def source(count: int, *, seed: int = 1, batch: int = 1, outputs: int = 1, **config: Any) -> Vertex:
    names = [f"o{number}" for number in range(outputs)]
    return Vertex("source", outputs=names, config={"count": count, "seed": seed, "batch": batch, **config})


def worker(kind: str, inputs: dict[str, Link], outputs: int = 1, **config: Any) -> Vertex:
    return Vertex("worker", inputs, [f"o{number}" for number in range(outputs)], {"kind": kind, **config})


def writing(**inputs: Link) -> Vertex:
    return Vertex("writing", inputs)


def chain(count: int, *, batch: int = 1, large: int = 0, size: int = 1000) -> Flow:
    """source -> a -> b -> sink"""
    return Flow({
        "source": source(count, batch=batch, large=large),
        "a": worker("sum", {"in": Link("source/o0", size)}, large=large),
        "b": worker("dice", {"in": Link("a/o0", size)}),
        "sink": writing(n=Link("b/o0", size)),
    })  # fmt: skip


def fan_out(rng: random.Random, count: int, link: Any, **more: Any) -> Flow:
    nodes = {"source": source(count, **more), "a": worker("split", {"in": link("source/o0")}, 3)}
    for number in range(2):
        nodes[f"b{number}"] = worker(rng.choice(["sum", "many", "dice"]), {"in": link(f"a/o{number}")})
    nodes["b2"] = worker("dice", {"in": link("a/o2"), "also": link("source/o0")})
    nodes["sink"] = writing(n=link("b0/o0"), m=link("b2/o0"))
    return Flow(nodes)


def fan_in(rng: random.Random, count: int, link: Any, **more: Any) -> Flow:
    return Flow({
        "s0": source(count, seed=1, **more),
        "s1": source(count // 2, seed=2, **more),
        "count": Vertex("counting", outputs=["o0"], config={"count": count // 4, "seed": 3, "pause_ms": 1}),
        "a": worker("sum", {"x": link("s0/o0"), "y": link("s1/o0"), "z": link("count/o0")}),
        "b": worker(rng.choice(["dice", "many"]), {"in": link("a/o0"), "tick": Link("timer/millis/5")}),
        "sink": writing(n=link("b/o0")),
    })  # fmt: skip


def cycle(rng: random.Random, count: int, link: Any, **more: Any) -> Flow:
    return Flow({
        "source": source(count, **more),
        "a": worker("loop", {"in": link("source/o0"), "back": Link("b/o0", 100_000, drop=True)}, 2),
        "b": worker("forward", {"in": link("a/o0")}),
        "c": worker("dice", {"in": link("a/o1")}),
        "sink": writing(n=link("c/o0")),
    })  # fmt: skip


def dropping(rng: random.Random, count: int, link: Any, **more: Any) -> Flow:
    return Flow({
        "source": source(count, **{**more, "large": rng.choice([0, 2])}),
        "a": worker("forward", {"in": Link("source/o0", rng.randint(1, 5), drop=True)}, slow_ms=1, keep=2, large=3),
        "b": worker("sum", {"in": link("a/o0")}, keep=rng.randint(0, 3)),
        "sink": writing(n=link("b/o0")),
    })  # fmt: skip


def random_flow(rng: random.Random, count: int) -> Flow:
    """Some shape with some queues, batches, payloads and speeds."""
    tight = rng.random() < 0.5

    def link(source: str) -> Link:
        return Link(source, rng.randint(1, 6) if tight else rng.choice([50, 1000]))

    more: dict[str, Any] = {"batch": rng.choice([1, 1, 3, 8]), "pause_ms": rng.choice([0, 0, 2])}
    if rng.random() < 0.3:
        more["large"] = rng.choice([3, 10])
        count //= 2
    shape = rng.choice(["chain", "fan_out", "fan_in", "cycle", "dropping"])
    if shape == "chain":
        flow = Flow({
            "source": source(count, **more),
            "a": worker(rng.choice(["sum", "many", "dice"]), {"in": link("source/o0")}, large=more.get("large", 0)),
            "b": worker(rng.choice(["sum", "dice"]), {"in": link("a/o0")}, keep=rng.randint(0, 3)),
            "c": worker("none", {"in": link("b/o0"), "tick": Link("timer/millis/3")}, 0),
            "sink": writing(n=link("b/o0")),
        })  # fmt: skip
    else:
        make = {"fan_out": fan_out, "fan_in": fan_in, "cycle": cycle, "dropping": dropping}[shape]
        flow = make(rng, count, link, **more)
    for vertex in flow.nodes.values():
        if vertex.role == "worker" and rng.random() < 0.2:
            vertex.config["slow_ms"] = 0.5
    return flow


def together(flow: Flow, rng: random.Random) -> Flow:
    """The same dataflow, with some of its operators in shared processes that cannot wait for each other."""
    operators = [id for id, vertex in flow.nodes.items() if vertex.is_operator]
    for _ in range(20):
        processes = rng.choice([["p"], ["p"], ["p", "q"]])
        for id in operators:
            flow.nodes[id].process = rng.choice([*processes, *processes, ""])
        if len({flow.nodes[id].process for id in operators} - {""}) and not _waits_for_itself(flow):
            return flow
    for id in operators:
        flow.nodes[id].process = "p" if not _waits_for_itself(flow) else ""
    return flow


def _waits_for_itself(flow: Flow) -> bool:
    """Whether there is a cycle of processes that the reader refuses."""
    try:
        parse(flow.yaml("/nowhere"), file="flow.yml")
    except DataflowError:
        return True
    return False
