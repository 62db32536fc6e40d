"""Operators that share a process: what the file may say, and which line is wrong when it may not."""

from __future__ import annotations

import pytest

from noderuntime.dataflow.links import find_process_cycle
from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.processes import processes_of
from noderuntime.dataflow.reader import parse
from noderuntime.errors import DataflowError

SOURCE = "- {id: a, path: a.py, outputs: [out]}\n"


def operator(id: str, source: str, *fields: str, python: str = "op.py:X", process: str = "fast") -> str:
    """A node of the file, one field a line: id, operator, process (if any), then `fields`."""
    shares = (f"process: {process}",) if process else ()
    code = f"operator: {{python: {python}, inputs: {{in: {source}}}, outputs: [out]}}"
    return "\n  ".join([f"- id: {id}", code, *shares, *fields]) + "\n"


def flow(*nodes: str) -> Dataflow:
    return parse("nodes:\n" + "".join(nodes), file="flow.yml")


def error_of(*nodes: str) -> DataflowError:
    with pytest.raises(DataflowError) as caught:
        flow(*nodes)
    return caught.value


def test_operators_with_one_name_share_a_process_in_the_order_of_the_file() -> None:
    found = flow(
        SOURCE, operator("x", "a/out"), operator("y", "x/out", process="other"), operator("z", "y/out", process=""),
        operator("w", "x/out"),
    )  # fmt: skip
    assert {name: [node.id for node in members] for name, members in processes_of(found.nodes).items()} == {
        "fast": ["x", "w"],
        "other": ["y"],
    }
    assert [node.id for node in found.members("w")] == ["x", "w"]
    assert [node.id for node in found.members("z")] == ["z"]
    assert [node.id for node in found.members("a")] == ["a"]


def test_kept_state_still_fits_when_operators_move_into_a_process() -> None:
    apart = flow(SOURCE, operator("x", "a/out", process=""), operator("y", "x/out", process=""))
    together = flow(SOURCE, operator("x", "a/out"), operator("y", "x/out"))
    assert apart.fingerprint() == together.fingerprint()


def test_a_custom_node_has_a_process_of_its_own() -> None:
    error = error_of("- id: a\n  path: a.py\n  outputs: [out]\n  process: fast\n")
    assert (error.line, error.column) == (5, 3)
    assert "`process` of node 'a', which is no operator" in error.what
    assert error.hint and "Remove it" in error.hint


@pytest.mark.parametrize("name", ["''", "a b", "[a]", "a/b", ".a", "5"])
def test_the_name_of_a_process_is_like_an_id(name: str) -> None:
    error = error_of(SOURCE, operator("x", "a/out", process=name))
    assert error.line == 5 and "`process` of node 'x'" in error.what


@pytest.mark.parametrize(
    ("field", "ours", "theirs"),
    [
        ("restart_policy: always", "on-failure", "always"),
        ("max_restarts: 7", "5", "7"),
        ("restart_window: 5m", "60", "300"),
        ("restart_delay: 1s", "0.1", "1"),
        ("max_restart_delay: 1m", "30", "60"),
        ("start_timeout: 1m", "30", "60"),
        ("spawn: exec", "fork", "exec"),
        ("env: {A: b}", "nothing of its own", "A=b"),
    ],
)
def test_what_a_process_has_once_has_to_agree(field: str, ours: str, theirs: str) -> None:
    name = field.partition(":")[0]
    error = error_of(SOURCE, operator("x", "a/out"), operator("y", "x/out", field))
    assert (error.line, error.column) == (9, 3), "where it is written"
    assert f"operators of the process 'fast' differ in `{name}`: {ours} for 'x', {theirs} for 'y'" in error.what
    assert error.hint and "take 'y' out" in error.hint
    error = error_of(SOURCE, operator("x", "a/out", field), operator("y", "x/out"))
    assert (error.line, error.column) == (6, 3), "also when it is written at the first of them"
    assert f"`{name}`: {theirs} for 'x', {ours} for 'y'" in error.what
    assert flow(SOURCE, operator("x", "a/out", field), operator("y", "x/out", field)).members("x")


def test_all_differences_of_all_operators_are_told_at_once() -> None:
    error = error_of(
        SOURCE,
        operator("x", "a/out"),
        operator("y", "x/out", "max_restarts: 7", "start_timeout: 1m"),
        operator("z", "y/out", "spawn: exec"),
    )
    assert [found.line for found in (error, *error.more)] == [9, 10, 14]


def test_what_belongs_to_each_operator_may_differ() -> None:
    assert flow(
        SOURCE,
        operator("x", "a/out", "max_attempts: 1", "config: {a: 1}"),
        operator("y", "x/out", "health_check_timeout: 5s", "max_attempts: 7"),
        operator("z", "{source: y/out, queue_size: 3, queue_bytes: 1MB}"),
    ).members("x")


@pytest.mark.parametrize("other", ["there/op.py:X", "../op.py:Y"])
def test_two_modules_of_one_name_do_not_share_a_process(other: str) -> None:
    error = error_of(SOURCE, operator("x", "a/out"), operator("y", "x/out", python=other))
    assert error.line == 7 and "two modules called 'op'" in error.what
    assert error.hint and "rename a file, or take 'y' out of it" in error.hint


@pytest.mark.parametrize("python", ["op.py:Y", "./op.py:Y", "there/../op.py:Y"])
def test_two_operators_of_one_file_share_a_process(python: str) -> None:
    assert flow(SOURCE, operator("x", "a/out"), operator("y", "x/out", python=python)).members("x")


def test_a_cycle_of_processes_names_the_operator_to_take_out() -> None:
    nodes = SOURCE, operator("x", "a/out"), operator("y", "x/out", process=""), operator("z", "y/out")
    error = error_of(*nodes)
    assert "a cycle of processes in which every input waits for room: x -> y -> z" in error.what
    assert "the process 'fast' has x, z" in error.what
    assert (error.line, error.column) == (10, 3), "the `process` of the operator to take out"
    assert error.hint and "Take 'z' out of the process 'fast'" in error.hint


def test_the_operator_to_take_out_opens_the_cycle() -> None:
    outside = "- id: y\n  path: y.py\n  inputs: {in: x/out}\n  outputs: [out]\n"
    nodes = [SOURCE, operator("w", "a/out"), operator("x", "w/out"), outside, operator("z", "y/out")]
    error = error_of(*nodes, operator("v", "z/out"))
    assert error.hint is not None
    out = error.hint.partition("Take '")[2].partition("'")[0]
    assert out in ("x", "z")
    opened = [node.replace("  process: fast\n", "") if node.startswith(f"- id: {out}\n") else node for node in nodes]
    if out == "z":  # then its receiver still closes one, and the next try names that
        assert "Take 'v' out" in (error_of(*opened, operator("v", "z/out")).hint or "")
    else:
        assert flow(*opened, operator("v", "z/out")).nodes


def test_two_processes_that_send_to_each_other_are_a_cycle() -> None:
    error = error_of(
        SOURCE,
        operator("x", "a/out", process="one"),
        operator("y", "x/out", process="two"),
        operator("u", "a/out", process="two"),
        operator("v", "u/out", process="one"),
    )
    assert "a cycle of processes" in error.what
    assert "the process 'one' has" in error.what and "the process 'two' has" in error.what


def test_a_cycle_of_processes_with_an_input_that_drops_is_fine() -> None:
    nodes = (
        SOURCE, operator("x", "a/out"), operator("y", "x/out", process=""),
        operator("z", "{source: y/out, queue_policy: drop_oldest}"),
    )  # fmt: skip
    assert find_process_cycle(flow(*nodes).nodes) is None


def test_a_process_that_sends_to_itself_is_no_cycle() -> None:
    assert flow(SOURCE, operator("x", "a/out"), operator("y", "x/out"), operator("z", "y/out")).members("x")
