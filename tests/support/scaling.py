"""A dataflow without a runtime whose replicas change while it flows: what the runtime asks of the store for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from support.kit import Net, Nodes, dataflow_of

from noderuntime.dataflow import plain
from noderuntime.dataflow.identifiers import node_of
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime.plan import plan, store_nodes
from noderuntime.space import lives
from noderuntime.space.moves import MOVE_BYTES, move_slots


def switch(net: Net, nodes: Nodes) -> int:
    """Make this the dataflow in force, in one transaction. Returns its wiring number."""
    new = dataflow_of(nodes, net.folder)
    prepared = net.ask("change_prepare", nodes=store_nodes(new), file="new.yml")
    version: int = prepared["version"]
    made: dict[str, Wiring] = plan(new, "run", prepared["numbers"])
    ports = {}
    for id, wiring in made.items():
        was = net.wirings.get(id)
        if was is not None and was.ports() != wiring.ports():
            ports[id] = wiring.ports()
        made[id] = replace(wiring, version=version)
    net.ask(
        "change_switch", version=version, nodes=store_nodes(new), ports=ports, renewed=[], revived=[], discard=False,
        drop=[], dataflow=plain.to_text(new), leaving="", file="new.yml", fingerprint=new.fingerprint(),
    )  # fmt: skip
    net.dataflow, net.numbers = new, {**net.numbers, **prepared["numbers"]}
    net.wirings = {**net.wirings, **made}
    return version


def move(net: Net, node: str, count: int, bytes_max: int = MOVE_BYTES) -> int:
    """One part of a move of slots. Returns what is left."""
    if bytes_max == MOVE_BYTES:
        left: int = net.ask("change_move", counts={node: count})["left"]
        return left
    with net.space.write() as txn:
        return move_slots(txn, net.space, lives.load(txn), node, count, bytes_max)


def scale(
    net: Net, nodes: Nodes, node: str, before: int, count: int, begin: Callable[[], None] = lambda: None
) -> None:
    """All of it, as the runtime does: slots move away before the switch, or to new replicas when these have begun."""
    settle(net)
    while count < before and move(net, node, count):
        pass
    switch(net, nodes)
    begin()
    while move(net, node, count):
        pass


def settle(net: Net) -> None:
    """Let go the replicas that have ended."""
    net.ask("change_settle", nodes=[id for id in net.numbers if id != node_of(id)])
