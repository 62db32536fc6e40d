"""What a run reports to its observer, and what the observer may ask of it.

The runtime presents nothing itself: it calls an Observer, from its one thread, while it supervises. So each
call must return at once. Who writes to a terminal or pipe that may not take its text (Ctrl-S, a pager) writes
from a thread of their own, and drops or keeps what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from noderuntime.dataflow.model import Dataflow
from noderuntime.errors import DataflowError

STDOUT, STDERR = "stdout", "stderr"

GRACE_S = 5.0
INFO = 20  # of Python's logging


def _unseen(dataflow: Dataflow, overrides: Mapping[str, str]) -> list[DataflowError]:
    return []


@dataclass(frozen=True, slots=True)
class DoraRun:
    """What the children of a dataflow of dora find: the folder `path` first on PYTHONPATH, and `facts`, which they read
    from a file of the run (see noderuntime.dora.facts).
    """

    path: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a dataflow.

    `environ` is the environment that children inherit and in which $NODERUNTIME_HOME and $HOME are looked up;
    `extra_env` (from --env) wins over what the dataflow file says. `terminal` is "COLUMNSxLINES" when the run
    is shown on a terminal, else "". `chaos_s`: a random child is killed about so often; `seed` repeats the kills
    of an earlier run. `watch`: operators are reloaded when their files change. `grace_s`: from the STOP event
    to SIGTERM at a stop. `from_snapshot`: resume from this one, and not from a space that is kept.
    `drop`, `rename` (old id -> new id): nodes that are no longer in the file, and may lose what they have, or have
    another id now. `dora`: the dataflow is one of dora. `problems` finds what would keep a dataflow from running, as
    far as one sees without running it; it gets `extra_env` as well. It is asked about files that are to be applied.
    """

    name: str
    environ: Mapping[str, str]
    extra_env: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False
    from_snapshot: int | None = None
    fresh: bool = False
    drop: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    stop_after_s: float | None = None
    abort_on_failure: bool = False
    terminal: str = ""
    chaos_s: float | None = None
    seed: int | None = None
    watch: bool = False
    grace_s: float = GRACE_S
    dora: DoraRun | None = None
    problems: Callable[[Dataflow, Mapping[str, str]], list[DataflowError]] = _unseen


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of `ctx.log`. `time`: seconds since the epoch; `level`: Python's logging level."""

    time: float
    node: str
    level: int
    text: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """What became of one node. `state`: finished | stopped | failed | waiting.

    `messages`: those that it took; those that it sent when it took none. `dropped`: those that its `drop_oldest` inputs
    dropped.
    """

    node: str
    state: str
    restarts: int
    messages: int
    reason: str
    dropped: int = 0
    dead_letters: int = 0


class Observer(Protocol):
    """Shows a run to its user. Texts have no newline at their end; a `trace` has several lines.

    It may have a property `congested`, true while text piles up: then what nodes print stays in their pipes for the
    moment, and they wait; and a property `out_is_gone`, true once the reader of stdout is gone (`run ... | head`),
    which is why SIGTERM comes then. It may have a method `stopping(grace_s)`, called when the run is asked to stop:
    from then on it may wait so long, and no longer, for the text to be read.
    """

    def waiting(self, nodes: Sequence[str]) -> None:
        """Start-up takes longer than a moment: these nodes are not ready yet.

        Called again when the list has changed, and with an empty one when the wait is over.
        """

    def started(self) -> None:
        """The space is open and every node has been spawned. From here on errors are nodes' errors."""

    def line(self, node: str, stream: str, text: str) -> None:
        """A node wrote a line on `stream` (stdout | stderr). Bytes that are not UTF-8 become U+FFFD."""

    def log(self, record: LogRecord) -> None:
        """A node logged a record."""

    def status(self, text: str, level: int = INFO) -> None:
        """Something that a person should know about the run: a restart, a stop, a full disk.

        `level` as in `logging`.
        """

    def crash(self, node: str, where: str, error: str, trace: str) -> None:
        """User code of a node failed. `where`: import | init | restore_state | on_event | produce | spawn.

        `error` is one line; `trace` is the user's part of the traceback, "" when there is none.
        """

    def report(self, lines: Sequence[str], facts: Mapping[str, Any]) -> None:
        """What a run under --chaos came to, for people and for programs; before the summary."""

    def summary(self, rows: Sequence[SummaryRow]) -> None:
        """The run is over. One row per node, in the order of the file."""
