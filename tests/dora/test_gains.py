"""What nodes and operators of dora gain here: state that survives kills, a shared store, reloads; and dynamic nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.dora_flow import WITHIN_S, Flow
from support.harness import wait_until

from noderuntime.dora.operator_adapter import PATH

# sums what comes, and is killed in the middle of it: by itself, so that each life has one message in hand
SUMS = """
import os, signal
from pathlib import Path
import pyarrow as pa
from dora import DoraStatus
class Operator:
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int.from_bytes(state["total"], "little")
    def on_event(self, dora_event, send_output):
        if dora_event["type"] != "INPUT": return DoraStatus.CONTINUE
        number = dora_event["value"][0].as_py()
        self.total += number
        send_output.save_state("total", self.total.to_bytes(8, "little"))
        send_output("v", pa.array([self.total]), dora_event["metadata"])
        mark = Path(f"killed-{number}-{type(self).__module__}")
        if number % 4 == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return DoraStatus.CONTINUE
"""


def sums(count: int) -> list[int]:
    return [n * (n + 1) // 2 for n in range(count)]


def test_an_operator_that_saves_its_state_is_exactly_once(flow: Flow) -> None:
    flow.write("sums.py", SUMS)
    done = flow.run(
        """
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 20}}
        - id: sums
          restart_policy: on-failure
          operator: {python: sums.py, inputs: {n: {source: s/v, queue_size: 100}}, outputs: [v]}
        - {id: r, path: record.py, inputs: {i: {source: sums/v, queue_size: 100}}}
        """
    )
    assert done.returncode == 0, done.stderr
    assert len(list(flow.folder.glob("killed-*"))) == 5
    assert flow.values() == sums(20)


def test_operators_of_one_node_share_a_process_and_a_transaction(flow: Flow) -> None:
    flow.write("sums.py", SUMS)
    flow.write("more.py", SUMS.replace("number % 4 == 3", "number % 15 == 0 and number"))
    done = flow.run(
        """
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 12}}
        - id: both
          restart_policy: on-failure
          operators:
          - {id: first, python: sums.py, inputs: {n: {source: s/v, queue_size: 100}}, outputs: [v]}
          - {id: second, python: more.py, inputs: {n: {source: both/first/v, queue_size: 100}}, outputs: [v]}
        - {id: r, path: record.py, inputs: {i: {source: both/second/v, queue_size: 100}}}
        """
    )
    assert done.returncode == 0, done.stderr
    assert len(list(flow.folder.glob("killed-*"))) >= 4
    first = sums(12)
    assert flow.values() == [sum(first[: n + 1]) for n in range(12)]


def test_a_node_that_keeps_what_it_needs_in_the_shared_store_goes_on_after_a_kill(flow: Flow) -> None:
    flow.write(
        "count.py",
        """
        import os, signal
        import pyarrow as pa
        from dora import Node
        node = Node()
        for event in node:
            if event["type"] != "INPUT": continue
            seen = int(node.kvs_read("seen", b"0")) + 1
            node.kvs_write("seen", str(seen).encode())
            node.send_output("v", pa.array([seen]), {"restarts": node.restart_count()})
            if seen == 3: os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    done = flow.run(
        """
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 6}}
        - id: count
          path: count.py
          restart_policy: on-failure
          inputs: {i: {source: s/v, queue_size: 100, queue_policy: backpressure}}
          outputs: [v]
        - {id: r, path: record.py, inputs: {i: {source: count/v, queue_size: 100}}}
        """
    )
    assert done.returncode == 0, done.stderr
    values = flow.values()  # at least once: the message in hand at the kill comes again
    assert values[-1] >= 6
    assert values == sorted(values)
    assert ("NODE_RESTARTED", "count") in flow.events()


def test_an_operator_is_reloaded_while_messages_flow(flow: Flow) -> None:
    operator = """
        import pyarrow as pa
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    send_output("v", pa.array([FACTOR]))
                return DoraStatus.CONTINUE
        """
    flow.write("op.py", operator.replace("FACTOR", "1"))
    flow.write(
        "d.yml",
        """
        nodes:
        - {id: op, operator: {python: op.py, inputs: {tick: dora/timer/millis/10}, outputs: [v]}}
        - {id: r, path: record.py, inputs: {i: op/v}}
        """,
    )
    process = flow.start("run", "--dora", "d.yml")
    wait_until(lambda: 1 in flow.values(), "the first version")
    flow.write("op.py", operator.replace("FACTOR", "2"))
    line = [sys.executable, "-m", "noderuntime", "reload", "d", "op"]
    done = subprocess.run(line, env=flow.environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: 2 in flow.values(), "the second version")
    process.terminate()
    process.communicate(timeout=WITHIN_S)
    assert flow.values() == sorted(flow.values())


@pytest.mark.parametrize(("status", "code"), [("STOP", 0), ("STOP_ALL", 0)])
def test_an_operator_ends_itself_or_the_run(flow: Flow, status: str, code: int) -> None:
    flow.write(
        "op.py",
        f"""
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                send_output("v", b"x")
                return DoraStatus.{status}
        """,
    )
    done = flow.run(
        """
        nodes:
        - {id: op, operator: {python: op.py, inputs: {tick: dora/timer/millis/10}, outputs: [v]}}
        - {id: r, path: record.py, inputs: {i: op/v}}
        """
    )
    assert done.returncode == code, done.stderr
    # the end of the run ends the receiver's events, too: what waits then is kept for --resume
    assert flow.values() in ([[ord("x")]] if status == "STOP" else [[], [ord("x")]])


def test_an_exception_of_an_operator_follows_the_restart_policy(flow: Flow) -> None:
    flow.write(
        "op.py",
        """
        from pathlib import Path
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    if not Path("failed").exists():
                        Path("failed").touch()
                        raise ValueError("on purpose")
                    send_output("v", dora_event["value"])
                return DoraStatus.CONTINUE
        """,
    )
    done = flow.run(
        """
        nodes:
        - {id: s, path: send.py, outputs: [v]}
        - {id: op, restart_policy: on-failure, operator: {python: op.py, inputs: {n: s/v}, outputs: [v]}}
        - {id: r, path: record.py, inputs: {i: op/v}}
        """
    )
    assert done.returncode == 0, done.stderr
    assert "ValueError: on purpose" in done.stderr
    assert flow.values() == [0, 1, 2, 3, 4]


def test_large_arrays_are_views_of_shared_memory(flow: Flow) -> None:
    flow.write(
        "send.py",
        """
        import numpy as np, pyarrow as pa
        from dora import Node
        node = Node()
        node.send_output("v", pa.array(np.arange(500_000)))
        node.send_output("v", pa.array(["some text"] * 50_000))
        node.send_output("v", bytes(300_000))
        """,
    )
    flow.write(
        "look.py",
        """
        from pathlib import Path
        from dora import Node
        def shared():
            found = []
            for line in Path("/proc/self/maps").read_text().splitlines():
                if "/segments/" in line:
                    found.append([int(end, 16) for end in line.split()[0].split("-")])
            return found
        kept = []
        for event in Node():
            if event["type"] == "INPUT":
                kept.append(event["value"])
                address = event["value"].buffers()[1].address
                print("shared", any(start <= address < end for start, end in shared()), flush=True)
        print("kept", kept[0][-1], kept[1][-1], kept[2][-1], flush=True)
        """,
    )
    done = flow.run(
        """
        nodes:
        - {id: s, path: send.py, outputs: [v]}
        - {id: look, path: look.py, inputs: {i: s/v}}
        """
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("shared True") == 3
    assert "kept 499999 some text 0" in done.stdout + done.stderr


def test_a_program_runs_a_dataflow(flow: Flow) -> None:
    flow.write("d.yml", "nodes: [{id: s, path: send.py, outputs: [v]}, {id: r, path: record.py, inputs: {i: s/v}}]")
    program = f"""
import sys
sys.path.insert(0, {PATH!r})
import dora
print(dora.run("d.yml"), dora.run("d.yml", stop_after=30.5), dora.build("d.yml"))
"""
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, cwd=flow.folder, env=flow.environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "None None None" in done.stdout
    assert flow.values() == [0, 1, 2, 3, 4] * 2


def test_a_dynamic_node_is_joined_from_anywhere(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> None:
    flow.write(
        "d.yml",
        """
        nodes:
        - {id: by-hand, path: dynamic, outputs: [v]}
        - {id: r, path: record.py, inputs: {i: by-hand/v}}
        """,
    )
    process = flow.start("run", "--dora", "d.yml")
    wait_until(lambda: (flow.home / "runs/d/dora.json").exists() and flow.records(), "the run")
    program = """
import pyarrow as pa
from dora import Node
node = Node("by-hand")
node.send_output("v", pa.array([7]))
print(node.node_config(), node.dataflow_descriptor()["nodes"][0]["id"])
"""
    elsewhere: Path = tmp_path_factory.mktemp("elsewhere")
    joined = subprocess.run(
        [sys.executable, "-c", program],
        cwd=elsewhere, env=flow.environ(PYTHONPATH=PATH), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert joined.returncode == 0, joined.stderr
    assert joined.stdout == "{'inputs': {}, 'outputs': ['v']} by-hand\n"
    process.communicate(timeout=WITHIN_S)
    assert flow.values() == [7]
