"""Dataflows of dora as real processes, through the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support.dora_flow import RECORD, SEND, WITHIN_S, Flow
from support.harness import wait_until

STOPPED = [("STOP", "ALL_INPUTS_CLOSED")]


def test_nodes_and_operators_run_as_they_are(flow: Flow) -> None:
    flow.write("twice.py", """
        import pyarrow.compute as pc
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    send_output("w", pc.multiply(dora_event["value"], 2), dora_event["metadata"])
                return DoraStatus.CONTINUE
        """)  # fmt: skip
    done = flow.run("""
        nodes:
        - {id: s, path: send.py, outputs: [v]}
        - {id: o, operator: {python: twice.py, inputs: {x: {source: s/v, queue_size: 100}}, outputs: [w]}}
        - id: m
          operators:
          - {id: a, python: twice.py, inputs: {x: {source: o/w, queue_size: 100}}, outputs: [w]}
          - {id: b, python: twice.py, inputs: {x: {source: m/a/w, queue_size: 100}}, outputs: [w]}
        - {id: r, path: record.py, inputs: {x: {source: m/b/w, queue_size: 100}}}
        """, COUNT="50")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert flow.values() == [8 * number for number in range(50)]
    assert flow.events() == [("INPUT_CLOSED", "x"), *STOPPED]
    assert flow.records()[-1] == {"over": True}


def test_no_node_returns_before_all_have_called_it(flow: Flow) -> None:
    flow.write("late.py", """
        import json, os, time
        from dora import Node
        time.sleep(1.5)
        with open("before", "w") as out:
            out.write(str(os.path.exists("out")))
        Node()
        """)  # fmt: skip
    done = flow.run("nodes:\n- {id: r, path: record.py, inputs: {x: l/v}}\n- {id: l, path: late.py, outputs: [v]}")
    assert done.returncode == 0, done.stderr
    assert (flow.folder / "before").read_text() == "False"
    assert flow.events() == [("INPUT_CLOSED", "x"), *STOPPED]


@pytest.mark.parametrize(("script", "code"), [("print('no node')", 0), ("raise SystemExit(3)", 1)])
def test_a_script_that_ends_without_a_node_holds_nobody_up(flow: Flow, script: str, code: int) -> None:
    flow.write("script.py", script)
    done = flow.run("""
        nodes:
        - {id: x, path: script.py}
        - {id: s, path: send.py, outputs: [v]}
        - {id: r, path: record.py, inputs: {x: s/v}}
        """)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert flow.values() == [0, 1, 2, 3, 4]


def test_a_node_that_fails_closes_its_outputs_and_the_code_is_1(flow: Flow) -> None:
    flow.write("fail.py", SEND + "\nraise SystemExit(3)\n")
    done = flow.run("""
        nodes:
        - {id: s, path: fail.py, outputs: [v]}
        - {id: r, path: record.py, inputs: {x: s/v}}
        - {id: q, path: record.py, inputs: {x: s/v}, env: {OUT: other}}
        """)  # fmt: skip
    assert done.returncode == 1
    assert flow.values() == [0, 1, 2, 3, 4] == flow.values("other")
    assert flow.events()[-2:] == [("INPUT_CLOSED", "x"), *STOPPED]
    assert flow.records()[-1] == {"over": True}


def test_a_node_is_restarted_as_the_file_says(flow: Flow) -> None:
    flow.write("fail.py", """
        import pyarrow as pa
        from dora import Node
        node = Node()
        node.send_output("v", pa.array([node.restart_count()]))
        raise SystemExit(3)
        """)  # fmt: skip
    done = flow.run("""
        nodes:
        - {id: s, path: fail.py, outputs: [v], restart_policy: on-failure, max_restarts: 2, restart_delay: 0.05}
        - {id: r, path: record.py, inputs: {x: s/v}}
        """)  # fmt: skip
    assert done.returncode == 1
    assert flow.values() == [0, 1, 2]
    assert "restarting it in 0.05 s" in done.stderr and "restarting it in 0.1 s" in done.stderr


def test_a_timer_keeps_a_node_until_the_run_is_stopped(flow: Flow) -> None:
    dataflow = """
        nodes:
        - {id: s, path: send.py, outputs: [v]}
        - {id: r, path: record.py, inputs: {x: s/v, t: dora/timer/millis/20}}
        """
    assert flow.run(dataflow, "--stop-after", "3s").returncode == 0
    assert flow.events() == [("INPUT_CLOSED", "x"), ("STOP", "MANUAL")]
    (flow.folder / "out").unlink()
    assert flow.run(dataflow, "--exit-when-nodes-finish", "--fresh").returncode == 0
    assert flow.events() == [("INPUT_CLOSED", "x"), *STOPPED]


def test_what_a_node_prints_comes_as_messages_each_line_once_whatever_is_killed(flow: Flow) -> None:
    flow.write("talk.py", """
        import sys, time
        from dora import Node
        Node()
        for number in range(100):
            print("line", number, flush=True)
            time.sleep(0.05)
        """)  # fmt: skip
    flow.write("d.yml", """
        nodes:
        - {id: t, path: talk.py, outputs: [o], send_stdout_as: o}
        - {id: r, path: record.py, inputs: {x: {source: t/o, queue_policy: backpressure}}}
        """)  # fmt: skip
    process = flow.start("run", "--dora", "d.yml", "--log-format", "json")
    wait_until(lambda: len(flow.values()) > 10, "some lines")
    flow.kill("t~lines")
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert flow.values() == [f"line {number}\n" for number in range(100)]


def test_records_and_lines_go_to_those_who_subscribe_to_their_level(flow: Flow) -> None:
    flow.write("talk.py", """
        import logging
        from dora import Node
        node = Node()
        print("plain")
        node.log("warn", "careful", "here", {"k": "v"})
        node.log_info("fine")
        """)  # fmt: skip
    dataflow = """
        nodes:
        - {id: t, path: talk.py, outputs: [l], send_logs_as: l}
        - {id: q, path: talk.py, min_log_level: warn}
        - {id: r, path: record.py, inputs: {x: t/l}}
        - {id: w, path: record.py, inputs: {x: dora/logs/warn/t}, env: {OUT: warn}}
        - {id: a, path: record.py, inputs: {x: {source: dora/logs, queue_size: 100}}, env: {OUT: all}}
        """
    done = flow.run(dataflow, "--stop-after", "3s")
    assert done.returncode == 0, done.stderr
    told = [json.loads(text) for text in flow.values()]
    assert [(item["level"], item["message"], item["node_id"]) for item in told] == [
        ("stdout", "plain", "t"), ("WARN", "careful", "t"), ("INFO", "fine", "t"),
    ]  # fmt: skip
    assert (told[1]["target"], told[1]["fields"]) == ("here", {"k": "v"})
    assert len({item["dataflow_id"] for item in told}) == 1
    assert [json.loads(text)["message"] for text in flow.values("warn")] == ["careful"]
    everything = [json.loads(text) for text in flow.values("all")]
    assert sorted(item["message"] for item in everything if item["node_id"] == "t") == ["careful", "fine", "plain"]
    assert [item["message"] for item in everything if item["node_id"] == "q"] == ["careful"]
    assert "q" not in [line.split(" ")[0] for line in done.stdout.splitlines()]


def test_a_node_has_its_environment_arguments_folder_and_cores(flow: Flow) -> None:
    (flow.folder / "sub").mkdir()
    flow.write("sub/look.py", """
        import json, os, sys
        import dora
        told = {
            "args": sys.argv[1:], "cwd": os.getcwd(), "cores": sorted(os.sched_getaffinity(0)), "path": sys.path[0],
            "env": {name: os.environ.get(name) for name in ("A", "B", "C", "PYTHONUNBUFFERED")}, "dora": dora.__file__,
        }
        open("told", "w").write(json.dumps(told))
        """)  # fmt: skip
    core = min(os.sched_getaffinity(0))
    done = flow.run(f"""
        env: {{A: 1.0, B: $OF_THE_CALLER}}
        nodes:
        - {{id: a, path: sub/look.py, args: "-v 'a b' $X", env: {{B: own}}, cpu_affinity: [{core}]}}
        """, "--env", "C=c", OF_THE_CALLER="x")  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads((flow.folder / "told").read_text())
    assert told["args"] == ["-v", "a b", "$X"]
    assert told["env"] == {"A": "1", "B": "own", "C": "c", "PYTHONUNBUFFERED": "1"}
    assert (told["cwd"], told["path"]) == (str(flow.folder), str(flow.folder / "sub"))
    assert told["cores"] == [core]
    assert "noderuntime/dora/path" in told["dora"]


def test_programs_and_shell_commands_run_too(flow: Flow) -> None:
    dataflow = """
        nodes:
        - {id: e, path: echo, args: hello $X}
        - {id: s, path: shell, args: "echo $X; echo more > file"}
        """
    refused = flow.run(dataflow, X="x")
    assert refused.returncode == 2 and "--allow-shell-nodes" in refused.stderr
    done = flow.run(dataflow, "--allow-shell-nodes", X="x")
    assert done.returncode == 0, done.stderr
    assert sorted(line.split("│ ")[1] for line in done.stdout.splitlines()) == ["hello $X", "x"]
    assert (flow.folder / "file").read_text() == "more\n"
    assert flow.run(dataflow, "--fresh", X="x", DORA_ALLOW_SHELL_NODES="true").returncode == 0


def test_modules_run(flow: Flow) -> None:
    flow.write("m/mod.yml", """
        module: {name: m, inputs: [x], outputs: [v]}
        nodes:
        - {id: s, path: pass.py, args: --by $PARAM_BY, inputs: {x: _mod/x}, outputs: [v]}
        """)  # fmt: skip
    flow.write("m/pass.py", """
        import os, sys
        import pyarrow.compute as pc
        from dora import Node
        assert sys.argv[1:] == ["--by", os.environ["PARAM_BY"]]
        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("v", pc.multiply(event["value"], int(sys.argv[2])))
        """)  # fmt: skip
    done = flow.run("""
        nodes:
        - {id: s, path: send.py, outputs: [v]}
        - {id: m, module: m/mod.yml, inputs: {x: s/v}, params: {by: 3}}
        - {id: r, path: record.py, inputs: {x: m/v}}
        """)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert flow.values() == [0, 3, 6, 9, 12]


def test_an_input_that_was_silent_recovers_before_its_next_message(flow: Flow) -> None:
    done = flow.run(
        """
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 2, PAUSE: 2}}
        - {id: r, path: record.py, inputs: {x: {source: s/v, input_timeout: 0.3}}}
        """
    )
    assert done.returncode == 0, done.stderr
    told = [record["type"] for record in flow.records() if "type" in record]
    assert told[:4] == ["INPUT", "INPUT_CLOSED", "INPUT_RECOVERED", "INPUT"]


def test_a_dynamic_node_joins_by_its_id(flow: Flow) -> None:
    flow.write("d.yml", """
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 400, PAUSE: 0.02}}
        - {id: y, path: dynamic, inputs: {x: {source: s/v, queue_size: 1000}}}
        """)  # fmt: skip
    flow.write("join.py", RECORD.replace("Node()", 'Node("y")'))
    process = flow.start("run", "--dora", "d.yml")
    wait_until(lambda: (flow.home / "runs" / "d" / "dora.json").exists(), "the run")

    def joins() -> bool:
        line = [sys.executable, "join.py"]
        with subprocess.Popen(line, cwd=flow.folder, env=dynamic, stderr=subprocess.PIPE) as joined:
            wait_until(lambda: joined.poll() is not None or len(flow.values()) > 3, "messages, or a refusal")
            if joined.poll() is None:
                joined.terminate()
                return True
        return False

    path = subprocess.run(
        [sys.executable, "-c", "from noderuntime.dora.files import PATH; print(PATH)"], capture_output=True, text=True,
        check=True,
    ).stdout.strip()  # fmt: skip
    dynamic = flow.environ(PYTHONPATH=path)
    wait_until(joins, "the dynamic node to join")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 143
    values = flow.values()
    assert values == [*range(values[0], values[0] + len(values))]


def test_state_and_exactly_once_are_there_for_those_who_switch_them_on(flow: Flow) -> None:
    flow.write("sums.py", """
        import pyarrow as pa
        from dora import DoraStatus
        class Operator:
            def __init__(self):
                self.total = self.count = 0
            def restore_state(self, state):
                self.total, self.count = map(int, state["sum"].split())
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    self.total += dora_event["value"][0].as_py()
                    self.count += 1
                    send_output.save_state("sum", b"%d %d" % (self.total, self.count))
                    send_output("sum", pa.array([self.total]))
                return DoraStatus.CONTINUE
        """)  # fmt: skip
    dataflow = """
        nodes:
        - {id: s, path: send.py, outputs: [v]}
        - id: o
          restart_policy: on-failure
          operator:
            python: sums.py
            inputs: {x: {source: s/v, queue_policy: backpressure}}
            outputs: [sum]
        - {id: r, path: record.py, inputs: {x: {source: o/sum, queue_policy: backpressure}}}
        """
    flow.write("d.yml", dataflow)
    process = flow.start("run", "--dora", "d.yml", COUNT="600", PAUSE="0.03")
    for wanted in (50, 150):
        wait_until(lambda: len(flow.values()) > wanted, "messages")  # noqa: B023
        flow.kill("o")
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert flow.values() == [number * (number + 1) // 2 for number in range(600)]


def test_a_run_that_was_killed_is_resumed_with_its_id(flow: Flow) -> None:
    flow.write("d.yml", "nodes:\n- {id: r, path: record.py, inputs: {t: dora/timer/millis/50}}")
    facts = flow.home / "runs" / "d" / "dora.json"
    process = flow.start("run", "--dora", "d.yml")
    wait_until(lambda: len(flow.values()) or len(flow.records()) > 2, "ticks")
    first = json.loads(facts.read_text())["dataflow_id"]
    run = json.loads((facts.parent / "run.json").read_text())
    os.kill(run["pid"], signal.SIGKILL)
    process.communicate(timeout=WITHIN_S)
    before = len(flow.records())
    process = flow.start("run", "--dora", "d.yml", "--resume")
    wait_until(lambda: len(flow.records()) > before + 2, "more ticks")
    assert json.loads(facts.read_text())["dataflow_id"] == first
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130


def test_a_node_that_does_not_heed_stop_is_ended(flow: Flow) -> None:
    flow.write("deaf.py", """
        import time
        from dora import Node
        node = Node()
        open("up", "w").close()
        time.sleep(600)
        """)  # fmt: skip
    done = flow.run("nodes:\n- {id: a, path: deaf.py, inputs: {t: dora/timer/secs/60}}", "--stop-after", "500ms")
    assert done.returncode == 0
    assert (flow.folder / "up").exists()


def test_a_health_check_ends_a_node_that_is_stuck_and_leaves_one_that_waits(flow: Flow) -> None:
    flow.write("stuck.py", """
        import time
        import pyarrow as pa
        from dora import Node
        node = Node()
        for event in node:
            if event["type"] == "INPUT" and node.restart_count() == 0:
                time.sleep(600)
            node.send_output("w", pa.array([node.restart_count()]))
        """)  # fmt: skip
    done = flow.run("""
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 2, PAUSE: 3}}
        - id: k
          path: stuck.py
          inputs: {x: {source: s/v, queue_policy: backpressure}}
          outputs: [w]
          restart_policy: on-failure
          health_check_timeout: 1
        - {id: r, path: record.py, inputs: {x: k/w, y: s/v}, health_check_timeout: 1}
        """)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "killing it" in done.stderr
    assert [record["value"] for record in flow.records() if record.get("id") == "x" and "value" in record][:1] == [[1]]
    assert flow.events()[-1:] == STOPPED
    assert "r died" not in done.stderr


def test_a_node_that_is_late_is_started_again(flow: Flow) -> None:
    flow.write("late.py", """
        import os, time
        from dora import Node
        if not os.path.exists("tried"):
            open("tried", "w").close()
            time.sleep(600)
        Node()
        """)  # fmt: skip
    done = flow.run("""
        nodes:
        - {id: l, path: late.py, outputs: [v], startup_timeout: 6, restart_policy: on-failure}
        - {id: r, path: record.py, inputs: {x: l/v}, startup_timeout: 5}
        """)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "start timeout" in done.stderr and "r died" not in done.stderr
    assert flow.events() == [("NODE_RESTARTED", "l"), ("INPUT_CLOSED", "x"), *STOPPED]


def test_one_core_that_there_is_is_enough(flow: Flow) -> None:
    core = min(os.sched_getaffinity(0))
    done = flow.run(f"nodes:\n- {{id: r, path: record.py, cpu_affinity: [{core}, 4000], inputs: {{x: s/v}}}}\n"
                    "- {id: s, path: send.py, outputs: [v]}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert flow.values() == [0, 1, 2, 3, 4]


def test_what_operators_print_comes_as_messages_too(flow: Flow) -> None:
    flow.write("talk.py", """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    print("got", dora_event["value"][0].as_py())
                    send_output("w", dora_event["value"], {})
                return DoraStatus.CONTINUE
        """)  # fmt: skip
    operator = "python: talk.py, outputs: [w, o], send_stdout_as: o, inputs"
    done = flow.run(f"""
        nodes:
        - {{id: s, path: send.py, outputs: [v]}}
        - {{id: a, operator: {{{operator}: {{x: {{source: s/v, queue_size: 50}}}}}}}}
        - id: m
          operators:
          - {{id: b, python: talk.py, outputs: [w], inputs: {{x: {{source: a/w, queue_size: 50}}}}}}
          - {{id: c, {operator}: {{x: {{source: m/b/w, queue_size: 50}}}}}}
        - {{id: r, path: record.py, inputs: {{x: {{source: a/o, queue_size: 50}}}}}}
        - {{id: q, path: record.py, inputs: {{x: {{source: m/c/o, queue_size: 50}}}}, env: {{OUT: other}}}}
        """)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert flow.values() == [f"got {number}\n" for number in range(5)]
    assert sorted(flow.values("other")) == sorted(2 * flow.values())


def test_a_run_is_resumed_without_the_helpers_that_its_file_needs_no_longer(flow: Flow) -> None:
    flow.write("talk.py", """
        from dora import Node
        for event in Node():
            if event["type"] == "INPUT":
                print("tick")
        """)  # fmt: skip
    talks = "nodes:\n- {id: t, path: talk.py, inputs: {t: dora/timer/millis/50}}\n"
    flow.write("d.yml", talks + "- {id: r, path: record.py, inputs: {x: dora/logs}}\n")
    process = flow.start("run", "--dora", "d.yml")
    wait_until(lambda: len(flow.values()) > 3, "lines")
    os.kill(json.loads((flow.home / "runs" / "d" / "run.json").read_text())["pid"], signal.SIGKILL)
    process.communicate(timeout=WITHIN_S)
    less = talks + "- {id: r, path: record.py, inputs: {t: dora/timer/millis/50}}"
    done = flow.run(less, "--resume", "--stop-after", "1s")
    assert done.returncode == 0, done.stderr
    assert flow.events()[-1:] == [("STOP", "MANUAL")]


def test_a_drain_ends_nodes_that_have_timers_too(flow: Flow) -> None:
    flow.write("d.yml", """
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 100000, PAUSE: 0.02}}
        - {id: r, path: record.py, inputs: {x: s/v, t: dora/timer/millis/100}}
        """)  # fmt: skip
    process = flow.start("run", "--dora", "d.yml")
    wait_until(lambda: len(flow.values()) > 3, "messages")
    line = [sys.executable, "-m", "noderuntime", "stop", "--drain", "d"]
    subprocess.run(line, env=flow.environ(), check=True, capture_output=True, timeout=WITHIN_S)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0
    assert flow.events() == [("INPUT_CLOSED", "x"), *STOPPED]
    assert flow.records()[-1] == {"over": True}


def test_a_dataflow_of_dora_is_not_changed_while_it_runs(flow: Flow) -> None:
    flow.write("d.yml", """
        nodes:
        - {id: s, path: send.py, outputs: [v], env: {COUNT: 100000, PAUSE: 0.02}}
        - {id: r, path: record.py, inputs: {x: s/v}}
        """)  # fmt: skip
    process = flow.start("run", "--dora", "d.yml")
    wait_until(lambda: len(flow.values()) > 3, "messages")
    line = [sys.executable, "-m", "noderuntime", "apply", "d", "d.yml"]
    done = subprocess.run(
        line, cwd=flow.folder, env=flow.environ(), capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 2
    assert "a dataflow of dora cannot be changed while it runs" in done.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130


def test_a_running_dataflow_of_dora_is_not_changed_and_a_sentence_says_what_to_do(flow: Flow) -> None:
    sender = "nodes:\n- {id: s, path: send.py, outputs: [v]}\n"
    flow.write("d.yml", f"{sender}- {{id: r, path: record.py, inputs: {{x: s/v}}}}\n")
    running = flow.start("run", "--dora", "d.yml", "--watch", COUNT="1000000", PAUSE="0.01")
    out = flow.folder / "out"
    wait_until(lambda: out.exists() and "INPUT" in out.read_text(), "messages to flow")
    said = "a dataflow of dora cannot be changed while it runs"
    for options in ([], ["--dry-run"], ["--rename", "s=t"]):
        asked = flow.start("apply", "d", "d.yml", *options)
        _, err = asked.communicate(timeout=WITHIN_S)
        assert asked.returncode == 2 and said in err and "run --dora FILE" in err
    flow.write("d.yml", sender)
    assert running.stderr is not None
    assert any(said in line for line in running.stderr)  # up to the one that says so
    stopped = flow.start("stop", "d")
    assert stopped.wait(WITHIN_S) == 0
    running.communicate(timeout=WITHIN_S)
    assert running.returncode == 0
