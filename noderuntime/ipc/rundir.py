"""The folders and files of a run. This module builds paths; the only thing that it reads is the password database.

    HOME/NAME/                      on shared memory, 0700; HOME = /dev/shm/noderuntime-UID, or $NODERUNTIME_HOME/runs
        run.json                    written once by the runtime (see `RunFile` in runs.py)
        snapshots.json              where snapshots go (see snapshot/settings.py)
        dora.json                   of a dataflow of dora: what its nodes want to know (see dora/facts.py)
        lock                        locked by the runtime for as long as it lives (see runs.py)
        runtime.sock store.sock     ZeroMQ
        taps.sock                   a stream socket, while there are taps (see watching/frames.py)
        space/data.mdb lock.mdb     the space
        bell/NUMBER                 doorbells, one FIFO per node
        pulse/NUMBER                pulses, one page per node
        segments/OWNER-NUMBER       payloads of large messages
    STATE/NAME/                     on disk; STATE = ~/.local/state/noderuntime, or $NODERUNTIME_HOME/state
        logs/STAMP/NODE.jsonl       a JSON object per line: time, node, stream (stdout|stderr|log), text, level, fields
        logs/STAMP/NODE.jsonl.1     the older part, once the log has become large
        logs/STAMP/dead-letters.json                       those that were left when the run ended
        snapshots/                  snapshots of a run without `snapshots: {to: ...}`
        snapshots.json              where the snapshots of the last run in this folder are, and of which file it is
    STATE/NAME@HASH/                the same, of another dataflow file with a run of that name (see state_folders.py)

HOME stays, empty, when the last run has gone: a run that begins at that moment may be about to make its folder in it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from noderuntime.dataflow.identifiers import directory_name
from noderuntime.errors import NodeRuntimeError

ENV_HOME = "NODERUNTIME_HOME"
ENV_RUN_DIR = "NODERUNTIME_RUN_DIR"
ENV_NODE = "NODERUNTIME_NODE"
ENV_LIFE = "NODERUNTIME_LIFE"  # counts the spawns of one node by this runtime, from 1
ENV_DORA = "NODERUNTIME_DORA"  # the file of facts for the nodes of a dataflow of dora
ENV_TRIAL = "NODERUNTIME_TRIAL"  # the file with what a process on trial has to try
ENV_VALIDATE = "NODERUNTIME_VALIDATE"  # set by tests: the runtime checks its invariants after each step of a node
ENV_PATIENT = "NODERUNTIME_PATIENT"  # set: other nodes may keep this one's welcome waiting for as long as they like
ENV_TERMINAL = "NODERUNTIME_TERMINAL"  # "COLUMNSxLINES" when the run is shown on a terminal, else unset


def home(env: Mapping[str, str], uid: int) -> Path:
    """The folder of all runs of this user."""
    given = env.get(ENV_HOME)
    return Path(given).absolute() / "runs" if given else Path(f"/dev/shm/noderuntime-{uid}")


def state_home(env: Mapping[str, str]) -> Path:
    """The folder of logs and default snapshots of all runs of this user."""
    given = env.get(ENV_HOME)
    if given:
        return Path(given).absolute() / "state"
    given = env.get("XDG_STATE_HOME", "")
    return (Path(given) if given.startswith("/") else _user_home(env) / ".local/state") / "noderuntime"


def _user_home(env: Mapping[str, str]) -> Path:
    """$HOME, or else the folder in the password database. Never a folder that another user could make first."""
    given = env.get("HOME", "")
    if given:
        return Path(given)
    uid = os.getuid()
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        raise NodeRuntimeError(
            f"there is no place for logs and snapshots: $HOME is not set, and user {uid} has none in the password "
            f"database. Set ${ENV_HOME} to a folder of yours"
        ) from None


def older_log(file: Path) -> Path:
    """Where a log file is moved once it has grown large."""
    return file.with_name(f"{file.name}.1")


def letters_file(log_dir: Path) -> Path:
    """The file with the dead letters that a run had at its end, as a JSON list."""
    return log_dir / "dead-letters.json"


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one run."""

    root: Path

    @classmethod
    def of(cls, run: str, home: Path) -> RunDir:
        return cls(home / directory_name(run))

    @property
    def run_file(self) -> Path:
        return self.root / "run.json"

    @property
    def snapshots_file(self) -> Path:
        return self.root / "snapshots.json"

    @property
    def dora_file(self) -> Path:
        return self.root / "dora.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def space(self) -> Path:
        return self.root / "space"

    @property
    def runtime_socket(self) -> Path:
        return self.root / "runtime.sock"

    @property
    def store_socket(self) -> Path:
        return self.root / "store.sock"

    @property
    def taps_socket(self) -> Path:
        return self.root / "taps.sock"

    def bell(self, number: int) -> Path:
        return self.root / "bell" / str(number)

    @property
    def segments(self) -> Path:
        return self.root / "segments"

    @property
    def trials(self) -> Path:
        """What processes on trial have to try, one file each."""
        return self.root / "trials"

    def pulse(self, number: int) -> Path:
        return self.root / "pulse" / str(number)
