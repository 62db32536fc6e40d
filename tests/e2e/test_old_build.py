"""A run that was interrupted under an earlier build resumes under this one: see kept/make.py for how it was kept.

`before-packages` is of commit 4b3c91f, before the modules moved into packages; `before-packs` of e97b933, before
several messages could lie in one record. When they were killed, the sink waited in its handler with messages in its
mailboxes, large payloads lay in segments, and one message was a dead letter. `before-slots` is of eea3b69, before the
states of keys lay by slot.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from support.harness import Folder

from noderuntime.ipc.runs import boot_id
from noderuntime.testing import Harness

KEPT = Path(__file__).parent / "kept"
ADDED = [number for number in range(101) if number != 13]


def unpack(folder: Folder, build: str, flow: str, part: str) -> None:
    """Lay out what was kept of a run: its space (part "runs"), or its snapshots only (part "state")."""
    shutil.copytree(KEPT / flow, folder.folder, dirs_exist_ok=True)
    with tarfile.open(KEPT / f"{build}.tar.gz") as archive:
        archive.extractall(folder.folder, filter="data")
    for path in folder.home.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        if path.suffix == ".json" and path.name in ("run.json", "snapshots.json"):
            plain = json.loads(path.read_text().replace("/tmp/flow", str(folder.folder)))
            path.write_text(json.dumps(plain | ({"boot_id": boot_id()} if "boot_id" in plain else {})))
    if part == "state":
        shutil.rmtree(folder.run_dir().root)


PARTS = pytest.mark.parametrize("part", ["runs", "state"], ids=["from its space", "from its last snapshot"])


@pytest.mark.parametrize("build", ["before-packages", "before-packs"])
@PARTS
def test_a_run_interrupted_under_an_earlier_build_resumes_exactly(folder: Folder, part: str, build: str) -> None:
    unpack(folder, build, "flow", part)
    folder.write(go="")
    running = folder.start(resume=True)
    assert running.finish() == 0
    result = json.loads((folder.folder / "result.json").read_text())
    before = [value for when, value in result["sum"] if when == "before"]
    assert 0 < len(before) <= 30
    assert [value for _, value in result["sum"]] == [
        [number, total, 200_000 * (number % 20 == 0)] for number, total in zip(ADDED, accumulate(ADDED), strict=True)
    ]
    assert [value for _, value in result["digit"]] == [
        [number % 10, sum(range(number % 10, number + 1, 10))] for number in range(101)
    ]
    assert result["added"] == len(ADDED)
    assert running.rows()["sums"]["reason"].endswith("1 dead letter")


@PARTS
def test_timers_and_times_to_live_of_an_earlier_build_are_found_again(folder: Folder, part: str) -> None:
    unpack(folder, "before-slots", "flow-keyed", part)
    folder.write(go="")
    assert folder.start(resume=True).finish() == 0
    program: dict[str, Any] = {}
    exec((KEPT / "flow-keyed" / "sessions.py").read_text(), program)
    reference = Harness(program["Sessions"])
    for number in range(101):
        reference.send("n", number)
    reference.stop("ALL_INPUTS_CLOSED")
    expected = reference.outputs("out")
    assert {what for what, *_ in expected} == {"event", "timer", "end"}
    assert json.loads((folder.folder / "result.json").read_text()) == expected
