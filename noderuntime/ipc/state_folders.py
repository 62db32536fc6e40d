"""The folder on disk for the logs and default snapshots of a run: one per dataflow file, not one per name.

Runs are named after their files, and many projects have a `dataflow.yml`. `STATE/NAME` belongs to the file that used
the name first (its snapshots.json says which); another file with a run of that name has `STATE/NAME@HASH`, of its path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from noderuntime.dataflow.identifiers import directory_name
from noderuntime.ipc.homes import RunRefused
from noderuntime.ipc.rundir import state_home

SETTINGS = "snapshots.json"


@dataclass(frozen=True, slots=True)
class StateFolder:
    """`notice`: a text for the user ("" for none)."""

    folder: Path
    notice: str = ""


def choose(name: str, file: Path, environ: Mapping[str, str], resume: bool, kept_file: str = "") -> StateFolder:
    """The folder of the run `name` of the dataflow file at the absolute path `file`.

    With `resume`, raises RunRefused for a run of that name that belongs to another file, unless that file no longer
    exists: then the project has moved, and the run continues. `kept_file`: the file of the kept space, "" without one.
    """
    mine = _own(name, file, environ)
    if not resume:
        return StateFolder(mine)
    if kept_file:
        if Path(kept_file) == file:
            return StateFolder(mine)
        _refuse_if_there(name, file, Path(kept_file))
        moved = next((folder for folder in folders(name, environ) if _belongs(folder, Path(kept_file))), mine)
        return StateFolder(moved, _moved(name, kept_file))
    if _has_settings(mine):
        return StateFolder(mine)
    for folder in folders(name, environ):
        other = _file_of(folder)
        if other is None:
            continue
        _refuse_if_there(name, file, other)
        return StateFolder(folder, _moved(name, str(other)))
    return StateFolder(mine)


def folders(name: str, environ: Mapping[str, str]) -> list[Path]:
    """The folders of all runs of that name, for every file; the one used last comes first."""
    state = state_home(environ)
    first = state / directory_name(name)
    found = [folder for folder in (first, *state.glob(f"{directory_name(name)}@*")) if folder.is_dir()]
    return sorted(found, key=_used_ns, reverse=True)


def name_of(folder: Path) -> str:
    """The name of a folder's runs, as far as it can be told from the folder's own name."""
    return folder.name.partition("@")[0]


def _own(name: str, file: Path, environ: Mapping[str, str]) -> Path:
    first = state_home(environ) / directory_name(name)
    if not _has_settings(first) or _belongs(first, file):
        return first
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:12]
    return first.with_name(f"{first.name}@{digest}")


def _has_settings(folder: Path) -> bool:
    return bool(_settings(folder))


def _belongs(folder: Path, file: Path) -> bool:
    settings = _settings(folder)
    if settings.get("file"):
        return Path(settings["file"]) == file
    return Path(str(settings.get("folder", ""))) == file.parent  # written by a version that did not record the file


def _file_of(folder: Path) -> Path | None:
    """The dataflow file, or at least its folder; None if neither is known."""
    settings = _settings(folder)
    known = settings.get("file") or settings.get("folder")
    return Path(str(known)) if known else None


def _settings(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _used_ns(folder: Path) -> int:
    try:
        return (folder / SETTINGS).stat().st_mtime_ns
    except OSError:
        return 0


def _refuse_if_there(name: str, file: Path, other: Path) -> None:
    if other.exists():
        raise RunRefused(
            name,
            f"the last run {name!r} is that of {other}, not of {file}",
            f"To continue it, give its own file; `noderuntime run {quote(str(file))} --name OTHER` runs this one under "
            "another name.",
        )


def _moved(name: str, other: str) -> str:
    return f"the run {name!r} was that of {other}, which is no longer there: continuing it with this file"
