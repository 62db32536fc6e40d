"""What a run came to: its exit code, whether its space is kept, and what to tell the user. Pure.

Everything here is decided from an `Outcome`, which holds what is known at the end of a run. ending.py acts on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Final

from noderuntime.dataflow.identifiers import node_of
from noderuntime.ipc.runs import continue_command
from noderuntime.runtime.observer import SummaryRow
from noderuntime.runtime.phases import Phase, RunPhase
from noderuntime.runtime.summary import FiguresByNode, dead_letters, dropped, letters_text, messages, messages_text

OK: Final = 0
FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a run at its end."""

    phase: RunPhase
    node_failed: bool = False  # at least one failed for good
    figures: FiguresByNode | None = None  # the store's, by node; None or {}: it could not be asked
    keeps_snapshots: bool = False
    unsaved: str = ""  # why there is no last snapshot, although one was due
    undelivered: str = ""  # why shared writes have not arrived at the store of the shared KVS
    lost_messages: bool = False  # a run under --chaos has lost or repeated messages

    @property
    def exit_code(self) -> int:
        """Of the runtime."""
        failed = self.phase.gave_up or self.node_failed or self.lost_messages or self.undelivered
        return self.phase.code or (FAILED if failed else OK)

    @property
    def is_kept(self) -> bool:
        """Whether the space stays, for `--resume`: the run was cut short, or failed and has no last snapshot."""
        if not self.phase.has_space:
            return False  # there was never anything
        if self.phase.was_cut_short or self.undelivered:
            return True
        if self.unsaved:  # of a finished run, too: `state` reads it there, and `--resume` saves it
            return True
        # a failed run continues from its last snapshot; without snapshots, from its space
        return not self.keeps_snapshots and self.node_failed and self.made_progress

    @property
    def is_resumable(self) -> bool:
        """Whether `--resume` finds the space or a last snapshot."""
        return self.is_kept or (self.keeps_snapshots and self.made_progress)

    @property
    def is_kept_as_failed(self) -> bool:
        """Whether the run ended in order, and is kept only because a node failed."""
        return self.is_kept and self.node_failed and not self.phase.gave_up and not self.undelivered

    @property
    def made_progress(self) -> bool:
        """Whether anything was committed that a later `--resume` could build on. Without figures it is assumed."""
        return not self.figures or any(messages(node) for node in self.figures.values())

    @property
    def needs_replay(self) -> bool:
        """Whether the last steps of the flight recorder go into the log: something went wrong."""
        phase = self.phase
        return phase.state is not Phase.OVER or bool(phase.gave_up and not phase.refused) or self.node_failed

    def word(self, rows: Sequence[SummaryRow]) -> str:
        """finished | stopped | failed."""
        states = {row.state for row in rows}
        if self.phase.gave_up or "failed" in states:
            return "failed"
        return "finished" if states == {"finished"} else "stopped"

    def advice(self, run: str, file: str, rows: Sequence[SummaryRow]) -> list[str]:
        """What was not saved, and what to do next, as lines for the end of the run."""
        if self.phase.refused:
            return []  # the error says it
        lines = []
        if self.unsaved:
            kept = ". The state is kept in memory; `--resume` continues from it" if self.is_kept else ""
            lines.append(f"there is no last snapshot: {self.unsaved}{kept}")
        if self.undelivered:
            lines.append(
                f"shared writes have not arrived: {self.undelivered}. They are kept; `--resume` delivers them"
            )
        return [*lines, *self._hints(run, file, rows)]

    def _hints(self, run: str, file: str, rows: Sequence[SummaryRow]) -> list[str]:
        figures: FiguresByNode = self.figures or {}
        lines = [
            f"{letters_text(count)} of {node}: `noderuntime dead-letters show --run {quote(run)} {node}`"
            for node, count in dead_letters(figures).items()
        ]
        failed = [row for row in rows if row.state == "failed"]
        if not (failed and self.is_resumable):
            return lines
        lines.append(
            "the state and the messages of the run are kept; fix the cause, then "
            f"{continue_command(run, file)} continues with them"
        )
        for row in failed:
            own = [node for id, node in figures.items() if node_of(id) == row.node]
            queued = sum(item["queued"] for node in own for item in node["inputs"].values())
            if queued:
                lines.append(f"{messages_text(queued)} for {row.node}: kept")
            lost = sum(map(dropped, own))
            if lost:
                lines.append(f"{messages_text(lost)} for {row.node}: dropped, by `queue_policy: drop_oldest`")
            if "restore_state:" in row.reason:
                which = f"--run {quote(run)} {row.node}"
                lines.append(
                    f"{row.node} could not restore its state: change its code, or take a look (`noderuntime state ls "
                    f"{which}`) and remove what is wrong (`noderuntime state rm {which} KEY`)"
                )
        return lines


def farewell(run: str, file: str) -> str:
    """What the guard prints if the runtime is killed."""
    return (
        f"noderuntime: the runtime of {run!r} was killed. All its processes were ended, its state is kept.\n"
        f"  Continue with {continue_command(run, file)}, or remove it with `noderuntime clean {quote(run)}`."
    )
