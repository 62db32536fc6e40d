"""README.md and docs/ say what is true: their snippets run, and the fields, commands, files and tests they name exist.

A block that begins with `# NAME.py` or `# NAME.yml` is a file; the files of one document lie in one folder. Any other
Python block runs in one namespace with those before it in the document.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_house import FIRST_TO_READ, ORDER

from noderuntime.cli import parser
from noderuntime.dataflow import reader
from noderuntime.dataflow.reader_errors import NODE_FIELDS
from noderuntime.dataflow.reader_state import SNAPSHOT_FIELDS, STATE_FIELDS
from noderuntime.dora import nodes, refusals
from noderuntime.dora import reader as dora_reader
from noderuntime.errors import StoreError
from noderuntime.state import base, kinds

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [document.name for document in DOCUMENTS]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:py|yml))\n")
FIELD = re.compile(r"^\| ((?:`\w+`(?:, )?)+)", re.MULTILINE)


def document(name: str) -> str:
    return DOCUMENTS[NAMES.index(name)].read_text()


def blocks(name: str, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(document(name)) if found == language]


def write_files(name: str, folder: Path) -> list[str]:
    """The files of one document; their names."""
    written = []
    for language in ("python", "yaml"):
        for text in blocks(name, language):
            if match := FILE.match(text):
                (folder / match[1]).write_text(text)
                written.append(match[1])
    return written


def surroundings(folder: Path) -> dict[str, str]:
    return {**os.environ, "NODERUNTIME_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *arguments]
    environ = surroundings(folder)
    return subprocess.run(line, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_every_dataflow_is_valid(name: str) -> None:
    for text in blocks(name, "yaml"):
        assert reader.parse(text, env={}).nodes, text


@pytest.mark.parametrize("name", NAMES)
def test_every_python_block_that_is_no_file_runs(name: str) -> None:
    namespace: dict[str, object] = {}
    for text in blocks(name, "python"):
        if not FILE.match(text):
            exec(compile(text, name, "exec"), namespace)


def test_the_operator_of_the_readme_runs_in_its_dataflow_and_under_its_test(tmp_path: Path) -> None:
    files = write_files("README.md", tmp_path)
    assert {"thermometer.py", "average.py", "show.py", "weather.yml", "test_average.py"} <= set(files)
    line = [sys.executable, "-m", "noderuntime", "run", "weather.yml"]
    with subprocess.Popen(line, cwd=tmp_path, env=surroundings(tmp_path), stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout
        lines = [shown.stdout.readline() for _ in range(3)]
        shown.send_signal(signal.SIGINT)
        shown.communicate(timeout=30)
    assert shown.returncode == 130
    for count, text in enumerate(lines, 1):
        assert re.fullmatch(rf"show {{8}}│ \d+\.\d\d degrees over {count} readings\n", text), text
    tested = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_average.py")
    assert tested.returncode == 0, tested.stdout


def test_the_custom_nodes_of_their_page_run_in_its_dataflow(tmp_path: Path) -> None:
    write_files("custom-nodes.md", tmp_path)
    done = run(tmp_path, "-m", "noderuntime", "run", "doubling.yml")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert [line.split("│ ")[1] for line in done.stdout.splitlines()] == ["0", "2", "4", "6", "8"]


def test_the_run_of_its_page_grows_from_two_nodes_to_six_and_counts_every_reading_once(tmp_path: Path) -> None:
    write_files("changing-a-run.md", tmp_path)

    def ask(*arguments: str) -> str:
        done = run(tmp_path, "-m", "noderuntime", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def totals() -> int:
        return int(json.loads(ask("state", "get", "--run", "house", "totals", "totals", "--json"))["value"].split()[1])

    assert ask("run", "-d", "two.yml", "--name", "house") == "house\n"
    try:
        plan = ask("apply", "house", "four.yml")
        assert plan.splitlines() == blocks("changing-a-run.md", "text")[0].splitlines()
        before = {row["id"]: row["pid"] for row in json.loads(ask("node", "ls", "house", "--json"))["nodes"]}
        counted = totals()
        ask("apply", "house", "six.yml")
        now = {row["id"]: row["pid"] for row in json.loads(ask("node", "ls", "house", "--json"))["nodes"]}
        assert len(now) == 6
        assert {id: pid for id, pid in now.items() if id in ("readings", "totals", "show")} == {
            id: before[id] for id in ("readings", "totals", "show")
        }
        assert now["alarm"] != before["alarm"]  # its config has changed
        deadline_s = time.monotonic() + 30
        while totals() <= counted:
            assert time.monotonic() < deadline_s
    finally:
        ask("stop", "house", "--drain")
    lines = [line for line in ask("logs", "house", "totals").splitlines() if "readings" in line]
    count, total = (int(number) for number in re.findall(r"(\d+) readings, (\d+) in all", lines[-1])[0])
    assert total == count * (count - 1) // 2


def test_the_program_that_looks_at_a_run_sees_what_flows(tmp_path: Path) -> None:
    write_files("looking-at-a-run.md", tmp_path)
    assert run(tmp_path, "-m", "noderuntime", "run", "-d", "rooms.yml").returncode == 0
    try:
        looked = run(tmp_path, "look.py")
        assert looked.returncode == 0, looked.stderr
        *lines, last, missed = looked.stdout.splitlines()
        assert missed == "missed 0"
        assert re.fullmatch(r"warmest/celsius warmest/celsius#\d+ 2[56] \{\}", last), last
        assert all(re.fullmatch(r"(\S+) \1#\d+ 2\d \{'room': '(attic|cellar)'\}", line) for line in lines), lines
    finally:
        assert run(tmp_path, "-m", "noderuntime", "stop", "rooms").returncode == 0


def test_every_field_of_a_dataflow_file_is_described_and_no_other() -> None:
    described = {
        field for fields in FIELD.findall(document("dataflow-file.md")) for field in re.findall(r"`(\w+)`", fields)
    }
    parts = (NODE_FIELDS, reader._INPUT, SNAPSHOT_FIELDS, STATE_FIELDS)
    assert described == {*(field for part in parts for field in part), *fields_of_kinds()}


def fields_of_kinds() -> set[str]:
    """The fields that external kinds take, as they say themselves when they are given one that is none."""
    found: set[str] = set()
    for kind, needed in (("redis", "url"), ("sqlite", "path")):
        with pytest.raises(StoreError) as refused:
            kinds.open_kind(kind, {needed: "unix:///nowhere", "qqqqqqqq": 1})
        found.update(str(refused.value).partition("its fields are: ")[2].partition(".")[0].split(", "))
    return found


def test_every_guarantee_of_a_state_is_told_and_no_other() -> None:
    promised = re.findall(r"^ ?(\d+)\. (\w+) +(.*(?:\n {14,}.*)*)", base.__doc__ or "", re.MULTILINE)
    told = re.findall(r"^(\d+)\. \*\*(\w+)\*\*: (.*(?:\n {3,}.*)*)", document("state.md"), re.MULTILINE)
    assert len(promised) == 15
    assert [tuple(" ".join(part.split()) for part in item) for item in told] == [
        tuple(" ".join(part.split()) for part in item) for item in promised
    ]


def test_every_operation_of_state_is_described() -> None:
    text = document("command-line.md")
    rows = re.findall(r"^\| `state ([^`]*)`", text, re.MULTILINE)
    described = {name for row in rows for name in row.split(" ")[0].split("\\|")}
    assert described == set(parser.OPERATIONS["state"])


def test_every_command_and_option_is_described_and_no_other() -> None:
    text = document("command-line.md")
    _, parsers = parser.build()
    for command, parsed in parsers.items():
        assert f"| `{command}" in text, f"{command} is not described"
        for option in parsed.option_names():
            common = {"-h", "--help", "--json", "--mermaid", "--env", "--run"}
            assert option in common or f"`{option}" in text, f"{command} {option}"
    assert {found.split("\\|")[0] for found in re.findall(r"^\| `(\w[\w-]*)", text, re.MULTILINE)} - {"run"} <= {
        *parsers
    }
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert options <= {option for parsed in parsers.values() for option in parsed.option_names()} | {
        "--run", "--count", "--raw", "--msgpack", "--text", "--hex", "--force",  # of operations
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_exists(name: str) -> None:
    text = BLOCK.sub("", document(name))
    named = set(re.findall(r"`((?:noderuntime|operators|dataflows|tests|bench|docs)/[\w/.-]*)(?:::\w+)?`", text))
    linked = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    place = DOCUMENTS[NAMES.index(name)].parent
    assert not [path for path in named if not (ROOT / path).exists()]
    assert not [link for link in linked if not (place / link).exists()]


def test_every_sentence_of_the_promise_names_tests_that_exist() -> None:
    promise = document("README.md").partition("## The promise")[2].partition("And its limits:")[0]
    sentences = [part for part in promise.split("\n\n") if part.startswith(">")]
    assert len(sentences) >= 6
    for after in re.split(r"(?:^>.*\n)+", promise, flags=re.MULTILINE)[1:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", after)
        assert named
        for path, test in named:
            tree = ast.parse((ROOT / path).read_text())
            assert test in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}, f"{path}::{test}"


def test_the_list_of_packages_is_the_order_of_imports_and_names_files_that_exist() -> None:
    listed = document("README.md").partition("### The code")[2]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", listed, re.MULTILINE)
    packages = [name for name in ORDER if (ROOT / "noderuntime" / name).is_dir()]
    assert [name for name, _ in rows] == packages
    for name, start in rows:
        for file in re.findall(r"`([\w/]+\.py)`", start):
            assert (ROOT / "noderuntime" / name / file).is_file(), f"{name}/{file}"
        assert name not in FIRST_TO_READ or start.startswith(f"`{FIRST_TO_READ[name]}`")


def test_every_target_of_make_is_described_and_no_other() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    told = set(re.findall(r"make ([a-z-]+)", document("README.md")))
    rows = document("README.md").partition("| `make` | |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (.*?) \|", rows, re.MULTILINE)
    told |= {word for cell in cells for word in re.findall(r"`([a-z-]+)", cell)}
    assert set(phony[1].split()) - {"test-quick"} == told & {*phony[1].split()}
    assert not [word for word in told if word not in phony[1].split()]


def test_every_field_of_a_dora_file_is_told_on_its_page() -> None:
    page = document("coming-from-dora.md")
    rows = page.partition("| of the file | |")[2].partition("\n\n## ")[0]
    described = {field for fields in FIELD.findall(rows) for field in re.findall(r"`(\w+)`", fields)}
    ours = {*nodes.OURS, "state", "snapshots"}
    assert described == {*nodes.FIELDS, *refusals.NODE, *refusals.ROOT, *dora_reader.TOP} - ours
    for field in (*ours, "queue_bytes"):
        assert f"`{field}`" in page


def test_the_dataflow_of_dora_on_its_page_runs(tmp_path: Path) -> None:
    write_files("coming-from-dora.md", tmp_path)
    (text,) = blocks("coming-from-dora.md", "yml")
    (tmp_path / "totals.yml").write_text(text)
    done = run(tmp_path, "-m", "noderuntime", "run", "--dora", "totals.yml")
    assert done.returncode == 0, done.stderr
    assert "│ the total is 4950\n" in done.stdout
