"""Kill -9 of anything, stops and hangs, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import pytest
import zmq
from support.harness import COUNTING, SUMS, TICKING, WAIT_S, Folder, Running, is_alive, processes_of, wait_until

from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import FRAME_BYTES_MAX, VERSION, Bye, Edge, Hello, Ready, Refused

SLOW_SUMS = SUMS.replace("{id: count,", f"{{id: count, env: {json.dumps(COUNTING)},")


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    assert pid > 0
    os.kill(pid, number)


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def assert_counted(running: Running, code: int = 0) -> None:
    """It ends with each number counted once."""
    running.enough()
    assert running.finish() == code
    sent, expected = running.counted()
    assert running.lines("sink") == [f"last {expected} of {sent}"]
    assert running.rows()["sums"]["messages"] == sent


# ---- operators, the store, the fork server


def test_an_operator_killed_again_and_again_counts_each_message_once(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    for life in range(1, 9):
        before = running.status()["sums"]
        kill(before["pid"])
        wait_until(lambda life=life: running.status()["sums"]["restarts"] >= life, "the next life")
        wait_until(lambda: running.status()["sums"]["state"] == "running", "it to run")
        handled = running.status()["sums"]["handled"]
        wait_until(lambda handled=handled: running.status()["sums"]["handled"] > handled, "progress")
    assert_counted(running)
    assert running.rows()["sums"]["restarts"] == 8


def test_children_commit_on_while_the_store_is_killed_and_it_comes_back(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    store = running.helper("nr-store")
    kill(store)
    running.wait_for("status", "the store died (SIGKILL)*")
    assert running.helper("nr-store") != store
    assert_counted(running)


def test_a_store_killed_together_with_an_operator_answers_the_claim_once(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    for _ in range(3):
        wait_until(lambda: running.status()["sums"]["state"] == "running", "it to run")
        pid = running.status()["sums"]["pid"]
        kill(running.helper("nr-store"))
        kill(pid)
        wait_until(lambda pid=pid: running.status()["sums"]["pid"] not in (0, pid), "the next life")
    assert_counted(running)


def test_operators_live_on_when_the_fork_server_is_killed(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    fork_server = running.helper("nr-forkserver")
    pid = running.status()["sums"]["pid"]
    kill(fork_server)
    running.wait_for("status", "the fork server died*")
    assert running.status()["sums"]["pid"] == pid
    kill(pid)
    assert_counted(running)
    assert running.rows()["sums"]["restarts"] == 1


def test_everything_but_the_runtime_killed_at_once(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    for pid in (running.helper("nr-forkserver"), running.helper("nr-store"), running.status()["sums"]["pid"]):
        kill(pid)
    assert_counted(running)


@pytest.mark.parametrize("victim", ["nr-store", "nr-forkserver"])
def test_a_stopped_helper_is_killed_and_replaced(folder: Folder, victim: str) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    pid = running.helper(victim)
    kill(pid, signal.SIGSTOP)
    wait_until(lambda: not is_alive(pid), "its end")
    kill(running.status()["sums"]["pid"])
    assert_counted(running)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["nr-forkserver", "nr-store"])
def test_a_helper_that_is_stopped_again_and_again_does_not_end_the_run(folder: Folder, victim: str) -> None:
    """In a quiet run, so that nothing else shows in between that it works."""
    running = folder.start(TICKING)
    running.wait_running()
    for _ in range(9):
        pid = running.helper(victim)
        kill(pid, signal.SIGSTOP)
        wait_until(lambda pid=pid: not is_alive(pid), "it to be killed")
    running.wait_running()
    running.ask("stop")
    assert running.finish() == 0


# ---- the runtime and the guard

FROM_A_SOURCE = """
nodes:
  - id: count
    operator: {python: source.py, outputs: [n]}
  - id: sums
    operator: {python: sums.py, inputs: {n: count/n}, outputs: [sum]}
  - {id: sink, path: sink.py, inputs: {sum: sums/sum}}
  - {id: parent, path: parent.py, outputs: [n]}
"""
PARENT = """
import subprocess, time
from noderuntime import Node
node = Node()
child = subprocess.Popen(["sh", "-c", "trap '' TERM HUP; sleep 1000 & echo $!; wait"], start_new_session=True)
print(child.pid, flush=True)
for event in node:
    pass
"""


@pytest.mark.parametrize("victim", ["runtime", "guard"])
def test_two_seconds_after_the_kill_nothing_is_alive_and_resume_goes_on_exactly(folder: Folder, victim: str) -> None:
    folder.write(parent_py=PARENT)
    # a Source continues where it was; a custom node would begin anew
    folder.write(
        source_py="""
import os, time
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        number = position or 0
        if number > 2000:
            return self.END
        if number == 1500 and not os.path.exists("resumed"):
            return self.IDLE
        ctx.send_output("n", number)
        time.sleep(0.002)
        return number + 1
"""
    )
    running = folder.start(FROM_A_SOURCE)
    running.wait_for("line", "parent")
    wait_until(lambda: running.status()["sink"]["handled"] > 50, "some messages")
    pids = processes_of(folder.home)
    assert len(pids) > 6
    kill(running.runtime_pid if victim == "runtime" else running.process.pid)
    began_s = time.monotonic()
    wait_until(lambda: not any(map(is_alive, pids)), "the end of all", 10.0)
    assert time.monotonic() - began_s < 2.0
    assert running.process.wait(5.0) == (137 if victim == "runtime" else -9)
    root = folder.run_dir().root
    assert (root / "space" / "data.mdb").exists()
    assert not list(root.glob("*.sock"))
    if victim == "runtime":
        wait_until(lambda: any("--resume" in line for line in running.errors), "the farewell")

    refused = folder.start()
    assert refused.finish() == 2
    assert "was interrupted" in "".join(refused.errors)
    folder.write(parent_py="", resumed="")
    resumed = folder.start(resume=True)
    assert resumed.finish() == 0
    assert resumed.rows()["sums"]["messages"] == 2001
    assert resumed.lines("sink")[0].startswith("last 2001000 of ")
    assert not root.exists()


def test_fresh_throws_an_interrupted_run_away(folder: Folder) -> None:
    running = folder.start(TICKING)
    running.wait_running()
    kill(running.runtime_pid)
    running.process.wait()
    again = folder.start(fresh=True, stop_after_s=0.2)
    assert again.finish() == 0


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGQUIT, 131)])
def test_a_resume_that_is_interrupted_before_the_space_is_open_keeps_it(
    folder: Folder, number: signal.Signals, code: int
) -> None:
    running = folder.start(TICKING)
    running.wait_running()
    kill(running.runtime_pid)
    running.process.wait()
    root = folder.run_dir().root
    with lmdb.open(str(root / "space"), map_size=0) as env, env.begin(write=True):
        resumed = folder.start(resume=True)  # its store waits for the lock
        wait_until(lambda: any(name_of(pid) == "nr-store" for pid in processes_of(folder.home)), "the store")
        resumed.process.send_signal(number)
        assert resumed.finish() == code
    assert (root / "space" / "data.mdb").exists()
    assert "nothing was changed; `--resume` continues the run" in resumed.statuses()
    again = folder.start(resume=True, stop_after_s=0.2)
    assert again.finish() == 0


def test_resume_with_nothing_to_resume_starts_anew_and_says_so(folder: Folder) -> None:
    running = folder.start(SUMS, resume=True)
    assert running.finish() == 0
    assert running.statuses()[0] == "there is nothing to resume: starting anew"


def test_guard_and_runtime_killed_together_leave_no_process(folder: Folder) -> None:
    """Nobody is left to clean up: children die with their parent."""
    folder.write(sleep_sh="#!/bin/sh\nexec sleep 1000\n")
    (folder.folder / "sleep.sh").chmod(0o700)
    running = folder.start(TICKING + "  - {id: sleep, path: sleep.sh}\n")
    running.wait_running()
    pids = processes_of(folder.home)
    kill(running.process.pid, signal.SIGSTOP)  # so that it cannot act between the two
    kill(running.runtime_pid)
    kill(running.process.pid)
    wait_until(lambda: not any(map(is_alive, pids)), "the end of all")


# ---- custom nodes


def test_a_killed_custom_node_is_restarted_as_its_policy_says(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS.replace("sink.py,", "sink.py, restart_policy: on-failure,"))
    running.wait_running()
    wait_until(lambda: running.status()["sink"]["handled"] > 5, "some messages")
    kill(running.status()["sink"]["pid"])
    wait_until(lambda: running.status()["sink"]["restarts"] == 1, "the next life")
    handled = running.status()["sink"]["handled"]
    wait_until(lambda: running.status()["sink"]["handled"] > handled, "a message in it")
    running.enough()
    assert running.finish() == 0
    (line,) = running.lines("sink")
    assert line.startswith(f"last {running.counted()[1]} of ")
    assert running.rows()["sink"]["restarts"] == 1


def test_without_a_policy_a_killed_custom_node_has_failed_and_upstream_is_not_blocked(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    kill(running.status()["sink"]["pid"])
    wait_until(lambda: running.status()["sink"]["state"] == "failed", "its failure")
    handled = running.status()["sums"]["handled"]
    wait_until(lambda: running.status()["sums"]["handled"] > handled + 20, "some more sums")
    running.enough()
    assert running.finish() == 1
    rows = running.rows()
    assert (rows["sink"]["state"], rows["sink"]["reason"]) == ("failed", "SIGKILL")
    assert rows["sums"]["messages"] == rows["count"]["messages"]


def test_always_restarts_a_node_that_returns(folder: Folder) -> None:
    folder.write(short_py="print('once', flush=True)\n")
    text = TICKING + "  - {id: short, path: short.py, restart_policy: always, max_restarts: 3, restart_delay: 10ms}\n"
    running = folder.start(text)
    running.wait_for("status", "short failed for good*")
    running.ask("stop")
    assert running.finish() == 1
    assert running.lines("short") == ["once"] * 4


# ---- crashes


def test_a_crash_loop_backs_off_then_fails_and_tells_node_cause_and_traceback(folder: Folder) -> None:
    folder.write(
        idle_py="""
class Operator:
    def __init__(self):
        raise RuntimeError("no camera")
    def on_event(self, event, ctx):
        pass
"""
    )
    text = TICKING.replace("idle.py, inputs: {tick: ticks/tick}}", "idle.py, inputs: {tick: ticks/tick}}\n"
                           "    max_restarts: 3\n    restart_delay: 20ms")  # fmt: skip
    running = folder.start(text)
    running.wait_for("status", "idle failed for good: failed 4 times without progress; the last cause: init: *")
    running.ask("stop")
    assert running.finish() == 1
    crashes = [told for told in running.said if told[0] == "crash"]
    assert len(crashes) == 4
    assert "no camera" in crashes[0][3]
    assert 'raise RuntimeError("no camera")' in crashes[0][4]
    assert "operator_host" not in crashes[0][4]


# sums, but not of 50
SUMS_BUT = """
import time
class Operator:
    total = 0
    def restore_state(self, state):
        self.total = int.from_bytes(state["total"], "little")
    def on_event(self, event, ctx):
        if event["type"] != "INPUT":
            return
        if event["value"] == 50:
            %s
        self.total += event["value"]
        ctx.save_state("total", self.total.to_bytes(8, "little"))
        ctx.send_output("sum", self.total)
"""


def test_a_poison_message_becomes_a_dead_letter_and_the_flow_goes_on(folder: Folder) -> None:
    folder.write(sums_py=SUMS_BUT % 'raise ValueError("I hate fifty")')
    running = folder.start(SUMS)
    assert running.finish() == 0
    assert running.lines("sink") == ["last 5000 of 100"]
    assert any(text.startswith("sums failed 3 times on count/n#51") for text in running.statuses())
    assert running.rows()["sums"]["restarts"] == 3


# ---- hangs


def test_a_handler_that_never_returns_is_killed_and_its_message_becomes_a_dead_letter(folder: Folder) -> None:
    folder.write(sums_py=SUMS_BUT % "time.sleep(1000)")
    text = SUMS.replace(
        "outputs: [sum]}\n", "outputs: [sum]}\n    health_check_timeout: 300ms\n    restart_delay: 10ms\n"
    )
    running = folder.start(text)
    assert running.finish() == 0
    assert running.lines("sink") == ["last 5000 of 100"]
    assert any("hung: one handler call took longer than 0.3 s" in text for text in running.statuses())


def test_a_stopped_operator_is_killed_and_replaced(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    kill(running.status()["sums"]["pid"], signal.SIGSTOP)
    running.wait_for("status", "sums was stopped*")
    assert_counted(running)


HOLDER = """
import lmdb, os, signal, sys, time
env = lmdb.open(os.environ["NODERUNTIME_RUN_DIR"] + "/space", max_dbs=0, max_readers=1024, sync=False, create=False)
txn = env.begin(write=True)
print("holding", flush=True)
if sys.argv[1] == "stop":
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("how", "said"), [("stop", "holder was stopped*"), ("sleep", "holder held the write lock for more than*")]
)
def test_who_holds_the_write_lock_and_does_not_go_on_is_killed(folder: Folder, how: str, said: str) -> None:
    folder.write(holder_py=HOLDER)
    running = folder.start(SLOW_SUMS + f"  - {{id: holder, path: holder.py, args: {how}}}\n")
    running.wait_for("line", "holder", "stdout", "holding")
    running.wait_for("status", said)
    assert_counted(running, 1)


def test_a_custom_node_that_never_says_hello_is_noticed(folder: Folder) -> None:
    folder.write(mute_py="import time\ntime.sleep(1000)\n")
    running = folder.start(TICKING + "  - {id: mute, path: mute.py, outputs: [n], start_timeout: 300ms}\n")
    running.wait_for("status", "mute failed for good: start timeout: it never said hello within 0.3 s")
    running.ask("stop")
    assert running.finish() == 1


def test_an_operator_that_hangs_in_its_init_is_killed_at_its_start_timeout(folder: Folder) -> None:
    folder.write(
        idle_py="""
import time
class Operator:
    def __init__(self):
        time.sleep(1000)
    def on_event(self, event, ctx):
        pass
"""
    )
    text = TICKING.replace("idle.py, inputs: {tick: ticks/tick}}", "idle.py, inputs: {tick: ticks/tick}}\n"
                           "    max_restarts: 1\n    start_timeout: 1s")  # fmt: skip
    running = folder.start(text)
    running.wait_for("waiting", ["idle"])
    (_, text) = running.wait_for("status", "idle failed for good: failed 2 times*")
    assert text.endswith("start timeout: it was not ready within 1 s")
    running.ask("stop")
    assert running.finish() == 1


# ---- dynamic nodes

DYNAMIC = """
import sys, time
from noderuntime import Node
node = Node("probe", run="flow")
print("joined", node.incarnation, flush=True)
for event in node:
    if event["type"] == "INPUT" and sys.argv[1] == "once":
        break
node.close()
"""
WITH_DYNAMIC = TICKING + "  - {id: probe, path: dynamic, inputs: {tick: ticks/tick}}\n"


def join(folder: Folder, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(folder.folder / "dynamic.py"), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NODERUNTIME_HOME": str(folder.home)},
        text=True,
    )


def test_a_dynamic_node_joins_is_killed_joins_again_and_ends(folder: Folder) -> None:
    folder.write(dynamic_py=DYNAMIC)
    running = folder.start(WITH_DYNAMIC)
    running.wait_for("waiting", ["probe"])
    with join(folder, "stay") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "joined 1\n"
        with join(folder, "stay") as second:
            _, errors = second.communicate()
            assert "connected already" in errors
        wait_until(lambda: running.status()["probe"]["state"] == "running", "it to run")
        first.kill()
    running.wait_for("status", "probe is gone; waiting for it to connect again")
    with join(folder, "once") as third:
        out, errors = third.communicate()
        assert (out, errors) == ("joined 2\n", "")
    wait_until(lambda: running.status()["probe"]["state"] == "ended", "its end")
    running.ask("stop")
    assert running.finish() == 0
    assert running.rows()["probe"]["state"] == "finished"


def test_a_dynamic_node_that_is_connected_is_stopped_with_the_run(folder: Folder) -> None:
    folder.write(dynamic_py=DYNAMIC)
    running = folder.start(WITH_DYNAMIC)
    running.wait_for("started")
    with join(folder, "stay") as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "joined 1\n"
        running.ask("stop")
        assert running.finish() == 0
        node.communicate()
        assert node.returncode == 0


GUEST = """
import sys
from noderuntime import Node
with Node("guest", run="flow") as node:
    node.send_output("w", sys.argv[1])
    node.flush()
    print("joined", node.is_restart, node.next().type, flush=True)
    sys.stdin.read()
"""
LATE = """
import os, time
from noderuntime import Node
with Node() as node:
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
TELL = """
class Operator:
    def on_event(self, event, ctx):
        print(event["type"], event["id"], event.get("value") or event.get("error"), flush=True)
"""
WITH_GUEST = TICKING + """
  - {id: guest, path: dynamic, inputs: {t: ticks/tick}, outputs: [w]}
  - {id: late, path: late.py, outputs: [n]}
  - id: tell
    operator: {python: tell.py, inputs: {w: guest/w, n: late/n}}
"""


def visit(folder: Folder, value: str) -> subprocess.Popen[str]:
    """The dynamic node `guest`, which stays until its stdin ends."""
    return subprocess.Popen(
        [sys.executable, str(folder.folder / "guest.py"), value],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NODERUNTIME_HOME": str(folder.home)},
    )


def test_a_dynamic_node_that_has_ended_comes_back_as_often_as_it_likes(folder: Folder) -> None:
    folder.write(guest_py=GUEST, late_py=LATE, tell_py=TELL)
    running = folder.start(WITH_GUEST)
    running.wait_for("started")
    for value in ("1", "2", "3", "4"):
        with visit(folder, value) as guest:
            assert guest.stdin is not None and guest.stdout is not None
            assert guest.stdout.readline() == f"joined {value != '1'} INPUT\n"
            running.wait_for("line", "tell", "stdout", f"INPUT w {value}")
            if value == "4":
                (folder.folder / "go").touch()
                running.wait_for("line", "tell", "stdout", "INPUT_CLOSED n None")
                assert running.status()["tell"]["state"] == "running"  # its other input is open again
            guest.stdin.close()
            assert guest.wait(WAIT_S) == 0
        running.wait_for("line", "tell", "stdout", "INPUT_CLOSED w None")
    running.wait_for("line", "tell", "stdout", "STOP ALL_INPUTS_CLOSED None")
    with visit(folder, "5") as guest:  # nobody takes what it sends any more, and it takes what is sent to it
        assert guest.stdin is not None and guest.stdout is not None
        assert guest.stdout.readline() == "joined True INPUT\n"
        guest.stdin.close()
        assert guest.wait(WAIT_S) == 0
    running.ask("stop")
    assert running.finish() == 0
    back = "NODE_RESTARTED guest it has come back, after it had ended"
    assert running.lines("tell") == [
        "INPUT w 1", "INPUT_CLOSED w None", back, "INPUT w 2", "INPUT_CLOSED w None", back, "INPUT w 3",
        "INPUT_CLOSED w None", back, "INPUT w 4", "INPUT_CLOSED n None", "INPUT_CLOSED w None",
        "STOP ALL_INPUTS_CLOSED None",
    ]  # fmt: skip


# ---- reload, and what is not ours


def test_reload_takes_over_new_code_with_the_state_and_refuses_code_that_does_not_import(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    code = (folder.folder / "sums.py").read_text()
    folder.write(sums_py="this is no Python")
    assert running.ask("reload", node="sums").error == ""
    running.wait_for("crash", "sums", "reload")
    wait_until(lambda: running.status()["sums"]["handled"] > 0, "a number that the old code adds")
    folder.write(sums_py=code.replace('self.total += event["value"]', 'self.total += event["value"] + 1000000'))
    running.ask("reload", node="sums")
    running.wait_for("status", "sums reloaded")
    handled = running.status()["sums"]["handled"]
    wait_until(lambda: running.status()["sums"]["handled"] > handled, "a number that the new code adds")
    running.enough()
    assert running.finish() == 0
    (line,) = running.lines("sink")
    sent, expected = running.counted()
    assert line.endswith(f"of {sent}")
    added = int(line.split()[1]) - expected
    assert added % 1000000 == 0 and 0 < added < sent * 1000000, "some with the old code, some with the new"
    assert running.rows()["sums"]["restarts"] == 1


def test_what_is_not_ours_on_the_socket_harms_nobody(folder: Folder) -> None:
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Dealer(folder.run_dir().runtime_socket, Edge.RUNTIME_TO_CHILD) as dealer, context:
        dealer.send(Bye(True, "I am nobody"))
        dealer.send(Ready(1))
        dealer.send(Hello(99, "sums", "operator", os.getpid(), 1))
        refused = dealer.receive(10.0)
        assert isinstance(refused, Refused) and "version" in refused.why
        dealer.send(Hello(VERSION, "sums", "operator", os.getpid(), 1))
        refused = dealer.receive(10.0)
        assert isinstance(refused, Refused) and "is connected already" in refused.why
        with context.socket(zmq.DEALER) as raw:
            raw.setsockopt(zmq.LINGER, 0)
            raw.connect(f"ipc://{folder.run_dir().runtime_socket}")
            for frame in (b"", b"\xc1", os.urandom(1000), bytes(FRAME_BYTES_MAX + 1)):
                raw.send(frame)
            assert_counted(running)


def test_a_full_disk_for_logs_does_not_stop_the_run(folder: Folder) -> None:
    logs = folder.home / "state" / "flow" / "logs"
    running = folder.start(SLOW_SUMS)
    running.wait_running()
    (stamp,) = logs.iterdir()
    (stamp / "sink.jsonl").unlink(missing_ok=True)
    (stamp / "sink.jsonl").symlink_to("/dev/full")
    assert_counted(running)
    assert any("logs cannot be written" in text for text in running.statuses())
    assert any(text.endswith("(No space left on device)") for text in running.statuses())


def test_the_logs_of_the_last_ten_runs_are_kept(folder: Folder) -> None:
    old = [folder.home / "state" / "flow" / "logs" / f"20200101-0000{number:02}-1" for number in range(12)]
    for path in old:
        path.mkdir(parents=True)
    running = folder.start(SUMS)
    assert running.finish() == 0
    kept = sorted(path.name for path in (folder.home / "state/flow/logs").iterdir())
    assert len(kept) == 10
    assert kept[:9] == [path.name for path in old[3:]]
