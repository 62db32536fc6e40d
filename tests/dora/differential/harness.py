"""Runs one dataflow of dora on both runtimes: the real one and ours. The records of the nodes are then compared.

The real one is installed by `make test-dora` into a folder of its own, which $NODERUNTIME_REAL_DORA names; without it
these tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ENV_REAL = "NODERUNTIME_REAL_DORA"
ROOT = Path(__file__).parents[3]
WAIT_S = 90.0
LEAVE_S = 20.0


class Outcome(NamedTuple):
    """How a run ended. `records`: what each program said (see record.py); `out` and `err`: of the command."""

    code: int
    records: dict[str, list[Any]]
    out: str
    err: str


def real_folder() -> Path:
    """Where the real dora is installed. Skips the test where it is not."""
    given = os.environ.get(ENV_REAL)
    if not given or not (Path(given) / "bin/dora").is_file():
        pytest.skip(f"dora-rs 1.1.0 is not installed: `make test-dora` installs it, and sets ${ENV_REAL}")
    return Path(given).absolute()


def write(folder: Path, files: Mapping[str, str], dataflow: str) -> Path:
    """The folder of a dataflow: flow.yml, its programs, and record.py."""
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "record.py", folder)
    for name, text in {**files, "flow.yml": dataflow}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "records").mkdir()
    return folder


def run_real(folder: Path, *options: str, command: str = "run", env: Mapping[str, str] | None = None) -> Outcome:
    """`dora run flow.yml` in a folder."""
    real = real_folder()
    line = [str(real / "bin/dora"), command, "flow.yml", *options]
    return _run(line, folder, {"PATH": f"{real / 'bin'}:{os.environ['PATH']}", **(env or {})})


def run_ours(folder: Path, *options: str, command: str = "run", env: Mapping[str, str] | None = None) -> Outcome:
    """`noderuntime run --dora flow.yml` in a folder."""
    line = [sys.executable, "-m", "noderuntime", command, "--dora", "flow.yml", *options]
    home = {"NODERUNTIME_HOME": str(folder / "home"), "NODERUNTIME_VALIDATE": "1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return _run(line, folder, {"PATH": path, "PYTHONPATH": str(ROOT), **home, **(env or {})})


def run_both(folder: Path, files: Mapping[str, str], dataflow: str, *options: str) -> tuple[Outcome, Outcome]:
    """(real, ours) of one dataflow."""
    real_folder()
    real = run_real(write(folder / "real", files, dataflow), *options)
    return real, run_ours(write(folder / "ours", files, dataflow), *options)


def _run(line: list[str], folder: Path, env: Mapping[str, str]) -> Outcome:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NODERUNTIME_", "DORA_", "PYTHON"))}
    environ = {**kept, "RECORDS": str(folder / "records"), **env}
    process = subprocess.Popen(
        line, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        out, err = process.communicate(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        pytest.fail(f"{' '.join(line)} did not end within {WAIT_S:.0f} s\n{out[-4000:]}\n{err[-4000:]}")
    records = {
        file.stem: [json.loads(text) for text in file.read_text().splitlines()]
        for file in sorted((folder / "records").glob("*.jsonl"))
    }
    return Outcome(process.returncode, records, out, err)
