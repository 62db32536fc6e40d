"""Where and how often the snapshots of a run are taken, in a file that other processes read.

The store reads `snapshots.json` in the run directory; `snapshot ls` and `verify` read a copy in the run's folder below
the state directory when the run has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from noderuntime.snapshot.places import open_backend

FILE = "snapshots.json"
SPOOL = "snapshots"
OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Settings:
    """`to` as in the dataflow file; `folder` is that file's; `spool` the run's own folder for snapshots."""

    run: str
    to: str
    folder: str
    spool: str
    every_s: float = 60.0
    keep: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    size_bytes: int = 0  # of the space; 0: the default
    file: str = ""  # the dataflow file; "" in settings of old

    @property
    def enabled(self) -> bool:
        return self.to != "none"

    def open(self, retry_s: float | None = None) -> Any:
        """The backend. `retry_s`: see open_backend. Raises SnapshotUnavailable."""
        return open_backend(self.to, self.run, Path(self.folder), Path(self.spool), self.options, retry_s)

    def owner(self) -> str:
        """8 hexadecimal digits by which the stores of this run recognize what they wrote: made from the run's own
        folder and the machine, because homes are copied and shared. "" if there are none and none can be stored."""
        path = Path(self.spool, OWNER)
        try:
            drawn = path.read_text()
        except (OSError, ValueError):
            drawn = ""
        if not drawn:
            drawn = secrets.token_hex(16)
            try:
                _write(path, drawn)
            except OSError:
                return ""
        try:
            machine = Path("/etc/machine-id").read_text()
        except (OSError, ValueError):
            machine = ""
        return hashlib.sha256(f"{drawn} {machine} {os.uname().nodename}".encode()).hexdigest()[:8]

    def write(self, path: Path) -> None:
        """Write the file as a whole or not at all; only its owner can read it."""
        _write(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Settings | None:
        """The settings in the file; None if there is no file, or it cannot be understood."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(text)
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
