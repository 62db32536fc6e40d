"""`node`: the nodes of a run, one of them, and what can be done with one while the others go on."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping

from noderuntime.cli import output
from noderuntime.cli.choose import choose, one_name
from noderuntime.cli.client import ask_runtime
from noderuntime.cli.output import USAGE, CommandError, UsageError
from noderuntime.cli.ps import nodes_of, show_nodes
from noderuntime.dataflow.identifiers import nearest, node_of
from noderuntime.errors import NotRunning
from noderuntime.ipc.control_records import NodeStatus, RunStatus, Together
from noderuntime.ipc.runs import Run

POLL_S = 0.02
OVER_S = 10.0  # beyond the time that a node has to stop and to start
SETTLED = frozenset({"running", "failed", "ended", "stopped", "backoff"})
ASKS = {"restart": "restart", "stop": "halt", "start": "start"}


def node(options: Namespace) -> int:
    """Carry out one operation on the nodes of a run."""
    program = f"noderuntime node {options.operation}"
    if options.operation == "ls":
        if len(options.names) > 1:
            raise UsageError(f"at most RUN, not {len(options.names)} names", program)
        run = choose(one_name(options.names[0] if options.names else None, options.given_run, "node ls"))
        return show_nodes(run, options.json)
    if len(options.names) > 2:
        raise UsageError(f"at most RUN and NODE, not {len(options.names)} names", program)
    *run_name, name = options.names
    run = choose(one_name(run_name[0] if run_name else None, options.given_run, f"node {options.operation}"))
    if options.operation == "info":
        return _info(run, name, options.json)
    return _act(run, options.operation, name, options.json)


def _info(run: Run, name: str, as_json: bool) -> int:
    status, nodes = nodes_of(run)
    of_replicas = (replica for item in nodes for replica in item["replicas"])
    found = next((item for item in (*nodes, *of_replicas) if item["id"] == name), None)
    if found is None:
        raise _unknown(run, name, [item["id"] for item in nodes])
    if as_json:
        output.result_json({"run": status["run"], **found})
    else:
        rows = [(key, _shown(value)) for key, value in found.items()]
        output.result_table(("FIELD", "VALUE"), rows)
    return output.OK


def _shown(value: object) -> object:
    if isinstance(value, list):  # of replicas
        value = ", ".join(f"{own['id']} {own['state']} ({own['pid'] or '-'})" for own in value)
    return "-" if value in (None, "") else value


def _unknown(run: Run, name: str, known: list[str]) -> CommandError:
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"its nodes are: {', '.join(known)}"
    return CommandError(f"the run {run.name!r} has no node {name!r}; {hint}", USAGE)


def _act(run: Run, operation: str, name: str, as_json: bool) -> int:
    before = ask_runtime(run, "status", {}, RunStatus)
    replicas = [item for item in before["nodes"] if node_of(item["id"]) == node_of(name)]
    if not replicas:
        raise _unknown(run, name, list(dict.fromkeys(node_of(item["id"]) for item in before["nodes"])))
    asked = ask_runtime(run, ASKS[operation], {"node": name}, Together)
    lives = asked["lives"]
    within_s = replicas[0]["start_timeout_s"] + OVER_S
    now = _wait(run, operation, name, lives, within_s)
    goals = ("stopped",) if operation == "stop" else ("running", "ended")  # it may have had little left to do
    bad = next((item for item in now if item["state"] not in goals), None)
    there = {item["state"] for item in now}
    state = bad["state"] if bad is not None else next((goal for goal in goals if goal in there), "gone")
    together, pids = asked["together"], [item["pid"] for item in now if item["pid"]]
    if as_json:
        pid = pids[0] if len(pids) == len(now) == 1 else None
        output.result_json({"run": run.name, "node": name, "state": state, "pid": pid, "together": together})
    if state not in goals:
        reason = f": {bad['reason']}" if bad is not None and bad["reason"] else ""
        raise CommandError(f"{name} is {state}{reason}")
    if not as_json:
        with_others = f", as are {', '.join(together)}, which share its process" if together else ""
        processes = f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
        what = {
            "running": f"is running, as {processes}",
            "ended": "has begun again, and has finished",
            "stopped": "is stopped; its queue is kept",
        }
        output.tell(f"{name} {what[state]}{with_others}")
    return output.OK


def _wait(run: Run, operation: str, name: str, lives: Mapping[str, int], within_s: float) -> list[NodeStatus]:
    """The replicas of a node, as soon as all of them are where the operation ends."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        try:
            status = ask_runtime(run, "status", {}, RunStatus)
        except NotRunning:
            raise CommandError(f"the run {run.name!r} has ended meanwhile; `noderuntime ps -a` says how") from None
        now = [item for item in status["nodes"] if item["id"] in lives]
        if all(_is_there(item, lives[item["id"]], operation) for item in now):
            return now
        time.sleep(POLL_S)
    raise CommandError(f"{name} has not got there within {within_s:g} s; see `noderuntime node ls {run.name}`")


def _is_there(item: NodeStatus, life: int, operation: str) -> bool:
    """Whether a replica is where the operation ends; `life` was the last one before it."""
    if operation == "stop":
        return item["state"] in ("stopped", "ended", "failed")
    return item["state"] in SETTLED and item["restarts"] >= life  # lives so far, without the first
