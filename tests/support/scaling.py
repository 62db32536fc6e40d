"""A dataflow without a runtime whose replicas change while it flows: what the runtime asks of the store for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

from support.kit import Net, Nodes, dataflow_of

from noderuntime.dataflow import plain
from noderuntime.dataflow.identifiers import node_of
from noderuntime.ipc.wiring import Wiring
from noderuntime.runtime.plan import plan, store_nodes
from noderuntime.space import by_slot, moves
from noderuntime.space.by_slot import READ_MESSAGES
from noderuntime.space.moves import MOVE_BYTES


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


def move(net: Net, node: str, count: int, bytes_max: int = MOVE_BYTES, read_max: int = READ_MESSAGES) -> int:
    """One part of a move of slots. Returns what is left."""
    with patch.object(moves, "MOVE_BYTES", bytes_max), patch.object(by_slot, "READ_MESSAGES", read_max):
        left: int = net.ask("change_move", counts={node: count})["left"]
    return left


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
