# ruff: noqa: E501  (tables: a row a line)
"""`validate`, `graph` and `build` with dora files, and what `run --dora` refuses before it begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from noderuntime.cli import main

FLOW = """\
nodes:
- {id: s, path: s.py, outputs: [v, o], send_stdout_as: o}
- {id: op, operator: {python: op.py, inputs: {x: s/v}, outputs: [w]}}
- {id: r, path: s.py, inputs: {x: op/w, y: s/o, t: dora/timer/millis/100, l: dora/logs/warn}}
- {id: d, path: dynamic, inputs: {x: s/v}}
"""
OPERATOR = "class Operator:\n    def on_event(self, event, send):\n        pass\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path / "home"))
    (tmp_path / "s.py").write_text("print(1)\n")
    (tmp_path / "op.py").write_text(OPERATOR)
    (tmp_path / "d.yml").write_text(FLOW)
    return tmp_path


def test_validate_counts_what_the_file_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--dora", "d.yml"]) == 0
    assert capsys.readouterr().out == "d.yml is valid: 1 operator, 2 custom nodes, 1 dynamic node\n"


def test_validate_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--dora", "--json", "d.yml"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] and told["errors"] == []
    assert {node["id"]: node["inputs"] for node in told["nodes"]} == {
        "s": {}, "op": {"x": "s/v"}, "d": {"x": "s/v"}, "dora/logs": {},
        "r": {"x": "op/w", "y": "s/o", "t": "timer/millis/100", "l": "dora/logs/logs-warn"},
    }  # fmt: skip


def test_validate_tells_all_errors_with_their_places(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "d.yml").write_text("nodes:\n- {id: a, path: a.py, git: x}\n- {id: b, pth: b.py}\n")
    assert main(["validate", "--dora", "d.yml"]) == 2
    told = capsys.readouterr().err
    assert "d.yml:2:23: `git` of node 'a'" in told and "d.yml:3:11: unknown field `pth` in node 'b'" in told
    assert main(["validate", "--dora", "--json", "d.yml"]) == 2
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert {(error["line"], error["column"]) for error in errors} >= {(2, 23), (3, 11)}


@pytest.mark.parametrize(
    ("node", "said"),
    [("path: nothing.py", "'nothing.py' does not exist"), ("operator: {python: nothing.py}", "'nothing.py' does not exist"),
     ("operator: {python: s.py}", "s.py has no 'Operator'"), ("path: no-such-program", "no command of that name"),
     ("path: s.py, cpu_affinity: [4000]", "names no core that there is")],
)  # fmt: skip
def test_validate_looks_at_what_the_file_names(
    folder: Path, capsys: pytest.CaptureFixture[str], node: str, said: str
) -> None:
    (folder / "d.yml").write_text(f"nodes:\n- {{id: a, {node}}}\n")
    assert main(["validate", "--dora", "d.yml"]) == 2
    assert said in capsys.readouterr().err


def test_what_has_no_effect_is_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "d.yml").write_text("nodes:\n- {id: a, path: s.py, outputs: [o], output_types: {o: t}, max_log_size: 5MB}\n")
    assert main(["validate", "--dora", "--json", "d.yml"]) == 0
    told = capsys.readouterr()
    assert len(json.loads(told.out)["warnings"]) == 2
    assert "type annotations are not checked here" in told.err and "two files of 64 MB" in told.err


def test_a_module_of_another_file_is_told_with_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "m.yml").write_text("module: {name: m}\nnodes:\n- {id: n, path: s.py, argz: 1}\n")
    (folder / "d.yml").write_text("nodes:\n- {id: a, module: m.yml}\n")
    assert main(["validate", "--dora", "d.yml"]) == 2
    assert "m.yml:3:23: unknown field `argz` in node 'a.n'" in capsys.readouterr().err
    (folder / "m.yml").write_text("module: {name: m}\nnodes:\n- {id: n, path: nothing.py}\n")
    monkeypatch.chdir(folder.parent)
    assert main(["validate", "--dora", f"{folder.name}/d.yml"]) == 2
    assert f"{folder.name}/m.yml:3:17: node 'a.n': 'nothing.py' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["", "--mermaid", "--html=-", "--json"])
def test_graph_draws_what_the_file_has(folder: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert main(["graph", "--dora", *filter(None, [form]), "d.yml"]) == 0
    drawn = capsys.readouterr().out
    for text in ("op.py", "s.py", "dora/logs"):
        assert text in drawn
    for text in ("dora.end", "s~lines", "25 ms"):
        assert text not in drawn
    if form == "--json":
        edges = [(edge["from"], edge["to"]) for edge in json.loads(drawn)["edges"]]
        assert ("s/o", "r/y") in edges and ("op/w", "r/x") in edges and len(edges) == 6


def test_without_the_option_a_dora_file_is_one_of_ours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "d.yml"]) == 2
    told = capsys.readouterr().err
    assert "unknown field `send_stdout_as`" in told and "is this one? Then give `--dora`" in told
    (folder / "d.yml").write_text("nodes:\n- {id: a, pth: x}\n")
    assert main(["validate", "d.yml"]) == 2
    assert "--dora" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["run d.yml --allow-shell-nodes", "validate d.yml --allow-shell-nodes", "run d.yml --exit-when-nodes-finish"]
)
def test_options_for_dora_files_need_dora(folder: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert main(line.split()) == 2
    assert "--dora" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run --dora", "validate --dora", "graph --dora", "build"])
def test_without_pyarrow_the_extra_is_named(folder: Path, command: str) -> None:
    program = "import sys; sys.modules['pyarrow'] = None; from noderuntime.cli import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", program, *command.split(), "d.yml"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": _ROOT})
    assert done.returncode == 2
    assert done.stderr == "error: dataflows of dora need pyarrow: pip install 'noderuntime[arrow]'\n"


_ROOT = str(Path(__file__).parents[2])


def test_build_runs_what_the_nodes_say(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "build.py").write_text("import os, sys; print('built', sys.argv[1:], os.getcwd(), os.environ['E'])\n")
    (folder / "d.yml").write_text(
        'env: {E: root}\nnodes:\n- {id: a, path: s.py, build: "python build.py x y\\n\\ntouch made"}\n'
        "- {id: b, path: s.py, env: {E: own}, build: python build.py}\n- {id: c, path: s.py}\n"
    )
    assert main(["build", "d.yml", "--env", "E=option"]) == 0
    told = capfd.readouterr()
    assert told.out.splitlines() == [f"built ['x', 'y'] {folder} option", f"built [] {folder} own"]
    assert told.err.splitlines() == ["a: python build.py x y", "a: touch made", "b: python build.py"]
    assert (folder / "made").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [("false", "'false' ended with exit code 1"), ("no-such-program", "'no-such-program' cannot be run: No such file")],
)
def test_build_ends_with_the_first_command_that_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    (folder / "d.yml").write_text(
        f"nodes:\n- {{id: a, path: s.py, build: {command}}}\n- {{id: b, path: s.py, build: touch made}}\n"
    )
    assert main(["build", "d.yml"]) == 1
    assert f"a: {said}" in capsys.readouterr().err
    assert not (folder / "made").exists()


def test_build_says_when_there_is_nothing_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "d.yml"]) == 0
    assert "d.yml has nothing to build" in capsys.readouterr().err


def test_pip_is_that_of_this_interpreter_or_of_uv(folder: Path) -> None:
    from noderuntime.cli.build import command

    assert command("pip install -e .", False, {}) == [sys.executable, "-m", "pip", "install", "-e", "."]
    assert command("pip3 install x", True, {}) == ["uv", "pip", "install", "x"]
    assert command("python setup.py", False, {"PATH": "/nowhere"}) == [sys.executable, "setup.py"]
    assert command("cargo build", True, {}) == ["cargo", "build"]
