"""What commands may do with one node of a run: `node restart`, `node stop` and `node start`.

What is done with an operator that shares its process is done with all of them, and what is done with a node with all
its replicas; those with which it cannot be done, because they have ended, say, are passed over. A node that was stopped
keeps its queue, its state and its open outputs: its senders wait when the queue is full, and the run waits for
`node start`.
"""

from __future__ import annotations

from typing import Final

from noderuntime.dataflow.identifiers import nearest, node_of
from noderuntime.ipc.protocol import Answer
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.machine import IllegalEvent
from noderuntime.runtime.nodes import NodeSupervisor

ONE_NODE: Final = ("restart", "halt", "start")


def one_node(what: str, supervisor: NodeSupervisor, node: str) -> Answer:
    """Carry out one of ONE_NODE; the answer has a Together."""
    found = [child for child in supervisor.children.values() if node_of(child.id) == node]
    if not found:
        known = list(dict.fromkeys(map(node_of, supervisor.children)))
        if node in supervisor.children:
            whole = node_of(node)
            return Answer({}, f"{node!r} is a replica of {whole!r}; name {whole!r}, which means all its replicas")
        near = nearest(node, known)
        hint = f"did you mean {near!r}?" if near else f"its nodes are: {', '.join(known)}"
        return Answer({}, f"the run has no node {node!r}; {hint}")
    objections = [_objection(what, supervisor, child, node) for child in found]
    concerned = [child for child, why in zip(found, objections, strict=True) if not why]
    if not concerned:
        return Answer({}, objections[0])
    lives = {child.id: child.leader.machine.life for child in concerned}
    grace_s = supervisor.services.options.grace_s
    try:
        for child in concerned:
            if what == "halt":
                child.leader.feed(su.StopAsked(grace_s, alone=True))
            else:
                child.leader.feed(su.RestartAsked("was asked to restart", grace_s))
            child.leader.parked = what == "halt"
    except IllegalEvent:
        return Answer({}, f"{node!r} is {child.leader.machine.state.value}; try again in a moment")
    if what == "halt":
        text = f"{node} was stopped; the run waits for `node start {node}`, which goes on with its queue"
        supervisor.services.run_log.tell(text)
    leader = concerned[0].leader
    together = [member.id for member in (leader, *leader.others) if member is not concerned[0]]
    return Answer({"together": together, "lives": lives}, "")


def _objection(what: str, supervisor: NodeSupervisor, child: Child, node: str) -> str:
    """Why it cannot be done with a process of `node`; "" when it can."""
    state = child.state
    if supervisor.ending:
        return f"the run is stopping, so nothing is done with {node!r}"
    if child.leaving:
        return f"{node!r} is no longer in the dataflow: it handles what waits for it, and ends"
    if child.spec.kind == "dynamic":
        return f"{node!r} is started by hand, see `path: dynamic` in the dataflow file: start or stop its program"
    if state is LifecycleState.ENDED:
        return f"{node!r} has finished, and does not begin again in this run"
    can_start = state in (LifecycleState.STOPPED, LifecycleState.FAILED, LifecycleState.BACKOFF)
    if what == "start" and not (can_start or child.leader.parked):
        return f"{node!r} was not stopped: it is {state.value}; `node restart {node}` begins a new life"
    if what == "halt":
        if state is LifecycleState.STOPPED:
            return f"{node!r} was stopped already"
        if state is LifecycleState.FAILED:
            return f"{node!r} has failed, so there is nothing to stop; `node restart {node}` brings it back"
    return ""
