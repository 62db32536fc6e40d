"""state ls|get|set|rm on a run whose runtime was killed: with the real store, started for one request."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from noderuntime.cli import main
from noderuntime.ipc import runs
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Edge, Reply, Request
from noderuntime.ipc.rundir import RunDir

Capture = pytest.CaptureFixture[str]

NODES = [{"id": "sums", "kind": "operator", "inputs": [], "outputs": ["sum"]}]


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    """An interrupted run named `lost`, with a space in which a node is known."""
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path))
    paths = RunDir.of("lost", tmp_path / "runs")
    paths.root.mkdir(parents=True)
    said = {"format": 1, "name": "lost", "pid": 1, "guard": 1, "file": "f.yml", "started": time.time(),
            "boot_id": runs.boot_id(), "log_dir": str(tmp_path), "epoch": 1}  # fmt: skip
    paths.run_file.write_text(json.dumps(said))
    paths.lock.touch()
    store = subprocess.Popen([sys.executable, "-m", "noderuntime.store", str(paths.root), "--size", "16000000"])
    with Dealer(paths.store_socket, Edge.STORE_TO_CLIENT) as dealer:
        arguments = {"nodes": NODES, "fingerprint": "f", "fresh": False, "resume": False}
        dealer.send(Request(VERSION, "test", 1, "open", arguments))
        assert isinstance(dealer.receive(10.0), Reply)
    store.kill()
    store.wait()
    yield paths


def test_state_can_be_read_and_written_and_no_store_stays(lost: RunDir, capsys: Capture) -> None:
    assert main(["state", "set", "shared", "greeting", "hello"]) == 0
    assert main(["state", "set", "sums", "total", "5"]) == 0
    assert main(["state", "get", "shared", "greeting"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert main(["state", "ls", "sums", "--json"]) == 0
    (key,) = json.loads(capsys.readouterr().out)
    assert (key["key"], key["size"]) == ("total", 1)
    assert main(["state", "rm", "sums", "total"]) == 0
    assert main(["state", "get", "sums", "total"]) == 1
    assert _users_of(lost.root) == []


def test_a_run_that_somebody_holds_is_left_alone(lost: RunDir, capsys: Capture) -> None:
    assert main(["ps", "-a", "--json"]) == 0
    with lost.lock.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as another `state` command does for a moment
        assert main(["clean"]) == 0
    assert lost.root.exists()
    assert main(["clean"]) == 0
    assert not lost.root.exists()


def test_a_space_that_is_gone_is_an_error_with_words(lost: RunDir, capsys: Capture) -> None:
    lost.root.chmod(0o700)
    (lost.space / "data.mdb").write_bytes(b"no space at all" * 1000)
    assert main(["state", "ls", "shared"]) == 1
    assert "cannot be made" in capsys.readouterr().err


def _users_of(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(folder) in line:
                found.append(line)
    return found
