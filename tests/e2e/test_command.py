"""The real command: runs that finish, fail, are stopped, detached, killed; on pipes and on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noderuntime.cli import main

LINE = [sys.executable, "-m", "noderuntime"]
WITHIN_S = 20.0

NUMBERS = """\
import sys
from noderuntime import Node
with Node() as node:
    for number in range(int(sys.argv[1])):
        node.send_output("n", number)
    node.flush()
    print("sent", number)
    if len(sys.argv) > 2:
        for event in node:
            pass
"""
SUMS = """\
from noderuntime import Operator

class Sums(Operator):
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int(state["total"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.total += event["value"]
            ctx.save_state("total", str(self.total).encode())
        elif event["type"] == "STOP":
            print("total", self.total)
"""
BROKEN = """\
class Broken:
    def on_event(self, event, ctx):
        return helper(event)

def helper(event):
    raise ValueError("this is the user's own error")
"""
PAINTER = """\
import os, time
from noderuntime import Node
with Node() as node:
    terminal = os.environ.get("NODERUNTIME_TERMINAL", "")
    if terminal:
        print("\\x1b[2J" + f"picture on {terminal}\\rsecond row", flush=True)
    print("plain line", flush=True)
"""
FLOW = """\
nodes:
  - id: numbers
    path: numbers_node.py
    args: "101 {stay}"
    outputs: [n]
  - id: sums
    operator: {{python: "{operator}", inputs: {{n: numbers/n}}}}
    max_restarts: 1
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with nodes, and a home of its own for runs; nothing may be left of them at the end."""
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, text in {
        "numbers_node.py": NUMBERS, "sums.py": SUMS, "broken.py": BROKEN, "painter.py": PAINTER,
        "finite.yml": FLOW.format(stay="", operator="sums.py:Sums"),
        "endless.yml": FLOW.format(stay="stay", operator="sums.py:Sums"),
        "broken.yml": FLOW.format(stay="", operator="broken.py:Broken"),
        "painter.yml": "nodes: [{id: painter, path: painter.py}]\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    ask("stop")
    left = processes_of(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes of a run were left"


def call(*arguments: str, code: int | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*LINE, *arguments], capture_output=True, text=True, check=False, timeout=60)
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done


def ask(*arguments: str) -> str:
    """What the command prints on stdout; carried out in this process, for looking again and again."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        main(arguments)
    return out.getvalue()


def processes_of(folder: Path) -> list[int]:
    """Processes, other than this one, whose environment has the folder as home of runs."""
    found = []
    wanted = f"NODERUNTIME_HOME={folder}/home\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in (entry / "environ").read_bytes() and (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.05)


def test_a_run_that_finishes_shows_its_lines_and_ends_with_its_table(place: Path) -> None:
    done = call("run", "finite.yml", code=0)
    assert "numbers     │ sent 100\n" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    table = [line.split() for line in done.stderr.splitlines()[-3:]]
    assert table[0] == ["node", "state", "restarts", "messages", "reason"]
    assert table[1][:3] == ["numbers", "finished", "0"]
    assert table[2][:2] == ["sums", "finished"] and int(table[2][3]) >= 101
    assert "interrupted" not in call("ps", "-a", code=0).stdout


def test_the_error_of_an_operator_is_shown_without_frames_of_ours(place: Path) -> None:
    done = call("run", "broken.yml", code=1)
    assert "ValueError: this is the user's own error" in done.stderr
    assert 'broken.py", line 6, in helper' in done.stderr
    assert "operator_host" not in done.stderr and "noderuntime/" not in done.stderr.replace("noderuntime │", "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sums     failed") and "ValueError" in last


def test_stop_after_ends_an_endless_run_with_code_0(place: Path) -> None:
    done = call("run", "endless.yml", "--stop-after", "1s", "--log-format", "json", code=0)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said[-1]["stream"] == "summary"
    assert any(item["node"] == "sums" and item.get("text", "").startswith("total ") for item in said)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_stops_the_run_in_order(number: signal.Signals, code: int, place: Path) -> None:
    with subprocess.Popen([*LINE, "run", "endless.yml"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout
        assert b"sent 100" in run.stdout.readline()
        wait_for(lambda: "5050" in ask("state", "get", "sums", "total"))
        run.send_signal(number)
        out, err = run.communicate(timeout=WITHIN_S)
    assert run.returncode == code, err
    assert b"total 5050" in out
    assert b"Traceback" not in err


def test_a_reader_that_goes_away_ends_the_run_without_a_traceback(place: Path) -> None:
    line = f"{' '.join(LINE)} run endless.yml | head -n 1; exit ${{PIPESTATUS[0]}}"
    # the line after the first one, at the stop, is the one that finds nobody
    with subprocess.Popen(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shell:
        assert shell.stdout
        assert b"sent 100" in shell.stdout.readline()
        wait_for(lambda: "running" in ask("ps"))
        call("stop", code=0)
        _, err = shell.communicate(timeout=WITHIN_S)
    assert b"Traceback" not in err and b"Broken" not in err


def test_a_run_whose_lines_nobody_reads_any_more_says_why_it_stops(place: Path) -> None:
    (place / "talker.py").write_text("import noderuntime\nfor event in noderuntime.Node():\n    print('on and on')\n")
    (place / "talker.yml").write_text("nodes:\n  - {id: talker, path: talker.py, inputs: {tick: timer/hz/50}}\n")
    line = f"{' '.join(LINE)} run talker.yml | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 141
    assert "nobody reads what the nodes print any more: stopping\n" in done.stderr
    assert "SIGTERM" not in done.stderr


SLOW = """\
nodes:
  - id: fine
    operator: {python: fine.py, inputs: {tick: timer/secs/1}}
  - id: odd
    operator: {python: odd.py, inputs: {tick: timer/secs/1}}
    start_timeout: TIMEOUT
    max_restarts: MAX
    max_restart_delay: 100ms
"""


@pytest.mark.parametrize(
    ("init", "timeout", "restarts", "said"),
    [
        ("raise ValueError('no camera')", "30s", "1", ("odd has failed for good", "no camera")),
        ("import time; time.sleep(100)", "300ms", "0", ("odd is not ready after 0.3 s", "")),
    ],
)
def test_a_detached_run_with_a_node_that_does_not_get_ready_is_code_1_and_goes_on(
    place: Path, init: str, timeout: str, restarts: str, said: tuple[str, str]
) -> None:
    (place / "fine.py").write_text("class Operator:\n    def on_event(self, event, ctx): pass\n")
    (place / "odd.py").write_text(
        f"class Operator:\n    def __init__(self):\n        {init}\n    def on_event(self, event, ctx): pass\n"
    )
    (place / "slow.yml").write_text(SLOW.replace("TIMEOUT", timeout).replace("MAX", restarts))
    done = call("run", "-d", "slow.yml", code=1)
    assert all(what in done.stderr for what in said)
    assert "the run continues; `noderuntime stop slow` stops it" in done.stderr
    assert "fine" not in done.stderr
    wait_for(lambda: {node["id"]: node["state"] for node in json.loads(ask("ps", "slow", "--json"))["nodes"]}["fine"]
             == "running")  # fmt: skip
    call("stop", "slow", code=0)


def test_ctrl_c_while_a_detached_run_gets_ready_stops_the_run(place: Path) -> None:
    operator = "class Operator:\n    def on_event(self, event, ctx): pass\n"
    (place / "odd.py").write_text(f"import time\nopen('imports', 'w').close()\ntime.sleep(100)\n{operator}")
    (place / "fine.py").write_text(operator)
    (place / "slow.yml").write_text(SLOW.replace("TIMEOUT", "100s").replace("MAX", "0"))
    line = [sys.executable, "-m", "noderuntime", "run", "-d", "slow.yml"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as launched:
        wait_for(lambda: (place / "imports").exists())
        launched.send_signal(signal.SIGINT)
        said = launched.communicate(timeout=60)[1]
    assert launched.returncode == 130, said
    assert json.loads(call("ps", "--json", code=0).stdout) == []


def test_a_detached_run_whose_nodes_have_ended_meanwhile_is_code_0(place: Path) -> None:
    (place / "short.py").write_text("")
    (place / "short.yml").write_text("nodes:\n  - {id: short, path: short.py}\n")
    call("run", "-d", "short.yml", code=0)


def test_what_the_runtime_decided_and_the_final_table_outlive_a_detached_run(place: Path) -> None:
    call("run", "-d", "endless.yml", code=0)
    wait_for(lambda: "5050" in ask("state", "get", "sums", "total"))
    call("stop", code=0)
    decided = call("logs", "endless", "--runtime", code=0).stdout
    assert "numbers is running" in decided and "stopping" in decided
    (row,) = [line for line in decided.splitlines() if "sums: stopped, 0 restarts, 101 messages" in line]
    assert row[:2] == "20" and row.split()[0].endswith("Z")
    assert "is running" not in call("logs", "endless", code=0).stdout
    call("logs", "endless", "smus", code=2)
    table = json.loads(call("logs", "endless", "--runtime", "--json", "--tail", "1", code=0).stdout)
    assert [row["node"] for row in table["fields"]["nodes"]] == ["numbers", "sums"]


@pytest.mark.parametrize("options", [["--from", "99"], ["--chaos", "1s"], ["-d"], ["-d", "--from", "99"]])
def test_a_start_that_fails_is_one_error_and_no_table_of_nodes(place: Path, options: list[str]) -> None:
    file = place / "endless.yml"
    if "--from" in options:
        call("run", "-d", "endless.yml", code=0)
        call("stop", code=0)
    else:
        file.write_text(file.read_text() + "state: {seed: {command: [./no-such-seed]}}\n")
    done = call("run", "endless.yml", *options, code=1)
    assert done.stdout == ""
    told = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
    assert len(told) == 1, done.stderr
    assert ("snapshot 99" if "--from" in options else "no-such-seed") in told[0]


def test_what_has_ended_and_can_be_resumed_is_listed(place: Path) -> None:
    call("run", "finite.yml", code=0)
    call("run", "-d", "endless.yml", code=0)
    wait_for(lambda: "5050" in ask("state", "get", "sums", "total"))
    call("stop", code=0)
    assert call("ps", code=0).stdout == ""
    runs = {run["name"]: run for run in json.loads(call("ps", "-a", "--json", code=0).stdout)}
    assert {name: (run["state"], run["resumable"]) for name, run in runs.items()} == {
        "finite": ("finished", False), "endless": ("stopped", True),
    }  # fmt: skip
    assert runs["endless"]["file"] == str(place / "endless.yml")


def test_messages_that_were_dropped_are_shown(place: Path) -> None:
    (place / "slowly.py").write_text(
        "import time\nclass Operator:\n    def on_event(self, event, ctx):\n"
        "        if event['type'] == 'INPUT' and event['value'] == 0: time.sleep(1)\n"
    )
    (place / "drops.yml").write_text(
        "nodes:\n  - {id: numbers, path: numbers_node.py, args: '100', outputs: [n]}\n"
        "  - id: slow\n    operator: {python: slowly.py}\n"
        "    inputs: {n: {source: numbers/n, queue_size: 5, queue_policy: drop_oldest}}\n"
    )
    done = call("run", "drops.yml", "--log-format", "json", code=0)
    rows = {row["node"]: row for row in json.loads(done.stdout.splitlines()[-1])["nodes"]}
    assert rows["slow"]["dropped"] > 0 and rows["slow"]["dropped"] + rows["slow"]["messages"] == 100
    assert f"{rows['slow']['dropped']} dropped" in rows["slow"]["reason"]


def test_a_detached_run_is_seen_asked_changed_and_stopped(place: Path) -> None:
    assert call("run", "-d", "endless.yml", "--name", "mine", code=0).stdout == "mine\n"
    (run,) = json.loads(call("ps", "--json", code=0).stdout)
    assert (run["name"], run["state"]) == ("mine", "running")
    wait_for(lambda: "5050" in ask("state", "get", "sums", "total"))
    nodes = json.loads(call("ps", "mine", "--json", code=0).stdout)["nodes"]
    assert {node["id"] for node in nodes} == {"numbers", "sums"}
    call("state", "set", "shared", "greeting", "hello", code=0)
    assert call("state", "get", "--run", "mine", "shared", "greeting", code=0).stdout == "hello\n"
    assert "greeting" in call("state", "ls", "shared", code=0).stdout
    assert "sent 100" in call("logs", "mine", "numbers", code=0).stdout
    again = call("run", "endless.yml", "--name", "mine", code=2)
    assert "running already" in again.stderr
    call("reload", "nobody", code=1)
    call("clean", "mine", code=1)
    call("stop", code=0)
    assert processes_of(place) == []
    assert "total 5050" in call("logs", code=0).stdout
    call("stop", "mine", code=3)


def test_reload_takes_over_the_changed_code_with_the_state(place: Path) -> None:
    call("run", "-d", "endless.yml", code=0)
    wait_for(lambda: "5050" in ask("state", "get", "sums", "total"))
    (place / "sums.py").write_text(SUMS.replace('"total", self.total)', '"changed", self.total)'))
    call("reload", "sums", code=0)
    wait_for(lambda: json.loads(ask("ps", "endless", "--json"))["nodes"][1]["incarnation"] == 2)
    ask("stop")
    assert "changed 5050" in ask("logs")


def test_following_the_logs_ends_with_the_run(place: Path) -> None:
    call("run", "-d", "endless.yml", code=0)
    with subprocess.Popen([*LINE, "logs", "-f"], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout
        assert any("sent 100" in line for line in follower.stdout)
        wait_for(lambda: "5050" in ask("state", "get", "sums", "total"))
        call("stop", code=0)
        out, _ = follower.communicate(timeout=WITHIN_S)
    assert follower.returncode == 0
    assert "total 5050" in out


def test_a_killed_runtime_leaves_an_interrupted_run_that_can_be_looked_into_and_cleaned(place: Path) -> None:
    call("run", "-d", "endless.yml", code=0)
    wait_for(lambda: "5050" in ask("state", "get", "sums", "total"))
    (run,) = json.loads(call("ps", "--json", code=0).stdout)
    os.kill(run["pid"], signal.SIGKILL)
    wait_for(lambda: processes_of(place) == [])
    (run,) = json.loads(call("ps", "-a", "--json", code=0).stdout)
    assert run["state"] == "interrupted"
    assert call("state", "get", "sums", "total", code=0).stdout == "5050\n"
    refused = call("run", "endless.yml", code=2)
    assert "--fresh" in refused.stderr and "clean" in refused.stderr
    assert "removed endless" in call("clean", code=0).stdout
    assert [(run["state"], run["run_dir"]) for run in json.loads(ask("ps", "-a", "--json"))] == [("lost", None)]


def test_fresh_forgets_an_interrupted_run(place: Path) -> None:
    call("run", "-d", "endless.yml", code=0)
    (run,) = json.loads(ask("ps", "--json"))
    os.kill(run["pid"], signal.SIGKILL)
    wait_for(lambda: processes_of(place) == [])
    call("run", "endless.yml", "--fresh", "--stop-after", "1s", code=0)
    assert [(run["state"], run["run_dir"]) for run in json.loads(ask("ps", "-a", "--json"))] == [("stopped", None)]


def on_terminal(*arguments: str, columns: int = 70) -> tuple[int, str]:
    """The exit code, and all that was written to a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen([*LINE, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environ) as run:
        os.close(slave)
        seen = b""
        until_s = time.monotonic() + WITHIN_S
        while time.monotonic() < until_s and select.select([master], [], [], WITHIN_S)[0]:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the last one that had it open is gone
                break
            seen += piece
        os.close(master)
        return run.wait(WITHIN_S), seen.decode()


def test_on_a_terminal_a_frame_is_painted_in_place_with_colour_around_it(place: Path) -> None:
    code, seen = on_terminal("run", "painter.yml")
    assert code == 0
    assert "picture on 70x20\x1b[K" in seen and "second row\x1b[K" in seen
    assert "\x1b[2J" not in seen
    assert "plain line" in seen and "\x1b[36mpainter" in seen
    assert seen.rindex("second row") < seen.rindex("finished")


def test_elsewhere_nodes_know_that_there_is_no_terminal(place: Path) -> None:
    assert call("run", "painter.yml", code=0).stdout == "painter     │ plain line\n"
