"""state watch|diff on live runs, through the real command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.harness import TICKING, Folder, Running


@pytest.fixture
def running(folder: Folder) -> Running:
    running = folder.start(TICKING)
    running.wait_running()
    return running


def command(running: Running, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "noderuntime", "state", *arguments],
        env={"NODERUNTIME_HOME": str(running.folder.home), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def output(running: Running, *arguments: str) -> str:
    process = command(running, *arguments)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out


def test_watch_prints_changes_as_they_happen(running: Running) -> None:
    watch = command(running, "watch", "shared", "limit/", "--count", "3", "--json")
    assert watch.stderr is not None
    assert "watching" in watch.stderr.readline()
    output(running, "set", "shared", "limit/a", "5")
    output(running, "set", "shared", "other", "1")
    output(running, "set", "shared", "limit/b", "6")
    output(running, "rm", "shared", "limit/a")
    out, _ = watch.communicate(timeout=30)
    found = [json.loads(line) for line in out.splitlines()]
    assert [(item["key"], item.get("text"), item["deleted"]) for item in found] == [
        ("limit/a", "5", False),
        ("limit/b", "6", False),
        ("limit/a", None, True),
    ]
    assert watch.returncode == 0
    running.ask("stop")
    assert running.finish() == 0


def test_diff_prints_what_has_changed_since_a_version(running: Running) -> None:
    output(running, "set", "shared", "a", "1")
    output(running, "set", "shared", "b", "1")
    version = output(running, "diff", "shared").strip()
    assert output(running, "diff", "shared", version) == ""
    output(running, "set", "shared", "a", "2")
    output(running, "rm", "shared", "b")
    found = json.loads(output(running, "diff", "shared", version, "--json"))
    assert {key: entry["text"] for key, entry in found["changed"].items()} == {"a": "2"}
    assert found["deleted"] == ["b"]
    refused = command(running, "diff", "shared", "0123")
    _, err = refused.communicate(timeout=30)
    assert refused.returncode == 1
    assert "0123" in err
    running.ask("stop")
    assert running.finish() == 0


def test_private_state_cannot_be_watched(running: Running) -> None:
    refused = command(running, "watch", "ticks")
    _, err = refused.communicate(timeout=30)
    assert refused.returncode == 2
    assert "only `shared`" in err
    running.ask("stop")
    assert running.finish() == 0
