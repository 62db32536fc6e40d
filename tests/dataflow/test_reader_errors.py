"""Every bad dataflow file gets file, line, column, what is wrong and what would be right: within bounds, at once."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noderuntime.dataflow.links import ERRORS_MAX
from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.reader import parse
from noderuntime.dataflow.yaml import tree
from noderuntime.dataflow.yaml.tree import TEXT_BYTES_MAX
from noderuntime.errors import DataflowError


def error_of(data: bytes | str, **arguments: dict[str, str]) -> DataflowError:
    with pytest.raises(DataflowError) as caught:
        parse(data, file="flow.yml", **arguments)  # type: ignore[arg-type]
    return caught.value


def node(fields: str) -> str:
    return f"nodes:\n- id: a\n  path: a.py\n  outputs: [out]\n  {fields}\n"


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FAT_LAUGHS = f"a: &a {'x' * 1000}\nb: [{', '.join(['*a'] * 20_000)}]"

# what is wrong | the file | line and column | words of the error | words of the hint
BAD: dict[str, tuple[bytes | str, tuple[int, int], str, str]] = {
    "empty file": ("", (1, 1), "is empty", "nodes:"),
    "only comments": ("# nothing\n", (1, 1), "is empty", "nodes:"),
    "a text": ("hello", (1, 1), "must be a mapping, not the text 'hello'", "nodes:"),
    "a list": ("- a", (1, 1), "must be a mapping, not a list", "nodes:"),
    "no nodes": ("env: {}", (1, 1), "has no `nodes`", "- id"),
    "null nodes": ("nodes:", (1, 1), "has no `nodes`", "- id"),
    "empty nodes": ("nodes: []", (1, 8), "is empty", "- id"),
    "nodes as mapping": ("nodes: {a: b}", (1, 8), "must be a list, not a mapping", "- id"),
    "a node that is a number": ("nodes: [5]", (1, 9), "must be a mapping, not the number 5", "- id"),
    # YAML itself
    "tab": ("nodes:\n\t- id: a", (2, 1), "a tab", "spaces"),
    "tab after spaces": ("nodes:\n  - id: a\n \tpath: b", (3, 2), "a tab", "spaces"),
    "colon in a text": ("nodes: a: b", (1, 9), "`:`", "quotes"),
    "open list": ("nodes: [a, b", (1, 8), "`]` is missing", "Close"),
    "open mapping": ("nodes:\n- {id: a", (2, 3), "`}` is missing", "Close"),
    "open quote": ('nodes:\n- id: "a\n  path: b\n', (2, 7), "quote", "Close"),
    "indentation": ("nodes:\n- id: a\n path: x\n", (3, 2), "fits neither", "indentation"),
    "missing colon": ("nodes:\n  - id: a\n    path\n    args: x\n", (3, 5), "a `:` is missing", "name: value"),
    "at sign": ("nodes: @a", (1, 8), "cannot begin with `@`", "quotes"),
    "duplicate key": ("nodes: []\nnodes: []", (2, 1), "`nodes` is given twice; first in line 1", "one of them"),
    "duplicate key inside": (node("config: {x: {y: 1, y: 2}}"), (5, 22), "`y` is given twice", "one of them"),
    "two documents": ("nodes: []\n---\nnodes: []", (2, 1), "second YAML document", "---"),
    "unknown alias": ("nodes: *x", (1, 8), "`*x` has no anchor", "&x"),
    "an alias to itself": ("nodes: &x [*x]", (1, 12), "inside of what it repeats", ""),
    "a tag": ("nodes: !!python/object/apply:os.system [ls]", (1, 8), "!!python/object/apply:os.system", "plain values"),
    "a tag of one's own": ("nodes: !mine 5", (1, 8), "`!mine` is not allowed", "plain values"),
    "a list as key": ("? [a]\n: b", (1, 3), "a list as the name", "texts"),
    "a number as key": ("1: 2", (1, 1), "the number 1 as the name", '"1"'),
    "a boolean as key": ("on: 2", (1, 1), "`on`", '"on"'),
    "a merge of no mapping": ("<<: 5", (1, 5), "merges mappings, not the number 5", "<<: *name"),
    "not UTF-8": (b"nodes:\n- id: \xff", (2, 7), "0xff is not UTF-8", "UTF-8"),
    "UTF-16": ("nodes: []".encode("utf-16"), (1, 1), "is not UTF-8", "UTF-8"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", (1, 1), "is not UTF-8", "UTF-8"),
    "NUL bytes": (b"nodes:\n  \x00", (2, 3), "U+0000 is not allowed", "Remove"),
    "surrogates": ("nodes: '\ud800'", (1, 1), "surrogates", "UTF-8"),
    "3,000 open brackets": ("nodes: " + "[" * 3000, (1, 71), "64 levels", "unclosed"),
    "3,000 levels": ("nodes: " + "[" * 3000 + "]" * 3000, (1, 71), "64 levels", "unclosed"),
    "3,000 lists in a line": ("- " * 3000, (1, 129), "64 levels", ""),
    "3,000 mappings": ("{a: " * 3000, (1, 257), "64 levels", ""),
    "a thousand steps": ("".join(f"{' ' * i}a:\n" for i in range(1000)), (65, 65), "64 levels", ""),
    "depth by aliases": (
        "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40, (2, 44), "64 levels", "",
    ),
    "alias bomb": (LAUGHS, (5, 20), "more than 50000 values", "Split"),
    "alias bomb of characters": (FAT_LAUGHS, (2, 16761), "4194304 characters", "files"),
    "too many values": ("nodes: [" + "a," * 60_000 + "]", (1, 100_003), "more than 50000 values", "Split"),
    "ten megabytes": (
        b"nodes:\n" + b"- {id: a, path: a.py}\n" * 500_000, (47664, 6), f"{TEXT_BYTES_MAX} bytes", "files",
    ),
    "ten megabytes in a line": (b"x" * 10_000_000, (1, TEXT_BYTES_MAX + 1), f"{TEXT_BYTES_MAX} bytes", "files"),
    # fields and types
    "unknown field": ("node: []", (1, 1), "unknown field `node` in the dataflow", "`nodes`"),
    "unknown field of a node": (node("max_restart: 5"), (5, 3), "`max_restart` in node 'a'", "`max_restarts`"),
    "unknown field of an input": (node("inputs: {i: {sorce: a/out}}"), (5, 16), "`sorce` in input 'i'", "`source`"),
    "unknown field of an operator": (
        "nodes: [{id: a, operator: {pyton: a.py}}]", (1, 28), "`pyton` in `operator` of node 'a'", "`python`",
    ),
    "a field of a node in its operator": (
        "nodes: [{id: a, operator: {python: a.py, process: p}}]", (1, 42), "unknown field `process` in `operator`",
        "`process` is a field of a node: write it beside `operator`",
    ),
    "a field of a node at the top": (
        "process: p\nnodes: [{id: a, path: a}]", (1, 1), "unknown field `process` in the dataflow", "in each node",
    ),
    "unknown field of state": ("nodes: [{id: a, path: a}]\nstate: {sise: 1}", (2, 9), "`sise` in `state`", "`size`"),
    "unknown field of snapshots": ("nodes: [{id: a, path: a}]\nsnapshots: {evry: 1}", (2, 13), "`evry`", "`every`"),
    "a field of dora": (node("build: make"), (5, 3), "unknown field `build`", "Nothing is built"),
    "a field like no other": (node("qqq: 1"), (5, 3), "unknown field `qqq`", "Known are `id`, `path`"),
    "id missing": ("nodes:\n- path: x", (2, 3), "has no `id`", "id: NAME"),
    "id as number": ("nodes:\n- id: 5\n  path: x", (2, 7), "must be a text, not the number 5", '"5"'),
    "id as boolean": ("nodes:\n- id: true\n  path: x", (2, 7), "must be a text, not the boolean true", '"true"'),
    "id that YAML 1.1 takes for a boolean": ("nodes:\n- id: on\n  path: x", (2, 7), "plain `on`", '"on"'),
    "id with a space": ("nodes:\n- id: a b\n  path: x", (2, 7), "'a b' may hold only letters", ""),
    "id with a dot first": ("nodes:\n- id: .a\n  path: x", (2, 7), "must not start with '.'", ""),
    "id empty": ('nodes:\n- id: ""\n  path: x', (2, 7), "must not be empty", ""),
    "id reserved": ("nodes:\n- id: timer\n  path: x", (2, 7), "'timer' is reserved", "dora, shared, timer"),
    "id too long": (f"nodes:\n- id: {'a' * 300}\n  path: x", (2, 7), "at most 200", ""),
    "id twice": ("nodes:\n- {id: a, path: x}\n- {id: a, path: y}", (3, 8), "the first is in line 2", "of its own"),
    "operator and path": (
        "nodes:\n- id: a\n  path: x\n  operator: {python: y}", (4, 3), "both `operator` and `path`", "custom node",
    ),
    "neither operator nor path": ("nodes:\n- id: a", (2, 3), "neither `operator` nor `path`", "python: FILE"),
    "python and module": (
        "nodes: [{id: a, operator: {python: x, module: y}}]", (1, 39), "both `python` and `module`", "Keep",
    ),
    "empty operator": ("nodes: [{id: a, operator: {}}]", (1, 27), "neither `python` nor `module`", "python: FILE"),
    "operator as text": ("nodes: [{id: a, operator: x.py}]", (1, 27), "must be a mapping, not the text", "python:"),
    "operator without name after the colon": (
        'nodes: [{id: a, operator: {python: "x.py:"}}]', (1, 36), "no Python name", "FILE.py:Name",
    ),
    "operator with a wrong name": (
        'nodes: [{id: a, operator: {python: "x.py:my-sum"}}]', (1, 36), "'my-sum' after the colon", "FILE.py:Name",
    ),
    "module with a wrong name": ("nodes: [{id: a, operator: {module: a-b}}]", (1, 36), "'a-b'", "package.module"),
    "module that is a keyword": ("nodes: [{id: a, operator: {module: x.class}}]", (1, 36), "'class'", "package.module"),
    "path as number": ("nodes: [{id: a, path: 5}]", (1, 23), "must be a text, not the number 5", '"5"'),
    "path with NUL": ('nodes: [{id: a, path: "a\\0b"}]', (1, 23), "NUL character", ""),
    "args of an operator": ("nodes: [{id: a, operator: {python: x}, args: y}]", (1, 40), "`args`", "config"),
    "args that never end": (node("args: \"--x 'y\""), (5, 9), "never closed", "list"),
    "args as mapping": (node("args: {a: b}"), (5, 9), "not a mapping", ""),
    "inputs twice": (
        "nodes:\n- id: a\n  inputs: {i: timer/hz/1}\n  operator: {python: x, inputs: {j: timer/hz/1}}",
        (4, 25), "given twice", "Keep one",
    ),
    "inputs as list": (node("inputs: [a/out]"), (5, 11), "must be a mapping, not a list", "name: node/output"),
    "outputs as text": ("nodes:\n- {id: a, path: x, outputs: n}", (2, 29), "must be a list, not the text 'n'", "[n]"),
    "outputs with a boolean": ("nodes:\n- {id: a, path: x, outputs: [on]}", (2, 30), "plain `on`", '"on"'),
    "outputs with a number": ("nodes:\n- {id: a, path: x, outputs: [7]}", (2, 30), "the number 7", '"7"'),
    "output twice": ("nodes:\n- {id: a, path: x, outputs: [n, n]}", (2, 33), "'n' is listed twice", ""),
    "output with a slash": ("nodes:\n- {id: a, path: x, outputs: [n/m]}", (2, 30), "may hold only letters", ""),
    "env as list": (node("env: [A=1]"), (5, 8), "must be a mapping, not a list", "NAME: value"),
    "env with a list": (node("env: {A: [1]}"), (5, 12), "not a list", ""),
    "env with nothing": (node("env: {A: }"), (5, 12), "not nothing", '""'),
    "env with an equals sign": (node('env: {"A=B": 1}'), (5, 9), "cannot be the name of a variable", ""),
    "config as text": (node("config: x"), (5, 11), "must be a mapping, not the text 'x'", ""),
    "config with yes": (node("config: {x: yes}"), (5, 15), "plain `yes`", '"yes"'),
    "config with an octal": (node("config: {mode: 0644}"), (5, 18), "begins with 0", "0o"),
    "config with too large a number": (node(f"config: {{x: {2**64}}}"), (5, 15), "64 bits", "quotes"),
    "config with a number as key": (node("config: {1: x}"), (5, 12), "the number 1 as the name", '"1"'),
    "config with wrong base64": (node("config: {x: !!binary a}"), (5, 15), "base64", ""),
    "config with a wrong tag": (node("config: {x: !!int a}"), (5, 15), "is no int", ""),
    "max_restarts as text": (node('max_restarts: "5"'), (5, 17), "a whole number, not the text '5'", "without quotes"),
    "max_restarts as boolean": (node("max_restarts: true"), (5, 17), "not the boolean true", ""),
    "max_restarts as fraction": (node("max_restarts: 1.5"), (5, 17), "not the number 1.5", ""),
    "max_restarts below zero": (node("max_restarts: -1"), (5, 17), "0 or more", ""),
    "max_restarts as octal": (node("max_restarts: 010"), (5, 17), "begins with 0", "octal"),
    "a duration without sense": (node("start_timeout: soon"), (5, 18), "no duration: 'soon'", "500ms"),
    "a duration with a wrong unit": (node("start_timeout: 10 parsecs"), (5, 18), "no duration", "500ms"),
    "a duration below zero": (node("start_timeout: -5"), (5, 18), "must be more than 0, not -5", "500ms"),
    "a duration of zero": (node("start_timeout: 0"), (5, 18), "must be more than 0", ""),
    "a duration without end": (node("start_timeout: .inf"), (5, 18), "must be a duration", ""),
    "a duration of ages": (node("start_timeout: 99999999h"), (5, 18), "at most", ""),
    "a duration as list": (node("start_timeout: [1]"), (5, 18), "must be a duration, not a list", ""),
    "a duration of a megabyte": (node(f'start_timeout: "{"1" * 500_000}"'), (5, 18), "must be a duration", ""),
    "delays the wrong way round": (
        node("restart_delay: 5s\n  max_restart_delay: 1s"), (6, 22), "shorter than its `restart_delay`", "5s or longer",
    ),
    "restart_policy of docker": (node("restart_policy: no"), (5, 19), "cannot be 'no'", "`never`"),
    "restart_policy misspelt": (node("restart_policy: on_failure"), (5, 19), "cannot be 'on_failure'", "`on-failure`"),
    "spawn misspelt": (node("spawn: frok"), (5, 10), "cannot be 'frok'", "`fork`"),
    "spawn: fork of a custom node": (node("spawn: fork"), (5, 3), "which is no operator", "Remove"),
    # inputs
    "source without a slash": (node("inputs: {i: a}"), (5, 15), "not of the form node/output", "slash"),
    "source with two slashes": (node("inputs: {i: a/b/c}"), (5, 15), "not of the form node/output", "slash"),
    "source missing": (node("inputs: {i: {queue_size: 5}}"), (5, 15), "has no `source`", "node/output"),
    "source as number": (node("inputs: {i: 5}"), (5, 15), "must be a text, not the number 5", '"5"'),
    "input as list": (node("inputs: {i: [a/out]}"), (5, 15), "must be a mapping, not a list", "node/output"),
    "input with a bad name": (node("inputs: {a b: a/out}"), (5, 12), "'a b' may hold only letters", ""),
    "no such node": (node("inputs: {i: aa/out}"), (5, 15), "the node 'aa', which does not exist", "`a/out`"),
    "no such node, nothing near": (node("inputs: {i: zzz/out}"), (5, 15), "'zzz'", "The nodes are: a"),
    "no such output": (node("inputs: {i: a/outt}"), (5, 15), "'a' has no such output", "`a/out`"),
    "no outputs at all": (
        "nodes: [{id: a, path: a}, {id: b, path: b, inputs: {i: a/x}}]", (1, 56), "no such output", "outputs: [x]",
    ),
    "timer of zero": (node("inputs: {t: timer/millis/0}"), (5, 15), "above 0, not '0'", "timer/hz/30"),
    "timer below zero": (node("inputs: {t: timer/millis/-5}"), (5, 15), "above 0", ""),
    "timer of an unknown unit": (node("inputs: {t: timer/foo/3}"), (5, 15), "unknown unit 'foo'", "timer/millis"),
    "timer of a misspelt unit": (node("inputs: {t: dora/timer/milis/3}"), (5, 15), "'milis'", "`timer/millis/3`"),
    "timer without unit": (node("inputs: {t: timer/3}"), (5, 15), "2 parts", "timer/millis"),
    "timer without number": (node("inputs: {t: timer/secs/x}"), (5, 15), "'x'", ""),
    "timer too fast": (node("inputs: {t: timer/hz/1000000}"), (5, 15), "10,000 times a second", ""),
    "timer too slow": (node("inputs: {t: timer/secs/99999999999}"), (5, 15), "hundred years", ""),
    "dora without timer": (node("inputs: {t: dora/camera/x}"), (5, 15), "is no timer", "timer/millis"),
    "timer with a timeout": (
        node("inputs: {t: {source: timer/hz/1, input_timeout: 5}}"), (5, 36), "`input_timeout` of the timer", "remove",
    ),
    "queue_policy misspelt": (
        node("inputs: {i: {source: a/out, queue_policy: drop-oldest}}"), (5, 45), "'drop-oldest'", "`drop_oldest`",
    ),
    "queue_size of zero": (node("inputs: {i: {source: a/out, queue_size: 0}}"), (5, 43), "1 or more", ""),
    "queue_bytes below zero": (node("inputs: {i: {source: a/out, queue_bytes: -1}}"), (5, 44), "not -1", "64KB"),
    "queue_bytes without sense": (node("inputs: {i: {source: a/out, queue_bytes: much}}"), (5, 44), "no size", "64KB"),
    # variables
    "unset variable": (node("args: --dir $NOWHERE"), (5, 15), "NOWHERE is not set", "${NOWHERE:-default}"),
    "unset variable in quotes": (node('args: "${NOWHERE}"'), (5, 10), "NOWHERE is not set", "--env NOWHERE="),
    "a dollar alone": (node("args: 5 $"), (5, 11), "begins no variable", "$$"),
    "a dollar of awk": (node("args: print $1"), (5, 15), "begins no variable", "$$"),
    "a variable that never ends": (node("args: ${HOME"), (5, 9), "begins no variable", "$$"),
    "a variable in a variable": (node('args: "${A:-${B}}"'), (5, 10), "begins no variable", "$$"),
    # sections
    "state as text": ("nodes: [{id: a, path: a}]\nstate: memory", (2, 8), "must be a mapping", ""),
    "state of size zero": ("nodes: [{id: a, path: a}]\nstate: {size: 0}", (2, 15), "1 byte or more, not 0", "64KB"),
    "seed of nothing": ("nodes: [{id: a, path: a}]\nstate: {seed: {}}", (2, 15), "either `file` or `command`", ""),
    "seed of an empty command": ("nodes: [{id: a, path: a}]\nstate: {seed: {command: []}}", (2, 25), "is empty", ""),
    "snapshots kept: none": ("nodes: [{id: a, path: a}]\nsnapshots: {keep: 0}", (2, 19), "1 or more", ""),
    "snapshots at once": ("nodes: [{id: a, path: a}]\nsnapshots: {every: 0}", (2, 20), "more than 0", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.timeout(5)
def test_a_bad_file_is_explained_at_its_line_and_column(name: str) -> None:
    data, place, what, hint = BAD[name]
    error = error_of(data)
    assert what in error.what
    assert (error.line, error.column) == place
    assert hint in error.hint
    assert str(error).startswith(f"flow.yml:{place[0]}:{place[1]}: {error.what}")


CYCLE = """nodes:
- id: a
  path: a
  outputs: [o]
  inputs:
    back:
      source: c/o
      queue_size: 5
- {id: b, path: b, outputs: [o], inputs: {i: a/o}}
- {id: c, path: c, outputs: [o], inputs: {i: b/o}}
"""


def test_a_cycle_of_backpressure_inputs_names_the_cycle_and_the_line_to_add() -> None:
    error = error_of(CYCLE)
    assert "a -> b -> c -> a" in error.what
    assert (error.line, error.column) == (7, 15)
    assert error.hint.endswith("below line 7, add the line\n      queue_policy: drop_oldest")
    lines = CYCLE.splitlines()
    lines.insert(7, "      queue_policy: drop_oldest")
    assert parse("\n".join(lines))


@pytest.mark.parametrize(
    "written",
    [
        "i: a/o",
        "i: {source: a/o, queue_size: 5, input_timeout: 3s}",
        "i: {source: a/o, queue_policy: backpressure}",
    ],
)
def test_the_line_that_breaks_a_cycle_can_be_copied_into_the_file(written: str) -> None:
    text = f"nodes:\n- id: a\n  path: a\n  outputs: [o]\n  inputs:\n    {written}\n"
    error = error_of(text)
    assert "a -> a" in error.what
    line = error.hint.splitlines()[-1].strip()
    assert "in line 6, write" in error.hint
    mended = (
        text.replace("queue_policy: backpressure", line) if line.startswith("queue") else text.replace(written, line)
    )
    assert parse(mended).nodes[0].inputs[0].drop_oldest


def test_a_cycle_of_a_thousand_nodes_is_found_and_told_shortly() -> None:
    nodes = [f"- {{id: n{i}, path: a, outputs: [o], inputs: {{i: n{(i - 1) % 1000}/o}}}}" for i in range(1000)]
    error = error_of("nodes:\n" + "\n".join(nodes))
    assert "n0 -> n1" in error.what or "n999 -> n0" in error.what
    assert len(error.what) < 300


def test_independent_errors_are_told_together_in_the_order_of_the_file() -> None:
    error = error_of(node("max_restarts: x\n  start_timeout: y\n  outpts: [o]"))
    assert [other.line for other in (error, *error.more)] == [5, 6, 7]
    assert len(re.findall("^flow.yml:", str(error), re.MULTILINE)) == 3


def test_hundreds_of_errors_are_cut_off() -> None:
    error = error_of("nodes:\n" + "- {id: a b, path: x}\n" * 500)
    assert len(error.more) <= ERRORS_MAX


def test_the_value_of_a_variable_that_is_no_text_is_refused() -> None:
    assert "not UTF-8" in error_of(node("args: $X"), env={"X": "\udcff"}).what


def test_variables_cannot_blow_up_a_file() -> None:
    error = error_of(node(f"args: {'$X' * 1000}"), env={"X": "x" * 10_000})
    assert "characters" in error.what


def test_nothing_is_executed() -> None:
    for tag in ("!!python/object/apply:sys.exit", "!!python/name:os.system", "!!python/module:antigravity"):
        assert "not allowed" in error_of(f"nodes: {tag} [1]").what


DEEP = [name for name, row in BAD.items() if row[2] == "64 levels" and name != "depth by aliases"]


@pytest.mark.parametrize("bound", [65, 100, 1000, None])
@pytest.mark.parametrize("name", DEEP)
def test_the_count_of_levels_is_ours_whatever_bound_the_scanner_has(
    name: str, bound: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loader(yaml.SafeLoader):
        """A scanner with a bound of its own, which it may reach far ahead of the parser."""

        def _bounded(self) -> None:
            if bound is not None and self.flow_level + len(self.indents) > bound:
                raise yaml.scanner.ScannerError("while doing so", self.get_mark(), "it is too much", self.get_mark())

        def fetch_flow_collection_start(self, kind: type) -> None:
            self._bounded()
            super().fetch_flow_collection_start(kind)

        def add_indent(self, column: int) -> bool:
            self._bounded()
            return bool(super().add_indent(column))

    monkeypatch.setattr(tree, "_LOADER", Loader)
    text, place, what, _ = BAD[name]
    error = error_of(text)
    assert what in error.what
    assert (error.line, error.column) == place


FIELDS = [
    "id",
    "path",
    "operator",
    "python",
    "inputs",
    "outputs",
    "env",
    "config",
    "source",
    "queue_size",
    "i",
    "spawn",
]
SCALARS = ["a", "b/o", "a/o", "timer/hz/3", "on", "010", "1", "-1", "1.5", "~", '""', "'5'", "1GB", "5s", "$A"]
MARKS = ["<<", "*x", "&x", "!!int", "!!binary", "${A:-x}", "$$", *"\"'[]{},:-?|>#%@`\t", "nodes", "state", "seed"]
BREAKS = [" ", "\n", "\n  ", "\n- ", ": ", "- ", "---\n", "\ufeff", "é", "\x00", "\U0001f600"]
WORDS = st.lists(st.sampled_from([*FIELDS, *SCALARS, *MARKS, *BREAKS]), max_size=40)


@settings(max_examples=300)
@given(st.one_of(st.text(), st.binary(), WORDS.map("".join), WORDS.map(" ".join)))
@example("nodes: [" * 40)
@example("? ? ? ?")
@example("a: !!float .inf\n")
@example("<<: [*x, &x {}]")
@example("&a : *a")
@example("nodes: !!map [1]")
@example("%TAG ! x\n---\na")
@example("a: |\n \x85\u2028")
def test_any_text_either_loads_or_raises_a_dataflow_error(data: str | bytes) -> None:
    try:
        assert isinstance(parse(data, env={"A": "1"}), Dataflow)
    except DataflowError as error:
        assert error.what
        assert error.line >= 0


def _flow(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


VALUES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4).map(_flow),
    ),
    max_leaves=12,
)


SHAPES = st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES), max_size=3)


@settings(max_examples=60)
@given(SHAPES)
def test_any_shape_of_nodes_either_loads_or_raises_a_dataflow_error(nodes: list[dict[str, str]]) -> None:
    _loads_or_raises(nodes)


@pytest.mark.long
@settings(max_examples=1000)
@given(SHAPES)
def test_any_of_many_shapes_of_nodes_either_loads_or_raises_a_dataflow_error(nodes: list[dict[str, str]]) -> None:
    _loads_or_raises(nodes)


def _loads_or_raises(nodes: list[dict[str, str]]) -> None:
    try:
        parse("nodes:\n" + "\n".join(f"- {_flow(fields)}" for fields in nodes), env={"A": "1"})
    except DataflowError as error:
        assert error.line > 0
