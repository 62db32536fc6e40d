"""The runtime with real processes: beginning, ending, stopping, and what it tells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import RUNNER, SUMS, TICKING, WAIT_S, Folder, is_alive, wait_until

from noderuntime.runtime.flight_recorder import parse, replay
from noderuntime.runtime.lifecycle_events import End


def test_a_dataflow_runs_to_its_end_and_leaves_nothing(folder: Folder) -> None:
    running = folder.start(SUMS)
    assert running.finish() == 0
    assert running.lines("sink") == ["last 5050 of 101"]
    assert {id: (row["state"], row["messages"]) for id, row in running.rows().items()} == {
        "count": ("finished", 101),
        "sums": ("finished", 101),
        "sink": ("finished", 101),
    }
    assert list((folder.home / "runs").iterdir()) == []


def test_what_nodes_print_is_told_line_by_line_and_kept(folder: Folder) -> None:
    folder.write(
        talk_py="""
import sys
print("one")
print("half", end="", flush=True)
sys.stdout.buffer.write(b" \\xff\\r\\n")
sys.stdout.flush()
print("\\033[2J picture")
print("trouble", file=sys.stderr)
print("no newline", end="")
"""
    )
    running = folder.start("nodes:\n  - {id: talk, path: talk.py}\n")
    assert running.finish() == 0
    assert running.lines("talk") == ["one", "half �", "\033[2J picture", "no newline"] or set(
        running.lines("talk")
    ) == {"one", "half �", "\033[2J picture", "no newline", "trouble"}
    (log,) = (folder.home / "state/flow/logs").glob("*/talk.jsonl")
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["text"] for record in kept if record["stream"] == "stdout"] == ["one", "half �", "no newline"]
    assert [record["text"] for record in kept if record["stream"] == "stderr"] == ["trouble"]
    assert {record["node"] for record in kept} == {"talk"}


def test_children_find_their_surroundings_in_the_environment(folder: Folder) -> None:
    folder.write(env_py="import os, json, sys\nprint(json.dumps([dict(os.environ), os.getcwd(), sys.stdin.read()]))\n")
    text = "env: {LEVEL: info, SEED: 1}\nnodes:\n  - {id: env, path: env.py, env: {SEED: 7}}\n"
    running = folder.start(text, terminal="80x24", extra_env={"EXTRA": "x"})
    assert running.finish() == 0
    env, cwd, stdin = json.loads(running.lines("env")[0])
    assert (env["LEVEL"], env["SEED"], env["EXTRA"]) == ("info", "7", "x")
    assert (env["NODERUNTIME_NODE"], env["NODERUNTIME_LIFE"]) == ("env", "1")
    assert env["NODERUNTIME_RUN_DIR"] == str(folder.run_dir().root)
    assert (env["NODERUNTIME_TERMINAL"], env["PYTHONUNBUFFERED"]) == ("80x24", "1")
    assert (cwd, stdin) == (str(folder.folder), "")


def test_an_operator_whose_environment_python_reads_early_gets_an_interpreter_of_its_own(folder: Folder) -> None:
    folder.write(
        seeds_py="""
import os, sys
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "STOP":
            print(os.environ["PYTHONHASHSEED"], sys.flags.hash_randomization, flush=True)
"""
    )
    text = SUMS.replace("  - {id: sink", "  - id: seeds\n    operator: {python: seeds.py, inputs: {n: count/n}}\n"
                        "    env: {PYTHONHASHSEED: '0'}\n  - {id: sink")  # fmt: skip
    running = folder.start(text)
    assert running.finish() == 0
    assert running.lines("seeds") == ["0 0"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)],
)
def test_a_signal_stops_the_run_in_order(folder: Folder, number: signal.Signals, code: int) -> None:
    running = folder.start(TICKING)
    running.wait_running()
    running.process.send_signal(number)
    assert running.finish() == code
    assert {row["state"] for row in running.rows().values()} == {"stopped"}
    assert not folder.run_dir().root.exists()


def test_stop_after_ends_the_run_with_code_0(folder: Folder) -> None:
    running = folder.start(TICKING, stop_after_s=0.3)
    assert running.finish() == 0
    assert {row["state"] for row in running.rows().values()} == {"stopped"}


def test_stop_after_counts_from_when_all_nodes_are_ready(folder: Folder) -> None:
    """Longer in the making than the run is to last, and yet there are ticks. Who never joins is not waited for."""
    folder.write(
        lazy_py="""
import time
class Operator:
    def __init__(self):
        time.sleep(2.0)
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            ctx.send_output("n", 1)
"""
    )
    text = """
nodes:
  - {id: lazy, operator: {python: lazy.py, inputs: {t: timer/millis/10}, outputs: [n]}}
  - {id: guest, path: dynamic, inputs: {n: {source: lazy/n, queue_policy: drop_oldest}}}
"""
    running = folder.start(text, stop_after_s=1.0)
    assert running.finish() == 0
    assert running.rows()["lazy"]["messages"] > 0


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(1000)
"""


def test_the_stop_ladder_ends_at_sigkill(folder: Folder) -> None:
    folder.write(deaf_py=STUBBORN)
    running = folder.start("nodes:\n  - {id: deaf, path: deaf.py}\n", grace_s=0.1)
    running.wait_for("line", "deaf", "stdout", "deaf")
    running.process.send_signal(signal.SIGTERM)
    assert running.finish() == 143
    assert running.rows()["deaf"]["reason"] == "did not stop in time"


def test_the_second_signal_stops_at_once(folder: Folder) -> None:
    folder.write(deaf_py=STUBBORN)
    running = folder.start("nodes:\n  - {id: deaf, path: deaf.py}\n", grace_s=100.0)
    running.wait_for("line", "deaf", "stdout", "deaf")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("status", "SIGINT*")
    running.process.send_signal(signal.SIGINT)
    assert running.finish() == 130


def test_a_command_can_ask_for_status_and_stop(folder: Folder) -> None:
    running = folder.start(TICKING)
    running.wait_running()
    answer = running.ask("status")
    assert answer.result["run"] == "flow" and answer.result["state"] == "running"
    assert answer.result["pid"] == running.runtime_pid
    nodes = running.status()
    assert nodes["ticks"]["kind"] == "operator" and is_alive(nodes["ticks"]["pid"])
    assert nodes["ticks"]["incarnation"] == 1
    wait_until(lambda: running.status()["idle"]["handled"] > 2, "events")
    assert running.ask("dance").error.startswith("a runtime can be asked for")
    assert running.ask("reload", node="tick").error == "the run has no node 'tick'; did you mean 'ticks'?"
    assert running.ask("stop").error == ""
    assert running.finish() == 0


def test_draining_lets_receivers_finish_what_is_queued(folder: Folder) -> None:
    folder.write(
        slow_py="""
import time
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            time.sleep(0.01)
            ctx.send_output("n", event["value"])
"""
    )
    text = """
nodes:
  - id: ticks
    operator: {python: ticks.py, inputs: {t: timer/millis/5}, outputs: [tick]}
  - id: slow
    operator: {python: slow.py, inputs: {n: ticks/tick}, outputs: [n]}
  - {id: sink, path: sink.py, inputs: {n: slow/n}}
"""
    running = folder.start(text)
    running.wait_running()
    wait_until(lambda: running.status()["slow"]["handled"] > 20, "some messages", 20.0)
    running.ask("stop", drain=True)
    assert running.finish() == 0
    rows = running.rows()
    assert {row["state"] for row in rows.values()} == {"finished"}
    assert rows["slow"]["messages"] == rows["sink"]["messages"] > 20


def test_stop_all_of_an_operator_stops_the_run(folder: Folder) -> None:
    folder.write(
        last_py="""
from noderuntime import Status
class Operator:
    def on_event(self, event, ctx):
        return Status.STOP_ALL
"""
    )
    running = folder.start(TICKING.replace("idle.py", "last.py"))
    assert running.finish() == 0


def test_a_node_that_fails_for_good_ends_the_run_with_code_1_and_the_others_run_on(folder: Folder) -> None:
    folder.write(bad_py="import sys\nsys.exit(3)\n")
    running = folder.start(SUMS + "  - {id: bad, path: bad.py}\n")
    assert running.finish() == 1
    assert running.lines("sink") == ["last 5050 of 101"]
    assert (running.rows()["bad"]["state"], running.rows()["bad"]["reason"]) == ("failed", "exit code 3")


def test_abort_on_failure_stops_the_others(folder: Folder) -> None:
    folder.write(bad_py="import sys\nsys.exit(3)\n")
    running = folder.start(TICKING + "  - {id: bad, path: bad.py}\n", abort_on_failure=True)
    assert running.finish() == 1
    assert running.rows()["idle"]["state"] == "stopped"


@pytest.mark.parametrize(
    ("code", "where", "error"),
    [
        ("import nonsense_module", "import", "nonsense_module"),
        pytest.param("def something(): pass", "import", "Operator", marks=pytest.mark.long),
        pytest.param("class Operator:\n    pass", "init", "on_event", marks=pytest.mark.long),
    ],
)
def test_an_operator_that_can_never_work_fails_at_once_and_says_why(
    folder: Folder, code: str, where: str, error: str
) -> None:
    folder.write(idle_py=code)
    running = folder.start(TICKING, stop_after_s=1.0)
    assert running.finish() == 1
    crashes = [told for told in running.said if told[0] == "crash"]
    assert len(crashes) == 1
    assert crashes[0][1:3] == ["idle", where]
    assert error in crashes[0][3]
    assert running.rows()["idle"]["restarts"] == 0


def test_a_program_that_turns_out_not_to_be_one_is_a_clear_error(folder: Folder) -> None:
    program = folder.folder / "program"
    program.write_text("not a program")
    program.chmod(0o700)
    running = folder.start("nodes:\n  - {id: odd, path: program}\n")
    assert running.finish() == 1
    assert running.rows()["odd"]["reason"] == "program cannot be executed: Exec format error"


def test_several_runs_do_not_disturb_each_other_and_a_name_is_taken_once(folder: Folder) -> None:
    first = folder.start(TICKING)
    first.wait_running()
    second = folder.start()
    assert second.finish() == 2
    assert "a run 'flow' is running already" in "".join(second.errors)
    third = folder.start(name="other", stop_after_s=0.2)
    assert third.finish() == 0
    assert {node["state"] for node in first.status().values()} == {"running"}
    first.ask("stop")
    assert first.finish() == 0


def test_a_run_directory_may_have_any_length(folder: Folder) -> None:
    running = folder.start(SUMS, name="a name of any length, " * 20)
    assert running.finish() == 0
    assert running.lines("sink") == ["last 5050 of 101"]


def test_run_directories_and_sockets_are_for_their_owner_only(folder: Folder) -> None:
    running = folder.start(TICKING)
    running.wait_running()
    root = folder.run_dir().root
    for path in (root.parent, root, root / "space", root / "bell", root / "pulse"):
        assert path.stat().st_mode & 0o077 == 0, path
    running.ask("stop")
    running.finish()


def test_what_a_node_leaves_running_ends_with_it(folder: Folder) -> None:
    folder.write(
        daemon_py="""
import os, subprocess, sys
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(child.pid, flush=True)
sys.exit(0)
"""
    )
    running = folder.start(TICKING + "  - {id: daemon, path: daemon.py}\n")
    running.wait_for("started")
    pid = int(running.wait_for("line", "daemon")[3])
    wait_until(lambda: not is_alive(pid), "the grandchild to end")
    running.ask("stop")
    assert running.finish() == 0


def test_fifty_operators_start(folder: Folder) -> None:
    nodes = "".join(
        f"  - id: idle{number}\n    operator: {{python: idle.py, inputs: {{t: ticks/tick}}}}\n" for number in range(50)
    )
    running = folder.start(TICKING + nodes)
    running.wait_running()
    running.ask("stop")
    assert running.finish() == 0


def test_detached_the_launcher_returns_once_the_run_has_started(folder: Folder) -> None:
    running = folder.start(TICKING, detach=True)
    assert running.finish() == 0
    (told,) = [told for told in running.said if told[0] == "started"]
    runtime, guard = told[1:]
    assert is_alive(runtime) and is_alive(guard)
    assert os.getsid(guard) == guard
    assert Path(f"/proc/{runtime}/fd/1").readlink() == Path("/dev/null")
    running.ask("stop")
    wait_until(lambda: not is_alive(guard), "the guard to end")
    assert not folder.run_dir().root.exists()


def test_detached_an_error_at_the_start_reaches_the_launcher(folder: Folder) -> None:
    first = folder.start(TICKING)
    first.wait_running()
    second = folder.start(detach=True)
    assert second.finish() == 2
    assert "is running already" in "".join(second.errors)
    first.ask("stop")
    first.finish()




def test_too_few_descriptors_are_a_clear_error_at_the_start(folder: Folder) -> None:
    folder.file.write_text(TICKING)
    command = ["sh", "-c", 'ulimit -n 50; exec "$@"', "sh", sys.executable, str(RUNNER), str(folder.file), "{}"]
    env = {**os.environ, "NODERUNTIME_HOME": str(folder.home)}
    ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=WAIT_S, check=False)
    assert ended.returncode == 2
    assert "this process may open 50 files, too few for 2 nodes" in ended.stderr
    assert not folder.run_dir().root.exists()


def test_the_log_of_a_run_that_failed_can_be_replayed(folder: Folder) -> None:
    folder.write(
        bad_py="""
class Operator:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            raise ValueError(event["value"])
"""
    )
    text = TICKING.replace("idle.py", "bad.py") + "    max_restarts: 2\n    max_attempts: 9\n"
    running = folder.start(text, abort_on_failure=True)
    assert running.finish() == 1
    (log,) = (folder.home / "state/flow/logs").glob("*/runtime.log")
    earlier, steps = parse(json.loads(line)["text"] for line in log.read_text().splitlines())
    assert set(earlier) == {"", "ticks", "idle"}
    assert {"Start", "SaidHello", "Claimed", "BecameReady", "Reported", "Exited", "StopAsked"} <= {
        type(step.event).__name__ for step in steps
    }
    assert any(isinstance(action, End) and action.failed for step in steps for action in step.actions or ())
    assert replay(earlier, steps) == [(step, step.actions) for step in steps]
