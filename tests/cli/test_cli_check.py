"""validate and graph: what they say of good and of bad files, and that they execute nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from noderuntime.cli import main

Capture = pytest.CaptureFixture[str]

FLOW = """\
nodes:
  - id: counter
    path: count.py
    outputs: [n]
  - id: sums
    operator: {python: sums.py, inputs: {n: counter/n}, outputs: [sum]}
"""


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    for name in ("count.py", "sums.py"):
        (tmp_path / name).write_text("raise SystemExit('executed')\n")
    (tmp_path / "flow.yml").write_text(FLOW)
    return tmp_path / "flow.yml"


def test_a_good_file_is_valid_and_nothing_of_it_was_executed(flow: Path, capsys: Capture) -> None:
    assert main(["validate", str(flow)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{flow} is valid: 1 operator, 1 custom node\n"
    assert said.err == ""


def test_who_shares_a_process_is_told_so_that_a_name_that_is_misspelt_is_seen(flow: Path, capsys: Capture) -> None:
    more = ""
    for id, name in (("a", "fast"), ("b", "fast"), ("c", "fsat")):
        more += f"  - {{id: {id}, process: {name}, operator: {{python: sums.py, inputs: {{n: counter/n}}}}}}\n"
    flow.write_text(FLOW + more)
    assert main(["validate", str(flow)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1:] == ["  process fast: a, b", "  process fsat: c"]


def test_json_names_the_nodes(flow: Path, capsys: Capture) -> None:
    assert main(["validate", str(flow), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] is True
    assert [node["id"] for node in told["nodes"]] == ["counter", "sums"]


def test_a_bad_file_is_exit_code_2_with_place_what_and_hint(flow: Path, capsys: Capture) -> None:
    flow.write_text(FLOW.replace("counter/n", "conuter/n"))
    assert main(["validate", str(flow)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {flow}:6:")
    assert "counter" in said.err


def test_a_bad_file_as_json_has_its_errors_on_stdout_too(flow: Path, capsys: Capture) -> None:
    flow.write_text(FLOW.replace("counter/n", "conuter/n"))
    assert main(["validate", "--json", str(flow)]) == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert (error["file"], error["line"]) == (str(flow), 6)


def test_a_missing_file_is_exit_code_2(tmp_path: Path, capsys: Capture) -> None:
    for command in ("validate", "graph", "run"):
        assert main([command, str(tmp_path / "none.yml")]) == 2
        assert "there is no such file" in capsys.readouterr().err


def test_a_file_that_hides_the_standard_library_is_warned_about(flow: Path, capsys: Capture) -> None:
    (flow.parent / "queue.py").write_text("")
    flow.write_text(FLOW.replace("count.py", "queue.py"))
    assert main(["validate", str(flow)]) == 0
    said = capsys.readouterr()
    assert "warning:" in said.err and "hides Python's own module" in said.err
    assert "valid" in said.out


def test_env_gives_values_to_variables_in_the_file(flow: Path, capsys: Capture) -> None:
    flow.write_text(FLOW.replace("count.py", "${PROGRAM_OF_TEST}"))
    assert main(["validate", str(flow)]) == 2
    assert main(["validate", str(flow), "--env", "PROGRAM_OF_TEST=count.py"]) == 0


def test_graph_is_mermaid_text_unless_asked_otherwise(flow: Path, capsys: Capture) -> None:
    assert main(["graph", str(flow)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("flowchart")
    assert main(["graph", str(flow), "--mermaid"]) == 0
    assert capsys.readouterr().out == text


def test_graph_writes_one_html_page(flow: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "graph.html"
    assert main(["graph", str(flow), "--html", str(page)]) == 0
    assert "<svg" in page.read_text() and capsys.readouterr().out == ""
    assert main(["graph", str(flow), "--html", "-"]) == 0
    assert capsys.readouterr().out.strip() == page.read_text().strip()
    assert main(["graph", str(flow), "--html", str(tmp_path / "no" / "such.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_graph_as_json_has_edges(flow: Path, capsys: Capture) -> None:
    assert main(["graph", "--json", str(flow)]) == 0
    (edge,) = json.loads(capsys.readouterr().out)["edges"]
    assert edge == {"from": "counter/n", "to": "sums/n", "policy": "backpressure"}


def test_graph_shows_who_shares_a_process(flow: Path, capsys: Capture) -> None:
    flow.write_text(flow.read_text().replace("operator:", "process: fast\n    operator:"))
    assert main(["graph", "--json", str(flow)]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [node["process"] for node in nodes] == ["fast" if node["kind"] == "operator" else None for node in nodes]
    assert "fast" in [node["process"] for node in nodes]


@pytest.mark.parametrize("command", ["validate", "graph", "ps"])
def test_looking_does_not_load_what_running_needs(command: str, flow: Path) -> None:
    line = [command] if command == "ps" else [command, str(flow)]
    program = (
        "import sys; from noderuntime.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'zmq', 'lmdb', 'numpy', 'psutil', 'msgpack'} & set(sys.modules); "
        "sys.exit(code or ', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *line], capture_output=True, text=True, check=False)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr


def test_a_reader_that_stops_early_gets_no_traceback(flow: Path) -> None:
    line = f"{sys.executable} -m noderuntime graph {flow} --html - | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in {0, 141}
