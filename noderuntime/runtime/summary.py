"""What a run comes to: a row for each node, what to look at next, and its dead letters.

Decides and words; the runtime asks the store for the figures and carries things out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from noderuntime.dataflow.model import Dataflow
from noderuntime.ipc.rundir import letters_file
from noderuntime.runtime.children import Child
from noderuntime.runtime.lifecycle_events import DONE, LifecycleState
from noderuntime.runtime.observer import SummaryRow

STATES = {LifecycleState.ENDED: "finished", LifecycleState.STOPPED: "stopped", LifecycleState.FAILED: "failed"}

Figures = dict[str, Any]  # the store's, of all nodes by id


def rows(children: Iterable[Child], figures: Figures) -> list[SummaryRow]:
    """What became of each node. Without figures, the counts are those that were seen from here."""
    found = []
    for child in children:
        machine = child.machine
        own = figures.get(child.id, {})
        dead, lost = int(own.get("dead_letters", 0)), dropped(own)
        found.append(
            SummaryRow(
                node=child.id,
                state=STATES.get(machine.state, machine.state.value),
                restarts=machine.restarts,
                messages=messages(figures[child.id]) if child.id in figures else child.handled(),
                reason=with_counts(machine.reason or child.waits, dead, lost),
                dropped=lost,
                dead_letters=dead,
            )
        )
    return found


def standing(children: Iterable[Child], waited_s: float) -> tuple[bool, list[str]]:
    """How a run stands `waited_s` seconds after its nodes were spawned, for `run -d`: whether there is any sense in
    waiting longer, and, when not, what is to be said of each node that is not ready."""
    missing = []
    for child in children:
        machine, patience_s = child.machine, child.spec.start_timeout_s
        if machine.state is LifecycleState.FAILED:
            missing.append(f"{child.id} has failed for good: {machine.reason}")
        elif not (machine.was_ready or machine.state in DONE or child.spec.kind == "dynamic"):
            if waited_s < patience_s:
                return True, []
            why = f", {machine.reason}" if machine.reason else ""
            missing.append(f"{child.id} is not ready after {patience_s:g} s ({machine.state.value}{why})")
    return False, missing


def lines(found: Sequence[SummaryRow]) -> list[str]:
    """The rows as lines, for the runtime's log."""
    return [
        f"{row.node}: {row.state}, {row.restarts} restarts, {row.messages} messages"
        + (f" ({row.reason})" if row.reason else "")
        for row in found
    ]


def outcome(found: Sequence[SummaryRow], gave_up: bool) -> str:
    """What became of a run: finished | stopped | failed."""
    states = {row.state for row in found}
    if gave_up or "failed" in states:
        return "failed"
    return "finished" if states == {"finished"} else "stopped"


def rows_of_none(dataflow: Dataflow, state: str) -> list[SummaryRow]:
    """The rows of a run that ended before it had any children."""
    return [SummaryRow(spec.id, state, 0, 0, "") for spec in dataflow.nodes]


def messages(figures: Figures) -> int:
    """Messages that a node took; those that it sent when it took none."""
    taken = sum(item.get("taken", 0) for item in figures.get("inputs", {}).values())
    return int(taken or sum(figures.get("outputs", {}).values()))


def dead_letters(figures: Figures) -> dict[str, int]:
    """How many dead letters there are, by node; only nodes that have some."""
    found = {id: int(node.get("dead_letters", 0)) for id, node in figures.items()}
    return {id: count for id, count in found.items() if count}


def letters_text(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def dropped(figures: Figures) -> int:
    """Messages for a node that its `drop_oldest` inputs have dropped."""
    return sum(int(item.get("dropped", 0)) for item in figures.get("inputs", {}).values())


def with_counts(reason: str, letters: int, lost: int = 0) -> str:
    """A node's reason, and its dead letters and dropped messages where it has some."""
    counts = [letters_text(letters) if letters else "", f"{lost} dropped" if lost else ""]
    return "; ".join(filter(None, [reason, *counts]))


def made_progress(figures: Figures) -> bool:
    """Whether anything was committed that a later `--resume` could build on. Without figures: who knows."""
    return not figures or any(messages(node) for node in figures.values())


def hints(run: str, file: str, found: Sequence[SummaryRow], figures: Figures, kept: bool) -> list[str]:
    """What to do next, as lines for the end of the run. `kept`: `--resume` finds the space or a last snapshot."""
    lines = [
        f"{letters_text(count)} of {node}: `noderuntime dead-letters show --run {quote(run)} {node}`"
        for node, count in dead_letters(figures).items()
    ]
    failed = [row for row in found if row.state == "failed"]
    if not (failed and kept):
        return lines
    named = "" if Path(file).stem == run else f" --name {quote(run)}"
    resume = f"`noderuntime run {quote(file)}{named} --resume`"
    lines.append(f"the state and the messages of the run are kept; with the cause mended, {resume} goes on with them")
    for row in failed:
        inputs = figures.get(row.node, {}).get("inputs", {}).values()
        queued = sum(item.get("queued", 0) for item in inputs)
        if queued:
            lines.append(f"{_messages(queued)} for {row.node}: kept")
        dropped = sum(item.get("dropped", 0) for item in inputs)
        if dropped:
            lines.append(f"{_messages(dropped)} for {row.node}: dropped, by `queue_policy: drop_oldest`")
        if "restore_state:" in row.reason:
            which = f"--run {quote(run)} {row.node}"
            lines.append(
                f"{row.node} could not restore its state: change its code, or take a look (`noderuntime state ls "
                f"{which}`) and remove what is wrong (`noderuntime state rm {which} KEY`)"
            )
    return lines


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def keep_letters(log_dir: Path, letters: Sequence[dict[str, Any]]) -> None:
    """Keep dead letters with the logs, for `dead-letters ls` and `show` of a run whose space is gone. A full disk keeps
    none. Keys that are not text are shown as text."""
    with contextlib.suppress(OSError):
        kept = json.dumps([_with_text_keys(letter) for letter in letters], ensure_ascii=False, default=repr)
        file = letters_file(log_dir)
        file.touch(mode=0o600)
        file.write_text(kept, errors="replace")


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value
