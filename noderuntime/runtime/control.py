"""What may be asked of a live run: its status, to stop, to change, something with one node, and a tap server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from noderuntime.dataflow.identifiers import nearest, node_of
from noderuntime.errors import ProtocolError
from noderuntime.ipc.control_records import (
    AppliedOf,
    ApplyRun,
    NodeStatus,
    OneNode,
    ReloadNode,
    RunStatus,
    ScaleRun,
    StopRun,
)
from noderuntime.ipc.protocol import VERSION, Answer, Ask
from noderuntime.ipc.pulse import PHASES
from noderuntime.ipc.runs import RunFile
from noderuntime.ipc.typed import decode
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.applying import Applying
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import DONE
from noderuntime.runtime.machine import IllegalEvent
from noderuntime.runtime.node_control import ONE_NODE, one_node
from noderuntime.runtime.nodes import NodeSupervisor
from noderuntime.runtime.taps import TapKeeper

_AGAIN = "Stop the run, and continue it with `run FILE --resume`: that starts all nodes that have not ended."


def answer(
    ask: Ask,
    supervisor: NodeSupervisor,
    file: RunFile,
    stopping: bool,
    stop: Callable[[bool], None],
    now_s: float,
    applying: Applying | None = None,
    taps: TapKeeper | None = None,
) -> Answer:
    """Do what is asked. `stopping`: the run was asked to end; `stop(drain)` asks it to."""
    if ask.version != VERSION:
        return Answer({}, f"this runtime speaks version {VERSION} of the protocol, not {ask.version}")
    try:
        if ask.what == "status":
            return Answer(status(file, stopping, supervisor.children.values(), now_s), "")
        if ask.what == "stop":
            stop(decode(StopRun, ask.arguments, "stop").drain)
            return Answer({}, "")
        if ask.what == "reload":
            return _reload(supervisor, decode(ReloadNode, ask.arguments, "reload").node)
        if ask.what in ONE_NODE:
            return one_node(ask.what, supervisor, decode(OneNode, ask.arguments, ask.what).node)
        if ask.what == "apply" and applying is not None:
            return Answer(applying.begin(decode(ApplyRun, ask.arguments, "apply")), "")
        if ask.what == "scale" and applying is not None:
            return Answer(applying.scale(decode(ScaleRun, ask.arguments, "scale")), "")
        if ask.what == "applied" and applying is not None:
            return Answer(applying.told(decode(AppliedOf, ask.arguments, "applied").ticket), "")
        if ask.what == "give_up" and applying is not None:
            return Answer(applying.give_up(decode(AppliedOf, ask.arguments, "give_up").ticket), "")
        if ask.what == "taps" and taps is not None:
            return Answer(taps.wanted(may_start=bool(supervisor.children)), "")
    except ProtocolError as error:
        return Answer({}, str(error))
    known = "status, stop, reload, apply, scale, applied, give_up, restart, halt, start and taps"
    return Answer({}, f"a runtime can be asked for {known}, not for {ask.what[:40]!r}")


def status(file: RunFile, stopping: bool, children: Iterable[Child], now_s: float) -> RunStatus:
    """The run, as `ps` shows it."""
    return {
        "run": file.name,
        "pid": file.pid,
        "file": file.file,
        "started": file.started,
        "state": "stopping" if stopping else "running",
        "nodes": [node_status(child, now_s) for child in children],
    }


def node_status(child: Child, now_s: float) -> NodeStatus:
    """One node, as `ps` shows it."""
    machine = child.machine
    lives = child.alive and not child.has_ended
    glance = child.glance(now_s) if lives else None
    return {
        "id": child.id,
        "kind": child.spec.kind,
        "state": child.state.value,
        "pid": child.pid if lives else 0,
        "restarts": machine.restarts,
        "incarnation": child.incarnation,
        "handled": child.handled(),
        "reason": "; ".join(filter(None, [machine.reason, child.waits])),
        "phase": PHASES[glance.phase] if glance is not None and glance.phase < len(PHASES) else "",
        "reloads_failed": child.leader.reloads_failed,
        "reload_error": child.leader.reload_error,
        "start_timeout_s": child.spec.start_timeout_s,
        "since_s": round(max(0.0, now_s - machine.since_s), 3),
    }


def _reload(supervisor: NodeSupervisor, node: str) -> Answer:
    child = supervisor.children.get(node)
    if child is None:
        near = nearest(node, supervisor.children)
        hint = f"did you mean {near!r}?" if near else f"its nodes are: {', '.join(supervisor.children)}"
        return Answer({}, f"the run has no node {node!r}; {hint}")
    if child.spec.kind != "operator":
        return Answer({}, f"{node!r} is a custom node; only operators can be reloaded. {_AGAIN}")
    if supervisor.ending:
        return Answer({}, f"the run is stopping, so {node!r} is not reloaded; `run FILE --resume` takes its new code")
    try:
        for replica in [other for other in supervisor.children.values() if node_of(other.id) == node] or [child]:
            replica.feed(su.ReloadAsked())
    except IllegalEvent:
        state = child.machine.state
        way_out = f" {_AGAIN}" if state in DONE else ""
        return Answer({}, f"{node!r} is {state.value}; only a running or failed operator can be reloaded.{way_out}")
    leader = child.leader
    together = [member.id for member in (leader, *leader.others) if member is not child]
    return Answer({"together": together}, "")
