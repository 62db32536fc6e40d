"""What commands may do with one node of a run: `node restart`, `node stop` and `node start`.

What is done with an operator that shares its process is done with all of them. A node that was stopped keeps its queue,
its state and its open outputs: its senders wait when the queue is full, and the run waits for `node start`.
"""

from __future__ import annotations

from typing import Final

from noderuntime.dataflow.identifiers import nearest
from noderuntime.ipc.protocol import Answer
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.machine import IllegalEvent
from noderuntime.runtime.nodes import NodeSupervisor

ONE_NODE: Final = ("restart", "halt", "start")


def one_node(what: str, supervisor: NodeSupervisor, node: str) -> Answer:
    """Carry out one of ONE_NODE; the answer has a Together."""
    child = supervisor.children.get(node)
    if child is None:
        near = nearest(node, supervisor.children)
        hint = f"did you mean {near!r}?" if near else f"its nodes are: {', '.join(supervisor.children)}"
        return Answer({}, f"the run has no node {node!r}; {hint}")
    leader = child.leader
    why = _objection(what, supervisor, child)
    if why:
        return Answer({}, why)
    life = leader.machine.life
    try:
        if what == "halt":
            leader.parked = True
            leader.feed(su.StopAsked(supervisor.services.options.grace_s))
            text = f"{node} was stopped; the run waits for `node start {node}`, which goes on with its queue"
            supervisor.services.run_log.tell(text)
        else:
            leader.parked = False
            leader.feed(su.RestartAsked("was asked to restart", supervisor.services.options.grace_s))
    except IllegalEvent:
        return Answer({}, f"{node!r} is {leader.machine.state.value}; try again in a moment")
    together = [member.id for member in (leader, *leader.others) if member is not child]
    return Answer({"together": together, "life": life, "state": leader.machine.state.value}, "")


def _objection(what: str, supervisor: NodeSupervisor, child: Child) -> str:
    """Why it cannot be done; "" when it can."""
    node, state = child.id, child.state
    if supervisor.ending:
        return f"the run is stopping, so nothing is done with {node!r}"
    if child.leaving:
        return f"{node!r} is no longer in the dataflow: it handles what waits for it, and ends"
    if child.spec.kind == "dynamic":
        return f"{node!r} is started by hand, see `path: dynamic` in the dataflow file: start or stop its program"
    if state is LifecycleState.ENDED:
        return f"{node!r} has finished, and does not begin again in this run"
    if what == "start" and state not in (LifecycleState.STOPPED, LifecycleState.FAILED, LifecycleState.BACKOFF):
        return f"{node!r} is {state.value} already"
    if what == "halt":
        if state is LifecycleState.STOPPED:
            return f"{node!r} was stopped already"
        if state is LifecycleState.FAILED:
            return f"{node!r} has failed, so there is nothing to stop; `node restart {node}` brings it back"
    return ""
