"""The fault injector itself: it fails on names that do not exist, so that no fault test becomes silently weaker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.fault_points import INJECTOR, missing
from support.redis_server import RedisServer
from support.schedules import (
    CUSTOM_OFTEN,
    CUSTOM_ONCE,
    FORK_SERVER,
    OPERATOR_OFTEN,
    OPERATOR_ONCE,
    RUNTIME,
    SEGMENTS,
    STORE,
)
from support.stage import Stage

PLAN = '[{"who": "nobody", "point": "put", "hit": 1, "action": "kill"}]'


def injected(code: str, folder: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter that finds the injector in `folder`."""
    given = {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}", "FAULTS": PLAN, "FAULTS_DIR": "/nowhere"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**given, **(env or {})}, capture_output=True, text=True, check=False
    )


def changed_injector(folder: Path, old: str, new: str) -> Path:
    """A copy of the injector in which `old` is called `new`."""
    text = INJECTOR.read_text()
    assert old in text
    (folder / INJECTOR.name).write_text(text.replace(old, new))
    return folder


def test_a_module_that_does_not_exist_ends_every_process_at_its_start(tmp_path: Path) -> None:
    folder = changed_injector(tmp_path, '"noderuntime.ipc.process"', '"noderuntime.ipc.processs"')
    done = injected("print('started')", folder)
    assert (done.returncode, done.stdout) == (70, "")
    assert "there is no module noderuntime.ipc.processs" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "module"),
    [
        ('Node, "send_output"', 'Node, "send_outputs"', "noderuntime.node.custom_node"),
        ("module.MemoryState", "module.MemoryStates", "noderuntime.state.memory"),
        ("module.run = run", "module.begin = run", "noderuntime.runtime.runtime"),
    ],
)
def test_an_attribute_that_does_not_exist_ends_the_process_that_imports_its_module(
    tmp_path: Path, old: str, new: str, module: str
) -> None:
    done = injected(f"import {module}\nprint('started')", changed_injector(tmp_path, old, new))
    assert (done.returncode, done.stdout) == (70, "")
    assert module in done.stderr and "has no attribute" in done.stderr


def test_without_a_plan_nothing_is_patched(tmp_path: Path) -> None:
    folder = changed_injector(tmp_path, 'Node, "send_output"', 'Node, "send_outputs"')
    assert injected("import noderuntime.node.custom_node", folder, {"FAULTS": "[]"}).returncode == 0


def test_the_points_in_the_source_do_nothing_without_a_plan_and_call_the_injector_with_one() -> None:
    code = "from noderuntime.ipc.fault_points import point; print('none' if point is None else point.__module__)"
    assert injected(code, INJECTOR.parent, {"FAULTS": "[]"}).stdout == "none\n"
    assert injected(code, INJECTOR.parent).stdout == "sitecustomize\n"


def test_a_point_in_the_source_fires(tmp_path: Path) -> None:
    plan = '[{"who": "me", "point": "let go", "hit": 1, "action": "error"}]'
    code = "from noderuntime.ipc.fault_points import point; point('let go')"
    given = {"FAULTS": plan, "FAULTS_DIR": str(tmp_path), "NODERUNTIME_NODE": "me"}
    assert "Injected: injected at let go" in injected(code, INJECTOR.parent, given).stderr


def test_every_point_of_the_schedules_exists() -> None:
    named = (*OPERATOR_ONCE, *OPERATOR_OFTEN, *SEGMENTS, *CUSTOM_ONCE, *CUSTOM_OFTEN, *STORE, *RUNTIME, *FORK_SERVER)
    assert missing(named) == []


@pytest.mark.parametrize("point", ["putt", "event Hello", "send Welcom", "do Nothing", "request clam"])
def test_a_fault_at_a_point_that_does_not_exist_is_refused(point: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=point):
        Stage([{"who": "a", "point": point, "hit": 1, "action": "kill"}], tmp_path)


def test_a_fault_that_kills_the_server_waits_until_one_is_up(tmp_path: Path) -> None:
    fired, up = tmp_path / "fired", tmp_path / "pid"
    fired.mkdir()
    server = RedisServer(tmp_path)
    assert server.process is not None
    plan = [{"who": "me", "point": point, "hit": 1, "action": "server"} for point in ("put", "commit")]
    env = {"FAULTS": json.dumps(plan), "FAULTS_DIR": str(fired), "FAULTS_SERVER": str(up), "NODERUNTIME_NODE": "me"}

    def passing(*points: str) -> list[str]:
        """Which of the faults have happened, when these points are passed."""
        done = injected(f"import sitecustomize\nfor name in {points}: sitecustomize.point(name)", INJECTOR.parent, env)
        assert done.returncode == 0, done.stderr
        return sorted(path.name for path in fired.iterdir())

    try:
        assert passing("put", "commit") == []
        up.write_text(str(server.process.pid))
        assert passing("put", "commit", "commit") == ["0"]
        assert server.process.wait() == -signal.SIGKILL
        server.start()
        assert passing("commit") == ["0"]
        up.write_text(str(server.process.pid))
        assert passing("put", "commit") == ["0", "1"]
        assert server.process.wait() == -signal.SIGKILL
    finally:
        server.kill()
