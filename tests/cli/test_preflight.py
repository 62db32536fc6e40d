"""What `validate`, and the start of a run, tell of the code and config that a dataflow names without running it."""

from __future__ import annotations

import json
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from noderuntime.cli import main
from noderuntime.cli.preflight import problems
from noderuntime.dataflow.files import check_files, load
from noderuntime.errors import DataflowError

LOUD = "raise SystemExit('this was executed')\n"


def flow(tmp_path: Path, node: str, more: str = "", **files: str) -> Path:
    for name, text in files.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    file = tmp_path / "flow.yml"
    file.write_text(f"nodes:\n  - id: a\n    {node}\n    outputs: [o]\n{more}")
    return file


def found(file: Path, **overrides: str) -> list[DataflowError]:
    dataflow = load(file)
    check_files(dataflow)
    return problems(dataflow, overrides)


WRONG_CODE = {
    "operator: {python: ops.py}": r"has no 'Operator'; it has: Sums, total",
    "operator: {python: 'ops.py:Sum'}": r"has no 'Sum'; it has: Sums, total\n.*ops.py:Sums",
    "operator: {python: broken.py}": r"broken.py:2: ",
    "path: broken.py": r"broken.py:2: ",
    "operator: {module: nowhere.at.all}": r"no module 'nowhere'",
    "operator: {module: package.nothing}": r"no module package.nothing",
    "operator: {module: 'package.inner:Summ'}": r"package.inner has no 'Summ'; it has: Sums",
    "operator: {module: 'ops.inner:Sums'}": r"'ops' is a module and no package",
    "operator: {module: 'package:Sums'}": r"package has no 'Sums'",
    "operator: {module: 'noderuntime.operators.running_summ'}": r"Did you mean .*running_sum\?",
    "operator: {module: 'noderuntime.operators.running_sum:Operatr'}": r"no 'Operatr'",
}
FILES = {
    "ops": f"class Sums: pass\ndef total(): pass\n_hidden = 1\n{LOUD}",
    "broken": "x = 1\nclass :\n",
    "package/__init__": f"version = 1\n{LOUD}",
    "package/inner": f"class Sums: pass\n{LOUD}",
}


@pytest.mark.parametrize("node", WRONG_CODE)
def test_code_that_is_not_there_is_an_error_at_its_line(tmp_path: Path, node: str) -> None:
    file = flow(tmp_path, node, **FILES)
    (problem,) = found(file)
    assert problem.line == 3 and "node 'a': " in problem.what
    with pytest.raises(DataflowError, match=WRONG_CODE[node]):
        raise problem


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (f"class Operator: pass\n{LOUD}", "Operator"),
        (f"from elsewhere import Operator\n{LOUD}", "Operator"),
        (f"import elsewhere as Operator\n{LOUD}", "Operator"),
        (f"from elsewhere import *\n{LOUD}", "Operator"),
        (f"try:\n    Operator = 1\nexcept E:\n    pass\n{LOUD}", "Operator"),
        (f"for Operator in (): pass\n{LOUD}", "Operator"),
        (f"def make():\n    global Operator\n    Operator = 1\n{LOUD}", "Operator"),
        (f"def __getattr__(name): pass\n{LOUD}", "Operator"),
        (f"globals()['Operator'] = 1\n{LOUD}", "Operator"),
        (f"# coding: latin-1\nclass Größe: 'ä'\n{LOUD}", "Größe"),
    ],
)
def test_a_name_that_is_or_may_be_there_is_not_refused_and_nothing_is_executed(
    tmp_path: Path, source: str, name: str
) -> None:
    for node in (f"operator: {{python: 'ops.py:{name}'}}", f"operator: {{module: 'package.ops:{name}'}}"):
        file = flow(tmp_path, node, **{"package/__init__": LOUD})
        for path in (tmp_path / "ops.py", tmp_path / "package" / "ops.py"):
            path.write_bytes(source.encode("latin-1"))
        assert found(file) == []


@pytest.mark.parametrize(
    ("operator", "config", "named"),
    [
        ("running_sum", "{start: x}", "config: start: 'x' is not a number"),
        ("running_sum", "{strat: 1}", "config: strat: unknown field; did you mean start?"),
        ("running_statistics", "{alpha: 2}", "config: alpha: 2 is not a number above 0 and at most 1"),
        ("threshold_alarm", "{}", "config: levels: None is not a mapping"),
        ("threshold_alarm", "{levels: {a: {raise: 1}}}", "config: levels: a: "),
        ("window", "{}", "config: count: give either"),
        ("window", "{count: 3, every: 1s}", "config: every: '1s' is not a whole number"),
        ("throttle", "{every: soon}", "config: every: 'soon' is not a duration"),
        ("join", "{inputs: [a], trigger: b}", "config: trigger: 'b' is not one of"),
        ("file_lines", "{}", "config: path: None is not the name of a file"),
        ("csv_rows", "{path: x, types: {a: number}}", "config: types: a: 'number' is not one of"),
        ("json_lines", "{path: x, batch: 0}", "config: batch: 0 is not"),
        ("directory", "{path: x, pattern: 1}", "config: pattern: 1 is not"),
        ("file_sink", "{path: x, format: xml}", "config: format: 'xml' is neither text nor json"),
        ("sqlite_sink", "{path: x, keep: 1}", "config: keep: 1 is neither true nor false"),
    ],
)
def test_wrong_config_of_a_ready_made_operator_is_an_error_at_its_line(
    tmp_path: Path, operator: str, config: str, named: str
) -> None:
    from noderuntime import operators

    file = f"{operators.__path__[0]}/{operator}.py"
    for code in (f"{{module: noderuntime.operators.{operator}}}", f"{{python: {file}}}"):
        (problem,) = found(flow(tmp_path, f"operator: {code}", f"    config: {config}\n"))
        assert problem.line == 5 and problem.what.startswith(f"node 'a': {named}")
    assert list(tmp_path.iterdir()) == [tmp_path / "flow.yml"]  # no sink was made


def test_two_file_sinks_of_one_file_are_an_error(tmp_path: Path) -> None:
    more = """    config: {path: out.txt}
  - id: b
    operator: {module: noderuntime.operators.file_sink}
    config: {path: ./out.txt}
"""
    (problem,) = found(flow(tmp_path, "operator: {module: noderuntime.operators.file_sink}", more))
    assert problem.line == 8 and "node 'b': config: path: './out.txt' is the file of node 'a' already" in problem.what


MINE = "operator: {module: 'mine:Sums'}"


def test_a_module_on_the_path_that_the_file_or_the_command_sets_is_found(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text("class Sums: pass\n")
    assert found(flow(tmp_path, f"{MINE}\n    env: {{PYTHONPATH: lib}}")) == []
    assert found(flow(tmp_path, MINE), PYTHONPATH="elsewhere:lib") == []
    assert len(found(flow(tmp_path, f"{MINE}\n    env: {{PYTHONPATH: lib}}"), PYTHONPATH="elsewhere")) == 1


def test_a_module_that_only_a_finder_of_its_own_knows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OfEditedPackages:
        """What `pip install --editable` puts beside the search by path."""

        @staticmethod
        def find_spec(name: str, path: object, target: object = None) -> ModuleSpec | None:
            return ModuleSpec(name, None, origin="built-in") if name == "edited" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, OfEditedPackages])
    assert found(flow(tmp_path, "operator: {module: 'edited:Sums'}")) == []
    assert len(found(flow(tmp_path, "operator: {module: 'unedited:Sums'}"))) == 1


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ("{kind: reddis, url: redis://x}", "there is no kind 'reddis'. Did you mean 'redis'?"),
        ("{kind: redis}", "needs the field 'url'"),
        ("{kind: redis, url: http://x}", "does not begin with redis://"),
        ("{kind: redis, url: redis://x, nmae: a}", "has no field 'nmae'; did you mean 'name'?"),
        ("{kind: sqlite, path: 3}", "path of kind 'sqlite' is a text"),
        ("{kind: sqlite, path: a.db, pth: x}", "has no field 'pth'; did you mean 'path'?"),
    ],
)
def test_a_kind_of_state_and_its_fields_are_checked(tmp_path: Path, state: str, named: str) -> None:
    (problem,) = found(flow(tmp_path, "path: a.py", f"state: {state}\n", a=LOUD))
    assert problem.line == 5 and named in problem.what
    assert not (tmp_path / "a.db").exists()


def test_a_kind_of_state_that_is_fine_is_not_connected_to(tmp_path: Path) -> None:
    for state in ("{kind: redis, url: redis://127.0.0.1:1/0}", "{kind: sqlite, path: nowhere/a.db}", "{ttl: 3s}"):
        assert found(flow(tmp_path, "path: a.py", f"state: {state}\n", a=LOUD)) == []


LAZY = {
    "    async def on_event(self, event, ctx): pass": r"ops.py: line 3: Operator.on_event is `async def`",
    "    def on_event(self, event, ctx):\n        if event: yield 1": r"line 3: Operator.on_event is a generator",
    "    def produce(self, position, ctx):\n        x = yield": r"line 3: Operator.produce is a generator",
    "    async def on_timer(self, key, due, state, ctx): yield": r"line 3: Operator.on_timer is `async def`",
}


@pytest.mark.parametrize("body", LAZY)
def test_a_handler_whose_call_would_run_nothing_is_an_error_that_names_its_line(tmp_path: Path, body: str) -> None:
    text = f"import sys\nclass Operator:\n{body}\n{LOUD}"
    (error,) = found(flow(tmp_path, "operator: {python: ops.py}", ops=text))
    assert re.search(LAZY[body], str(error))


@pytest.mark.parametrize(
    "body",
    [
        "    def on_event(self, event, ctx):\n        def inner(): yield 1\n        return None",
        "    def on_event(self, event, ctx):\n        list((lambda: (yield))())",
        "    async def helper(self): pass\n    def on_event(self, event, ctx): pass",
        "    @blocking\n    async def on_event(self, event, ctx): pass",
        "    async def on_event(self, event, ctx): pass\n    def on_event(self, event, ctx): pass",
    ],
)
def test_other_coroutines_and_generators_of_an_operator_are_its_own_matter(tmp_path: Path, body: str) -> None:
    text = f"class Operator:\n{body}\nclass Other:\n    async def on_event(self, event, ctx): pass\n"
    assert found(flow(tmp_path, "operator: {python: ops.py}", ops=text)) == []


def test_validate_tells_all_of_it_and_returns_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = flow(tmp_path, "operator: {python: 'ops.py:Sum'}", "state: {kind: reddis}\n", **FILES)
    assert main(["validate", "--json", str(file)]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [error["line"] for error in told["errors"]] == [3, 5] and told["valid"] is False


def test_files_beside_those_of_nodes_that_hide_the_standard_library_are_warned_about(tmp_path: Path) -> None:
    file = flow(tmp_path, "path: nodes/a.py", **{"nodes/a": LOUD, "nodes/logging": LOUD, "nodes/own": LOUD})
    (warning,) = check_files(load(file))
    assert warning.startswith(f"{file}:3:") and "'nodes/logging.py', in the folder of node 'a', hides" in warning
