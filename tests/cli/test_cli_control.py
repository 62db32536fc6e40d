"""ps, stop, reload, clean: which run is meant, and what happens to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from support.cli_world import World, figures_reply, node_status, status_answer
from support.kit import node_figures

from noderuntime.cli import main, reload
from noderuntime.ipc.protocol import Answer, Ask
from noderuntime.node.reload_check import CHECK_S_MAX
from noderuntime.snapshot.settings import FILE, Settings

Capture = pytest.CaptureFixture[str]


def test_ps_lists_running_runs_and_counts_interrupted_ones(world: World, capsys: Capture) -> None:
    assert main(["ps"]) == 0
    assert capsys.readouterr().err == "no runs are running\n"
    world.run("lost", running=False)
    assert main(["ps"]) == 0
    assert "1 interrupted, see `noderuntime ps -a`" in capsys.readouterr().err
    world.run("live", started=0)
    assert main(["ps"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["NAME", "STATE", "PID", "STARTED", "FILE"]
    assert out.splitlines()[1].split()[:3] == ["live", "running", str(os.getpid())]
    assert "lost" not in out


def test_ps_a_shows_interrupted_runs_too(world: World, capsys: Capture) -> None:
    world.run("lost", running=False)
    world.run("live")
    assert main(["ps", "-a", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["state"]) for run in runs] == [("live", "running"), ("lost", "interrupted")]
    assert runs[1]["pid"] is None


def test_ps_a_shows_what_has_ended_and_what_of_it_can_be_resumed(world: World, capsys: Capture) -> None:
    for name, ended in (("done", "finished"), ("halted", "stopped"), ("gone", ""), ("bare", "stopped")):
        run = world.run(name, running=False)
        (run.logs / "run.json").write_text(json.dumps({**json.loads(run.paths.run_file.read_text()), "ended": ended}))
        state = world.home / "state" / name
        kept = state / "snapshots"
        kept.mkdir()
        if name != "bare":
            (kept / "1").mkdir()
        Settings(run=name, to="", folder="/flows", spool=str(kept)).write(state / FILE)
        run.remove()
    world.run("live")
    assert main(["ps", "-a", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["state"], run["resumable"]) for run in runs] == [
        ("live", "running", False), ("bare", "stopped", False), ("done", "finished", False), ("gone", "lost", True),
        ("halted", "stopped", True),
    ]  # fmt: skip
    assert main(["ps", "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)] == ["live"]
    assert main(["ps", "-a"]) == 0
    assert "RESUMABLE" in capsys.readouterr().out.splitlines()[0]


def test_a_run_directory_that_is_just_beginning_is_passed_over(world: World, capsys: Capture) -> None:
    run = world.run("half")
    run.paths.run_file.write_text("{")
    assert main(["ps", "-a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_ps_of_a_run_shows_its_nodes(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    world.runtime(run, lambda ask: status_answer(node_status("sums", pid=7, restarts=2, handled=47)))
    assert main(["ps", "flow"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[5] == "-", "only the store knows"
    figures = node_figures({"sum": 7}, n={"taken": 40})
    world.store(run, lambda request: figures_reply(request.number, sums=figures))
    assert main(["ps", "flow"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "sums", "operator", "running", "7", "2", "40", "0", "waiting",
    ]  # fmt: skip


def test_ps_of_a_run_as_json_has_what_the_runtime_and_the_store_know(world: World, capsys: Capture) -> None:
    sums = node_status("sums", state="failed", pid=0, restarts=2, incarnation=3, handled=47, reason="no", phase="")
    run = world.run("flow")
    world.runtime(run, lambda ask: status_answer(sums, pid=9))
    figures = node_figures(dead_letters=2, a={"taken": 40, "dropped": 5}, b={"dropped": 7})
    world.store(run, lambda request: figures_reply(request.number, sums=figures))
    assert main(["ps", "--run", "flow", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (node,) = told["nodes"]
    wanted = {"id": "sums", "kind": "operator", "state": "failed", "pid": None, "restarts": 2, "incarnation": 3,
              "messages": 40, "dropped": 12, "dead_letters": 2, "reason": "no", "replicas": []}  # fmt: skip
    assert {key: node[key] for key in wanted} == wanted and told["pid"] == 9
    assert list(told) == ["run", "pid", "file", "started", "state", "nodes"]
    assert list(node) == [*sums, "messages", "dropped", "dead_letters", "replicas"]
    assert main(["ps", "flow"]) == 0
    assert "12" in capsys.readouterr().out.splitlines()[1].split()


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({}, "run is missing"),
        ({**status_answer().result, "nodes": None}, "nodes is nil, not an array"),
        ({**status_answer().result, "nodes": [{"id": "sums"}]}, "nodes[0].kind is missing"),
        ({**status_answer().result, "nodes": [node_status("sums", pid="7")]}, "nodes[0].pid is text, not a whole"),
    ],
)
@pytest.mark.parametrize("command", [["ps", "flow"], ["reload", "sums"], ["state", "set", "sums", "k", "v"]])
def test_an_absurd_status_is_refused_by_name_and_type(
    command: list[str], result: dict[str, Any], said: str, world: World, capsys: Capture
) -> None:
    world.runtime(world.run("flow"), lambda ask: Answer(result, ""))
    assert main(command) == 1
    assert capsys.readouterr().err.startswith(f"error: the runtime's answer: {said}")


def test_absurd_figures_are_as_good_as_none(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    world.runtime(run, lambda ask: status_answer(node_status("sums")))
    absurd: Any = {"taken": 40}
    world.store(run, lambda request: figures_reply(request.number, sums=absurd))
    assert main(["ps", "flow"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[5] == "-"


@pytest.mark.parametrize("command", [["ps"], ["stop"], ["logs"], ["reload", "n"], ["clean"]])
def test_every_command_takes_run_as_an_option(command: list[str], world: World, capsys: Capture) -> None:
    world.run("metrics")
    assert main([*command, "--run", "metrisc"]) == 3
    assert "'metrics'" in capsys.readouterr().err
    if command[0] != "logs":
        assert main([command[0], "metrics", *command[1:], "--run", "other"]) == 2


def test_reload_waits_as_long_as_the_import_and_the_start_may_take(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reload.IMPORTED_WITHIN_S > CHECK_S_MAX
    monkeypatch.setattr(reload, "IMPORTED_WITHIN_S", 0.0)
    late = [{}] * 20
    world.runtime(world.run("flow"), Reloading(*late, {"restarts": 1, "state": "running", "pid": 11}))
    assert main(["reload", "sums"]) == 1
    assert "has not taken over its new code within 0 s" in capsys.readouterr().err
    patient = Reloading(*late, {"restarts": 1, "state": "running", "pid": 11})
    patient.sums["start_timeout_s"] = 30.0
    world.runtime(world.run("other"), patient)
    assert main(["reload", "other", "sums"]) == 0


@pytest.mark.parametrize("command", ["stop", "reload", "logs", "state"])
def test_an_unknown_run_is_exit_code_3_with_the_nearest_name(
    command: str, world: World, capsys: Capture
) -> None:
    world.run("metrics")
    line = {"reload": ["reload", "metrisc", "n"], "state": ["state", "ls", "--run", "metrisc", "shared"]}
    assert main(line.get(command, [command, "metrisc"])) == 3
    assert "Did you mean 'metrics'?" in capsys.readouterr().err


def test_without_a_name_several_runs_are_listed(world: World, capsys: Capture) -> None:
    world.run("a")
    world.run("b")
    assert main(["stop"]) == 3
    assert "There are: a, b." in capsys.readouterr().err


def test_an_interrupted_run_cannot_be_stopped(world: World, capsys: Capture) -> None:
    world.run("lost", running=False)
    assert main(["stop", "lost"]) == 3
    assert "interrupted" in capsys.readouterr().err


def test_stop_waits_until_the_processes_of_the_run_are_gone(world: World, capsys: Capture) -> None:
    run = world.run("flow")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as runtime:
        said = json.loads(run.paths.run_file.read_text())
        run.paths.run_file.write_text(json.dumps({**said, "pid": runtime.pid, "guard": runtime.pid}))

        def answer(ask: Ask) -> Answer:
            assert runtime.stdin
            runtime.stdin.close()  # the runtime ends a little later, by itself
            return Answer({}, "")

        server = world.runtime(run, answer)
        assert main(["stop", "--drain"]) == 0
        assert runtime.wait(0) is not None, "stop came back before the runtime had ended"
    assert [(ask.what, ask.arguments) for ask in server.heard] == [("stop", {"drain": True})]
    assert "flow has stopped" in capsys.readouterr().err


class Reloading:
    """A runtime with the operator `sums`: `then` is what becomes of it, one status after the other, once it reloads."""

    def __init__(self, *then: dict[str, Any], together: Sequence[str] = ()) -> None:
        self.sums: Any = node_status("sums")
        self._then = list(then)
        self._together = list(together)
        self._asked = False

    def __call__(self, ask: Ask) -> Answer:
        if ask.what == "reload":
            self._asked = ask.arguments == {"node": "sums"}
            return Answer({"together": self._together}, "" if self._asked else f"no node {ask.arguments['node']!r}")
        if self._asked and self._then:
            self.sums.update(self._then.pop(0))
        return status_answer(self.sums)


@pytest.mark.parametrize("names", [["sums"], ["flow", "sums"]])
def test_reload_ends_when_the_new_code_has_taken_over(names: list[str], world: World, capsys: Capture) -> None:
    then = {"restarts": 1, "state": "restoring"}, {"state": "running", "pid": 11}
    world.runtime(world.run("flow"), Reloading({}, *then))
    assert main(["reload", *names]) == 0
    assert capsys.readouterr().err == "sums runs its new code, with its state restored (process 11)\n"


@pytest.mark.parametrize(
    ("together", "who"),
    [(["b", "c"], "as do b, c, which share its process"), (["b"], "as does b, which shares its process")],
)
def test_reload_says_who_shares_the_process_and_runs_its_new_code_too(
    together: list[str], who: str, world: World, capsys: Capture
) -> None:
    world.runtime(world.run("flow"), Reloading({"restarts": 1, "state": "running", "pid": 11}, together=together))
    assert main(["reload", "sums"]) == 0
    assert capsys.readouterr().err == f"sums runs its new code, {who}, with its state restored (process 11)\n"


def test_reload_shows_why_the_new_code_does_not_import(world: World, capsys: Capture) -> None:
    world.runtime(world.run("flow"), Reloading({}, {"reloads_failed": 1, "reload_error": "a traceback"}))
    assert main(["reload", "sums"]) == 1
    said = capsys.readouterr().err
    assert said == "error: the changed code does not import; the old code keeps running\na traceback\n"


def test_reload_says_when_the_new_code_imports_and_then_fails(world: World, capsys: Capture) -> None:
    then = {"restarts": 1, "state": "backoff", "reason": "init: OSError: no camera"}
    world.runtime(world.run("flow"), Reloading(then))
    assert main(["reload", "sums"]) == 1
    said = capsys.readouterr().err
    assert "imports, but then init: OSError: no camera" in said and "tried again" in said


def test_reload_passes_on_what_the_runtime_refuses(world: World, capsys: Capture) -> None:
    world.runtime(world.run("flow"), Reloading())
    assert main(["reload", "flow", "smus"]) == 1
    assert "error: no node 'smus'" in capsys.readouterr().err
    assert main(["reload", "a", "b", "c"]) == 2


def test_clean_removes_interrupted_runs_and_never_a_running_one(world: World, capsys: Capture) -> None:
    live, lost = world.run("live"), world.run("lost", running=False)
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == f"removed lost ({lost.paths.root})\n"
    assert live.paths.root.exists() and not lost.paths.root.exists()
    assert main(["clean"]) == 0
    assert "nothing to remove" in capsys.readouterr().err


def test_clean_removes_what_is_no_run_and_held_by_nobody(world: World, capsys: Capture) -> None:
    begins, left = world.run("begins"), world.run("left", running=False)
    for run in (begins, left):
        run.paths.run_file.unlink()
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == f"removed left ({left.paths.root})\n"
    assert begins.paths.root.exists() and not left.paths.root.exists()


def test_clean_of_a_name_removes_only_that(world: World, capsys: Capture) -> None:
    world.run("live")
    one, two = world.run("one", running=False), world.run("two", running=False)
    assert main(["clean", "live"]) == 1
    assert "stop it first" in capsys.readouterr().err
    assert main(["clean", "one", "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)] == ["one"]
    assert two.paths.root.exists() and not one.paths.root.exists()
    assert main(["clean", "none"]) == 3
