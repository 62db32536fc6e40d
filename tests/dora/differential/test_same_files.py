# ruff: noqa: E501  (tables: a row a line)
"""What a dora file says and what comes of it, on both: which files are valid, env, args, folders, modules (9, 10)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, real_folder, run_both, write

LOOK = """
import os, sys
from record import say
say("args", sys.argv[1:])
say("cwd", os.path.relpath(os.getcwd(), os.environ["RECORDS"]))
say("path", os.path.relpath(sys.path[0], os.getcwd()))
say("env", {name: os.environ.get(name) for name in "ABCDEFGHIJKLMNOPQR"})
say("unbuffered", os.environ.get("PYTHONUNBUFFERED"))
"""

# a node `a`, beside a sender `s` with the outputs `v` and `w/x`; whether both take it
VALID = [
    "path: a.py",
    "path: a.py, args: -v 5",
    "path: a.py, args: 5",
    "path: a.py, name: A, description: about it",
    "path: a.py, inputs: {x: s/v}",
    "path: a.py, inputs: {x: s/w/x}",
    "path: a.py, inputs: {x/y: s/v}",
    "path: a.py, inputs: {x: {source: s/v}}",
    "path: a.py, inputs: {x: {source: s/v, queue_size: 0}}",
    "path: a.py, inputs: {x: {source: s/v, queue_size: 3, queue_policy: drop_oldest, input_timeout: 1.5}}",
    "path: a.py, inputs: {x: {source: s/v, queue_policy: backpressure}}",
    "path: a.py, inputs: {x: dora/timer/secs/1, y: dora/timer/millis/5, z: dora/timer/micros/500, u: dora/timer/nanos/500000}",
    "path: a.py, inputs: {x: dora/timer/hz/30, y: dora/timer/hz/2.5}",
    "path: a.py, inputs: {x: dora/logs, y: dora/logs/warn, z: dora/logs/stdout/s}",
    "path: a.py, inputs: {x: a/o}, outputs: [o]",
    "path: a.py, outputs: [o, o]",
    "path: a.py, outputs: [o/p]",
    "path: a.py, outputs: [o], send_stdout_as: o, send_logs_as: o",
    "path: a.py, min_log_level: debug, max_log_size: 5MB, max_rotated_files: 3",
    "path: a.py, build: 'true'",
    "path: a.py, restart_policy: always, max_restarts: 3, restart_delay: 1, max_restart_delay: 2.5, restart_window: 60",
    "path: a.py, restart_policy: on-failure, health_check_timeout: 3, startup_timeout: 4, finish_grace_secs: 5",
    "path: a.py, cpu_affinity: [0]",
    "path: a.py, shared_memory_pool_size: 128MB",
    "path: a.py, shared_memory_pool_size: 1000000",
    "path: a.py, outputs: [o], output_framing: {o: arrow-ipc}",
    "path: a.py, outputs: [o], output_types: {o: std/core/v1/Bool}",
    "path: a.py, inputs: {x: s/v}, input_types: {x: std/core/v1/Bool}",
    "path: dynamic",
    "path: echo, args: hello",
    "operator: {python: op.py, inputs: {x: s/v}, outputs: [o]}",
    "operator: {python: {source: op.py}}",
    "operator: {id: b, name: B, description: about it, python: op.py}",
    "operators: [{id: b, python: op.py, inputs: {x: s/v}, outputs: [o]}]",
    "path: a.py, env: {A: x, B: 5, C: 1.5, D: true}",
    "path: a.py, env: {A: $HOME, B: '${NOPE:-x}'}",
    "module: mod.yml, inputs: {i: s/v}, params: {p: '1'}, env: {A: 1}",
    "path: a.py}\n- {id: r, path: a.py, inputs: {x: s/v}, env: {A: 1}",
    "operator: {python: op.py, outputs: [o]}}\n- {id: r, path: a.py, inputs: {x: a/o}",
    "operators: [{id: b, python: op.py, outputs: [o]}]}\n- {id: r, path: a.py, inputs: {x: a/b/o}",
    "module: mod.yml, inputs: {i: s/v}}\n- {id: r, path: a.py, inputs: {x: a/o, y: a.m/o}",
]
INVALID = [
    "path: a.py, zzz: 1",
    "args: x",
    "path: a.py, params: {p: '1'}",
    "path: a.py, operator: {python: op.py}",
    "path: a.py, args: [a, b]",
    "path: a.py, inputs: {x: nobody/v}",
    "path: a.py, inputs: {x: s/nothing}",
    "path: a.py, inputs: {x: s}",
    "path: a.py, inputs: {'x y': s/v}",
    "path: a.py, inputs: {x: timer/millis/100}",
    "path: a.py, inputs: {x: dora/timer/secs/0.5}",
    "path: a.py, inputs: {x: dora/timer/millis/1.5}",
    "path: a.py, inputs: {x: dora/timer/millis/0}",
    "path: a.py, inputs: {x: dora/timer/hz/0}",
    "path: a.py, inputs: {x: dora/timer/minutes/1}",
    "path: a.py, inputs: {x: dora/other}",
    "path: a.py, inputs: {x: dora/logs/loud}",
    "path: a.py, inputs: {x: dora/logs/info/a/b}",
    "path: a.py, inputs: {x: {queue_size: 3}}",
    "path: a.py, inputs: {x: {source: s/v, queue_size: -1}}",
    "path: a.py, inputs: {x: {source: s/v, queue_policy: newest}}",
    "path: a.py, outputs: o",
    "path: a.py, outputs: ['o p']",
    "path: a.py, restart_policy: on_failure",
    "path: a.py, max_restarts: -1",
    "path: a.py, restart_delay: soon",
    "path: a.py, min_log_level: loud",
    "path: a.py, shared_memory_pool_size: 12XB",
    "path: a.py, outputs: [o], output_framing: {o: zip}",
    "path: a.py, env: {A: $NOPE_NOPE}",
    "path: a.py, env: {A: [1]}",
    "path: a.py, env: {A: }",
    "path: a.py, env: {A: {__dora_env: X}}",
    "operator: {python: op.py}, outputs: [o]",
    "operator: {python: op.py}, inputs: {x: s/v}",
    "operator: {python: op.py}, args: x",
    "operators: [{python: op.py}]",
    "operator: {python: op.py, outputs: [o]}}\n- {id: r, path: a.py, inputs: {x: a/op/o}",
    "path: a.py}\n- {id: a, path: b.py",
    "module: mod.yml",
    "module: none.yml, inputs: {i: s/v}",
    "module: mod.yml, inputs: {i: s/v, nothing: s/v}",
    "module: mod.yml, inputs: {i: s/v}, path: a.py",
    "module: ../mod.yml, inputs: {i: s/v}",
    "path: shell, args: ls",
]
# what dora lets pass without a word, or takes and we refuse: each is a row of "Coming from dora"
STRICTER = [
    "path: a.py, inputs: {x: {source: s/v, queue_sise: 1}}",
    "operator: {python: op.py, zzz: 1}",
    "operator: {python: op.py, shared-library: x}",
    "path: a.py, inputs: {x: dora/logs/info/nobody}",
    "path: a.py, inputs: {x: {source: a/o, queue_policy: backpressure}}, outputs: [o]",
    "operators: []",
    "path: a.py, outputs: [o], pattern: talk",
    "path: a.py, output_types: {x: std/core/v1/Bool}",
    "path: a.py, deploy: {machine: A}",
]
IDS = [("ok.name-1_x", True), ("a/b", False), (".a", False), ("a b", False), ("dora", False), ("5", True)]
MODULE = "module: {name: m, inputs: [i], outputs: [o]}\nnodes:\n- {id: m, path: a.py, args: $PARAM_P, inputs: {x: _mod/i}, outputs: [o]}\n"


def validated(folder: Path, text: str) -> tuple[int, int]:
    """The exit codes of the real one and of ours for one file."""
    write(folder, {"a.py": "", "b.py": "", "s.py": "", "op.py": "class Operator:\n    def on_event(self, e, s): ...\n", "mod.yml": MODULE}, text)
    real = subprocess.run([str(real_folder() / "bin/dora"), "validate", "flow.yml"], cwd=folder, capture_output=True, text=True, check=False)
    line = [sys.executable, "-m", "noderuntime", "validate", "--dora", "flow.yml"]
    ours = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "PATH": "/usr/bin:/bin"})
    assert "Traceback" not in ours.stderr and "bug of noderuntime" not in ours.stderr, ours.stderr
    return real.returncode, ours.returncode


def around(node: str) -> str:
    return f"nodes:\n- {{id: s, path: s.py, outputs: [v, w/x]}}\n- {{id: a, {node}}}\n"


@pytest.mark.parametrize("node", VALID)
def test_what_dora_takes_we_take(tmp_path: Path, node: str) -> None:
    assert validated(tmp_path / "flow", around(node)) == (0, 0)


@pytest.mark.parametrize("node", INVALID)
def test_what_dora_refuses_we_refuse(tmp_path: Path, node: str) -> None:
    real, ours = validated(tmp_path / "flow", around(node))
    assert ours == 2
    assert real == 1 or node.startswith(("path: shell", "path: a.py, args"))  # which dora refuses at the start


@pytest.mark.parametrize("node", STRICTER)
def test_what_only_we_refuse(tmp_path: Path, node: str) -> None:
    assert validated(tmp_path / "flow", around(node)) == (0, 2)


@pytest.mark.parametrize(("name", "valid"), IDS)
def test_ids(tmp_path: Path, name: str, valid: bool) -> None:
    assert validated(tmp_path / "flow", f"nodes:\n- {{id: '{name}', path: a.py}}\n") == ((0, 0) if valid else (1, 2))


@pytest.mark.parametrize("name", ["shared", "timer"])
def test_ids_that_only_we_refuse(tmp_path: Path, name: str) -> None:
    assert validated(tmp_path / "flow", f"nodes:\n- {{id: {name}, path: a.py}}\n") == (0, 2)


@pytest.mark.parametrize(
    ("text", "codes"),
    [("health_check_interval: 2", (0, 0)), ("exit_when_nodes_finish: true", (0, 0)), ("strict_types: false", (0, 0)),
     ("debug: {enable_debug_inspection: true}", (0, 0)), ("type_rules: [{from: a, to: b}]", (0, 0)), ("env: {A: 1}", (0, 0)),
     ("zzz: 1", (1, 2)), ("debug: {zzz: 1}", (1, 2)), ("env: {A: $NOPE_NOPE}", (1, 2)), ("exit_when_nodes_finish: maybe", (1, 2)),
     ("strict_types: true", (0, 2)), ("deploy: {machine: A}", (0, 2))],
)  # fmt: skip
def test_fields_of_the_file(tmp_path: Path, text: str, codes: tuple[int, int]) -> None:
    assert validated(tmp_path / "flow", f"{text}\n{around('path: a.py')}") == codes


def test_the_environment_of_a_node(tmp_path: Path) -> None:
    dataflow = """
env: {A: root, B: root, R: 1.0}
nodes:
  - id: look
    path: look.py
    env:
      B: own
      C: $HOME
      D: a-$HOME-b
      E: ${NOPE_NOPE:-dflt}
      F: x$$y
      G: true
      H: yes
      I: 0x10
      J: 1.5
      K: 1e3
      L: 1_000
      M: 1.0.0
      N: ~/x
      O: -0.5
      P: 1e-7
      Q: "0x10"
"""
    real, ours = run_both(tmp_path, {"look.py": LOOK}, dataflow)
    assert (real.code, ours.code) == (0, 0)
    assert ours.records == real.records


def test_texts_in_quotes_stay_as_they_are_in_ours_alone(tmp_path: Path) -> None:
    written = ["007", "1.10", "1e3", "+5", ".5", "-0", "nan", "0777"]
    env = ", ".join(f'{name}: "{text}"' for name, text in zip("ABCDEFGH", written, strict=True))
    real, ours = run_both(tmp_path, {"look.py": LOOK}, f"nodes:\n- {{id: look, path: look.py, env: {{{env}}}}}\n")
    seen = [dict(outcome.records["look"])["env"] for outcome in (real, ours)]
    assert [seen[1][name] for name in "ABCDEFGH"] == written
    assert [seen[0][name] for name in "ABCDEFGH"] == ["7", "1.1", "1000", "5", "0.5", "0", "NaN", "777"]


@pytest.mark.parametrize("args", ["-v --count 3", "'\"a b\" c'", "'a\\ b'", "'\"\" x'", "$HOME", "'*.py'", "5", "1.50", "'a;b > c'", "\"it''s\""])
def test_the_arguments_of_a_node(tmp_path: Path, args: str) -> None:
    real, ours = run_both(tmp_path, {"look.py": LOOK}, f"nodes:\n- {{id: look, path: look.py, args: {args}}}\n")
    assert ours.records == real.records


def test_the_option_env(tmp_path: Path) -> None:
    dataflow = "env: {A: root, B: root}\nnodes:\n- {id: look, path: look.py, env: {B: own}}\n"
    real, ours = run_both(tmp_path, {"look.py": LOOK}, dataflow, "--env", "A=option", "--env", "B=option", "--env", "C=option")
    assert ours.records == real.records


def test_folders_and_modules(tmp_path: Path) -> None:
    files = {
        "m/mod.yml": "module: {name: m, inputs: [], outputs: []}\nnodes:\n"
        "- {id: look, path: sub/look.py, args: '--p $PARAM_P ${PARAM_P} $PARAM_PX', env: {B: inner}}\n",
        "m/sub/look.py": LOOK.replace("from record", "sys.path.append('.')\nfrom record"),
    }
    dataflow = "env: {A: root}\nnodes:\n- {id: x, module: m/mod.yml, params: {p: 'v w'}, env: {B: outer, C: outer}}\n"
    real, ours = run_both(tmp_path, files, dataflow)
    assert (real.code, ours.code) == (0, 0)
    assert ours.records == real.records


def test_shell_and_programs(tmp_path: Path) -> None:
    dataflow = """
nodes:
  - {id: s, path: shell, args: "echo $A > records/shell.jsonl; echo 2 >> records/shell.jsonl", env: {A: 1}}
  - {id: t, path: touch, args: "records/t.jsonl '$HOME.jsonl'"}
"""
    real, ours = run_both(tmp_path, {}, dataflow, "--allow-shell-nodes")
    assert (real.code, ours.code) == (0, 0)
    assert ours.records == real.records == {"shell": [1, 2], "t": []}
    assert (tmp_path / "ours/$HOME.jsonl").exists() and (tmp_path / "real/$HOME.jsonl").exists()


def test_the_descriptor(tmp_path: Path) -> None:
    node = "from dora import Node\nfrom record import say\nnode = Node()\nsay(node.dataflow_descriptor(), node.node_config())\n"
    dataflow = """
env: {R: 1, T: true, S: "x"}
nodes:
  - id: a
    path: desc.py
    name: nn
    args: 5
    env: {A: x, F: 1.5, G: $HOME}
    inputs:
      t: dora/timer/millis/100
      u: {source: a/x, queue_size: 3, queue_policy: drop_oldest, input_timeout: 5}
      l: dora/logs/info/a
      v: {source: dora/timer/hz/2.5}
      w: dora/timer/millis/3000
      y: dora/timer/micros/1500
    outputs: [z, x, o]
    restart_policy: never
    restart_delay: 1
    output_framing: {x: arrow-ipc}
    shared_memory_pool_size: 128MB
  - {id: d, path: dynamic}
  - id: m
    module: mod.yml
    inputs: {i: a/z}
    params: {p: "v"}
"""
    module = MODULE.replace("a.py", "idle.py")
    files = {"desc.py": node, "mod.yml": module, "idle.py": "from dora import Node\nNode()\n"}
    real, ours = run_both(tmp_path, files, dataflow, "--stop-after", "2s")
    assert ours.records == real.records


def test_builds_run_in_the_folder_with_the_env_of_the_node(tmp_path: Path) -> None:
    files = {"look.py": LOOK, "mod.yml": "module: {name: m}\nbuild: touch second\nnodes:\n- {id: n, path: look.py, build: touch third}\n"}
    build = "\"python look.py one 'two three'\\ntouch first\""
    dataflow = f"nodes:\n- {{id: a, path: look.py, env: {{A: x}}, build: {build}}}\n- {{id: m, module: mod.yml}}\n"
    outcomes = []
    for kind in ("real", "ours"):
        folder = write(tmp_path / kind, files, dataflow)
        line = [str(real_folder() / "bin/dora")] if kind == "real" else [sys.executable, "-m", "noderuntime"]
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "RECORDS": str(folder / "records"), "HOME": str(folder)}
        done = subprocess.run([*line, "build", "flow.yml", *(["--local"] if kind == "real" else [])], cwd=folder, env=env, capture_output=True, text=True, check=False)
        made = {name for name in ("first", "second", "third") if (folder / name).exists()}
        outcomes.append((done.returncode, made, (folder / "records/look.jsonl").read_text()))
    assert outcomes[0] == outcomes[1]
    assert outcomes[1][0] == 0 and outcomes[1][1] == {"first", "second", "third"}


def test_a_build_that_fails(tmp_path: Path) -> None:
    real, ours = (tmp_path / "real", tmp_path / "ours")
    for folder in (real, ours):
        write(folder, {"a.py": ""}, "nodes:\n- {id: a, path: a.py, build: 'false'}\n")
    done = subprocess.run([str(real_folder() / "bin/dora"), "build", "--local", "flow.yml"], cwd=real, capture_output=True, check=False)
    assert done.returncode == 1
    done = subprocess.run([sys.executable, "-m", "noderuntime", "build", "flow.yml"], cwd=ours, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/"})
    assert done.returncode == 1 and "'false' ended with exit code 1" in done.stderr  # type: ignore[operator]
