"""`ps`: the runs of this user, or the nodes of one run."""

from __future__ import annotations

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING, PastRun, choose, known_runs, one_name, past_runs
from noderuntime.cli.output import CommandError
from noderuntime.cli.text import duration
from noderuntime.dataflow.identifiers import node_of, shown_id
from noderuntime.errors import NotRunning, ProtocolError
from noderuntime.ipc.runs import Run

if TYPE_CHECKING:
    from noderuntime.ipc.control_records import RunStatus
    from noderuntime.runtime.summary import FiguresByNode

STORE_ANSWERS_WITHIN_S = 1.0  # `ps` shows "-" rather than wait for a store that is busy or being restarted


def ps(options: Namespace) -> int:
    """List runs; with a RUN, its nodes."""
    name = one_name(options.run, options.given_run, "ps")
    if name is not None:
        return show_nodes(choose(name), options.json)
    runs = [run for run in known_runs() if options.all or run.state == RUNNING]
    found: list[Run | PastRun] = [*runs, *(past_runs(runs) if options.all else ())]
    now = time.time()
    if options.json:
        output.result_json([_json_run(run) for run in found])
    elif found:
        heads = ("NAME", "STATE", "PID", "STARTED", *(["RESUMABLE"] if options.all else []), "FILE")
        output.result_table(heads, [_row(run, now, options.all) for run in found])
    else:
        states = Counter() if options.all else Counter(run.state for run in known_runs())
        others = ", ".join(f"{count} {state}" for state, count in sorted(states.items(), reverse=True))
        also = f"; {others}, see `noderuntime ps -a`" if others else ""
        output.tell(f"no runs{'' if options.all else ' are running'}{also}")
    return output.OK


def nodes_of(run: Run) -> tuple[RunStatus, list[dict[str, Any]]]:
    """The status of a run, and its nodes with what the store counts of them."""
    from noderuntime.cli.client import ask_runtime  # ZeroMQ, which a list of runs does without
    from noderuntime.ipc.control_records import RunStatus
    from noderuntime.runtime import summary

    status = ask_runtime(run, "status", {}, RunStatus)
    figures = _figures(run)
    nodes: list[dict[str, Any]] = []
    for node_status in status["nodes"]:
        own = figures.get(node_status["id"])
        counts = {
            "messages": None if own is None else summary.messages(own),
            "dropped": None if own is None else summary.dropped(own),
            "dead_letters": None if own is None else own["dead_letters"],
        }
        nodes.append({**node_status, "pid": node_status["pid"] or None, **counts, "replicas": []})
    return status, folded(nodes)


def show_nodes(run: Run, as_json: bool) -> int:
    """Print the nodes of a run."""
    from noderuntime.runtime import summary

    status, nodes = nodes_of(run)
    if as_json:
        output.result_json({**status, "nodes": nodes})
        return output.OK
    shown = [line for node in nodes for line in (node, *({**node, **own, "id": own["id"]} for own in node["replicas"]))]
    rows = [
        (
            node["id"],
            node["kind"],
            node["state"],
            node["pid"] or "-",
            node["restarts"],
            "-" if node["messages"] is None else node["messages"],
            "-" if node["dropped"] is None else node["dropped"],
            node["phase"] or "-",
            summary.with_counts(node["reason"], node["dead_letters"] or 0),
        )
        for node in shown
    ]
    output.result_table(("NODE", "KIND", "STATE", "PID", "RESTARTS", "MESSAGES", "DROPPED", "PHASE", "REASON"), rows)
    return output.OK


def folded(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One node for all its replicas, which it has as `replicas`; its own pid is then None."""
    from noderuntime.runtime import summary

    by_node: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        by_node.setdefault(node_of(node["id"]), []).append(node)
    found = []
    for own in by_node.values():
        if len(own) == 1:
            found.append(own[0])
            continue
        reasons = [f"{shown_id(node['id'], len(own))}: {node['reason']}" for node in own if node["reason"]]
        replicas = [
            {**node, "id": shown_id(node["id"], len(own)), "replica": replica} for replica, node in enumerate(own)
        ]
        for node in replicas:
            del node["replicas"]
        found.append({
            **own[0],
            "pid": None,
            "state": summary.state_of([node["state"] for node in own]),
            "restarts": sum(node["restarts"] for node in own),
            "incarnation": max(node["incarnation"] for node in own),
            "handled": sum(node["handled"] for node in own),
            "reason": "; ".join(reasons),
            "phase": "",
            **{name: _sum(node[name] for node in own) for name in ("messages", "dropped", "dead_letters")},
            "replicas": replicas,
        })
    return found


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def _figures(run: Run) -> FiguresByNode:
    """The store's figures of the nodes; empty when the store, the only one to know them, does not answer."""
    from noderuntime.cli.client import StoreClient
    from noderuntime.ipc.store_records import Figures, result

    if not run.run_dir.store_socket.exists():
        return {}
    try:
        with StoreClient(run.name, run.run_dir.store_socket, within_s=STORE_ANSWERS_WITHIN_S) as store:
            return store.request("figures", {}, result(Figures))["nodes"]
    except (CommandError, NotRunning, ProtocolError):
        return {}


def _row(run: Run | PastRun, now: float, with_past: bool) -> tuple[object, ...]:
    resumable = ["yes" if _can_be_resumed(run) else "-"] if with_past else []
    return (run.name, run.state, _pid(run) or "-", _ago(now - run.file.started), *resumable, run.file.file)


def _can_be_resumed(run: Run | PastRun) -> bool:
    """Whether `run --resume` can continue it; not while it is running."""
    return run.resumable if isinstance(run, PastRun) else run.state != RUNNING and run.trusted


def _pid(run: Run | PastRun) -> int | None:
    return run.file.pid if run.state == RUNNING else None


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"


def _json_run(run: Run | PastRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "pid": _pid(run),
        "started": run.file.started,
        "file": run.file.file,
        "resumable": _can_be_resumed(run),
        "run_dir": None if isinstance(run, PastRun) else str(run.run_dir.root),
        "log_dir": run.file.log_dir,
    }
