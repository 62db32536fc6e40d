# ruff: noqa: E501  (tables: a row a line)
"""dora files: what each field becomes, and what is refused, in which words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from noderuntime.dataflow.model import Dataflow, InputSpec, NodeSpec
from noderuntime.dora import refusals
from noderuntime.dora.links import LOGS
from noderuntime.dora.nodes import BYTES_MAX, FIELDS
from noderuntime.dora.reader import DoraFile, parse
from noderuntime.errors import DataflowError

SENDER = "- {id: s, path: s.py, outputs: [v, w/x]}\n"
ENVIRON = {"HOME": "/home/u", "EMPTY": "", "SEVEN": "007"}

# every field that dora 1.1.0 names when it is given one that it does not know
NODE_FIELDS = ["id", "name", "description", "path", "path_sha256", "args", "env", "operators", "operator", "ros2", "outputs", "output_types", "output_framing", "inputs", "input_types", "output_metadata", "pattern", "send_stdout_as", "send_logs_as", "min_log_level", "max_log_size", "max_rotated_files", "build", "git", "hub", "branch", "tag", "rev", "restart_policy", "shared_memory_pool_size", "max_restarts", "restart_delay", "max_restart_delay", "restart_window", "health_check_timeout", "finish_grace_secs", "module", "params", "cpu_affinity", "deploy", "startup_timeout"]
ROOT_FIELDS = ["nodes", "deploy", "debug", "health_check_interval", "strict_types", "exit_when_nodes_finish", "type_rules", "env"]


def read(nodes: str, **options: Any) -> DoraFile:
    return parse(f"nodes:\n{nodes}", file="d.yml", env=ENVIRON, **options)


def flow(nodes: str, **options: Any) -> Dataflow:
    return read(nodes, **options).dataflow


def node(fields: str, **options: Any) -> NodeSpec:
    """The node `a` with these fields, beside a sender."""
    return flow(f"{SENDER}- {{id: a, {fields}}}", **options).node("a")


def refused(text: str, **options: Any) -> DataflowError:
    with pytest.raises(DataflowError) as caught:
        parse(text, file="d.yml", env=ENVIRON, **options)
    return caught.value


def input_of(written: str) -> InputSpec:
    return node(f"path: a.py, inputs: {{x: {written}}}").input("x")


# ---- all fields


def test_every_field_of_dora_is_known_or_refused_with_a_sentence() -> None:
    assert {*NODE_FIELDS} <= {*FIELDS, *refusals.NODE}
    for sentence in (*refusals.NODE.values(), *refusals.ROOT.values(), *refusals.OPERATOR.values()):
        assert sentence.endswith(".") and len(sentence) > 20


@pytest.mark.parametrize("field", refusals.NODE)
def test_a_field_that_is_refused_says_what_to_do_instead_and_where_it_is(field: str) -> None:
    error = refused(f"nodes:\n- id: a\n  path: a.py\n  {field}: x")
    assert (error.file, error.line, error.column) == ("d.yml", 4, 3)
    assert error.what == f"`{field}` of node 'a'"
    assert error.hint == refusals.NODE[field]
    assert not error.more


@pytest.mark.parametrize("field", NODE_FIELDS)
def test_no_field_of_a_node_is_called_unknown(field: str) -> None:
    try:
        parse(f"nodes:\n- {{id: a, path: a.py, {field}: x}}", file="d.yml", env=ENVIRON)
    except DataflowError as error:
        assert "unknown field" not in str(error)


@pytest.mark.parametrize("field", ROOT_FIELDS)
def test_no_field_of_the_file_is_called_unknown(field: str) -> None:
    try:
        parse(f"nodes: [{{id: a, path: a.py}}]\n{field if field != 'nodes' else 'env'}: {{}}", env=ENVIRON)
    except DataflowError as error:
        assert "unknown field" not in str(error)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("nodes: [{id: a, path: a.py}]\nnodez: 1", (2, 1), "unknown field `nodez` in the dataflow"),
        ("nodes:\n- {id: a, path: a.py, argz: 1}", (2, 23), "unknown field `argz` in node 'a'"),
        (
            "nodes:\n- id: a\n  path: a.py\n  inputs:\n    x:\n      source: a/o\n      queue_sise: 1\n  outputs: [o]",
            (7, 7),
            "unknown field `queue_sise` in input 'x' of node 'a'",
        ),
        ("nodes:\n- {id: a, operator: {python: a.py, zzz: 1}}", (2, 36), "unknown field `zzz` in `operator` of node 'a'"),
        ("nodes: [{id: a, path: a.py}]\ndebug: {zzz: 1}", (2, 9), "unknown field `zzz` in `debug` of the dataflow"),
        ("nodes: [{id: a, path: a.py}]\ndeploy: {machine: A}", (2, 1), "`deploy` of the dataflow"),
        ("nodes: [{id: a, path: a.py}]\nstrict_types: true", (2, 1), "`strict_types: true`"),
        ("nodes: []", (1, 8), "`nodes` is empty"),
        ("env: {}", (1, 1), "the dataflow has no `nodes`"),
        ("nodes:\n- {path: a.py}", (2, 3), "node number 1 has no `id`"),
        ("nodes:\n- {id: a/b, path: a.py}", (2, 8), "the id of node number 1: the id 'a/b' may hold only letters"),
        ("nodes:\n- {id: .a, path: a.py}", (2, 8), "the id of node number 1: the id '.a' must not start with '.'"),
        ("nodes:\n- {id: dora, path: a.py}", (2, 8), "the id of node number 1: 'dora' is reserved"),
        ("nodes:\n- {id: a, path: a.py}\n- {id: a, path: b.py}", (3, 8), "a second node with the id 'a'"),
        ("nodes:\n- {id: a, args: x}", (2, 8), "node 'a' has nothing to run"),
        ("nodes:\n- {id: a, path: a.py, operator: {python: b.py}}", (2, 23), "node 'a' has both `path` and `operator`"),
        ("nodes:\n- {id: a, path: 'https://x.y/z.py'}", (2, 17), "`path` of node 'a' is a URL"),
        ("nodes:\n- {id: a, path: shell, args: ls}", (2, 17), "node 'a' is a shell command"),
        ("nodes:\n- {id: a, path: a.py, args: [a, b]}", (2, 29), "`args` of node 'a' must be one text"),
        ("nodes:\n- {id: a, path: a.py, args: \"a 'b\"}", (2, 29), "`args` of node 'a' has a quote that is never closed"),
        ("nodes:\n- {id: a, operator: {shared-library: x}}", (2, 22), "`shared-library` of `operator` of node 'a'"),
        ("nodes:\n- {id: a, operator: {wasm: x}}", (2, 22), "`wasm` of `operator` of node 'a'"),
        ("nodes:\n- {id: a, operator: {python: {source: a.py, conda_env: e}}}", (2, 45), "`conda_env` of `operator`"),
        ("nodes:\n- {id: a, operator: {outputs: [o]}}", (2, 21), "`operator` of node 'a' has no `python`"),
        ("nodes:\n- {id: a, operators: [{python: a.py}]}", (2, 23), "an operator of node 'a' has no `id`"),
        ("nodes:\n- {id: a, operators: []}", (2, 22), "`operators` of node 'a' is empty"),
        ("nodes:\n- {id: a, operator: {python: a.py}, outputs: [o]}", (2, 37), "`outputs` of node 'a', which has operators"),
        ("nodes:\n- {id: a, path: a.py, restart_policy: on_failure}", (2, 39), "`restart_policy` of node 'a' cannot be"),
        ("nodes:\n- {id: a, path: a.py, max_restarts: -1}", (2, 37), "`max_restarts` of node 'a' is -1"),
        ("nodes:\n- {id: a, path: a.py, min_log_level: loud}", (2, 38), "`min_log_level` of node 'a' cannot be 'loud'"),
        ("nodes:\n- {id: a, path: a.py, shared_memory_pool_size: 12XB}", (2, 48), "`shared_memory_pool_size` of node"),
        ("nodes:\n- {id: a, path: a.py, output_framing: {x: zip}}", (2, 43), "`x` in `output_framing` of node 'a'"),
        ("nodes:\n- {id: a, path: a.py, outputs: x}", (2, 32), "`outputs` of node 'a' must be a list"),
        ("nodes:\n- {id: a, path: a.py, pattern: talk}", (2, 32), "`pattern` of node 'a' cannot be 'talk'"),
        ("nodes:\n- {id: a, path: a.py, output_types: {x: t}}", (2, 38), "`output_types` of node 'a' names 'x'"),
        ("nodes:\n- {id: a, path: a.py, inputs: {x: b/y}}", (2, 35), "input 'x' of node 'a' comes from the node 'b'"),
        ("nodes:\n- {id: a, path: a.py, inputs: {x: a/y}}", (2, 35), "input 'x' of node 'a' comes from 'a/y', but"),
        ("nodes:\n- {id: a, path: a.py, inputs: {x: dora/logs/info/b}}", (2, 35), "input 'x' of node 'a' wants the logs"),
        ("nodes:\n- {id: a, path: a.py, params: {p: 1}}", (2, 23), "`params` of node 'a', which is no module"),
        ("nodes:\n- {id: a, path: a.py, config: {p: 1}}", (2, 23), "unknown field `config` in node 'a'"),
        ("nodes:\n- {id: a, path: a.py, process: p}", (2, 23), "`process` of node 'a', which is no operator"),
        ("nodes:\n- {id: a, path: a.py, send_stdout_as: o}\n- {id: b, path: b.py, inputs: {x: a/o}}", (3, 35), "input 'x'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(text: str, place: tuple[int, int], what: str) -> None:
    error = refused(text)
    assert (error.line, error.column) == place
    assert error.what.startswith(what)
    assert error.hint or "the id" in error.what or "must" in error.what


def test_all_errors_of_a_file_are_told_at_once() -> None:
    error = refused("nodes:\n- {id: a, path: a.py, git: x, argz: 1}\n- {id: b, path: b.py, hub: y}\nzzz: 1")
    assert [(item.line, item.what) for item in (error, *error.more)] == [
        (2, "`git` of node 'a'"), (2, "unknown field `argz` in node 'a'"), (3, "`hub` of node 'b'"),
        (4, "unknown field `zzz` in the dataflow"),
    ]  # fmt: skip


# ---- nodes


def test_a_custom_node_has_the_defaults_of_dora() -> None:
    spec = node("path: a.py")
    assert (spec.kind, spec.code.path, spec.code.args) == ("node", "a.py", ())
    assert (spec.restart_policy, spec.max_restarts, spec.restart_delay_s) == ("never", 0, 0.0)
    assert (spec.restart_window_s, spec.health_check_timeout_s) == (math.inf, None)
    assert spec.start_timeout_s > 10**9
    assert spec.together and spec.plain_restarts and spec.with_failures and not spec.endless


def test_restarts_health_and_cores_are_taken_over() -> None:
    spec = node(
        "path: a.py, restart_policy: on-failure, max_restarts: 2, restart_delay: 0.5, max_restart_delay: 4, "
        "restart_window: 60, health_check_timeout: 9, startup_timeout: 12, cpu_affinity: [0, 2], finish_grace_secs: 3, "
        "shared_memory_pool_size: 128MB, name: A, description: B"
    )
    assert (spec.restart_policy, spec.max_restarts) == ("on-failure", 2)
    assert (spec.restart_delay_s, spec.max_restart_delay_s, spec.restart_window_s) == (0.5, 4.0, 60.0)
    assert (spec.health_check_timeout_s, spec.start_timeout_s, spec.cpus) == (9.0, 12.0, (0, 2))


@pytest.mark.parametrize(
    ("written", "args"),
    [("-v --count 3", ("-v", "--count", "3")), ("'\"a b\" c\\ d \"\"'", ("a b", "c d", "")), ("5", ("5",)),
     ("$HOME *.txt", ("$HOME", "*.txt")), ("''", ())],
)  # fmt: skip
def test_args_are_split_as_a_shell_would_and_nothing_in_them_expands(written: str, args: tuple[str, ...]) -> None:
    assert node(f"path: a.py, args: {written}").code.args == args


def test_a_dynamic_node_is_not_waited_for() -> None:
    spec = node("path: dynamic, inputs: {x: s/v}")
    assert (spec.kind, spec.together, spec.code.path) == ("dynamic", False, "")


def test_a_shell_node_is_run_by_a_shell_where_that_is_allowed() -> None:
    spec = node("path: shell, args: 'echo $X; ls > o'", allow_shell=True)
    assert (spec.code.path, spec.code.args) == ("/bin/sh", ("-c", "echo $X; ls > o"))


def test_an_id_that_is_a_number_is_a_text() -> None:
    assert flow("- {id: 5, path: a.py, outputs: [6]}\n- {id: b, path: b.py, inputs: {x: 5/6}}").nodes[1].inputs[0].node == "5"


def test_our_own_fields_are_known_too() -> None:
    text = """
state: {size: 1GB}
snapshots: {every: 5s, to: none}
nodes:
- {id: s, path: s.py, outputs: [v]}
- id: a
  operator: {python: a.py, inputs: {x: {source: s/v, queue_policy: backpressure, queue_bytes: 1MB}}}
  restart_policy: on-failure
  max_attempts: 5
  process: p
"""
    found = parse(text).dataflow
    spec = found.node("a")
    assert (found.state.size_bytes, found.snapshots.to, found.snapshots.every_s) == (1 << 30, "none", 5.0)
    assert (spec.restart_policy, spec.max_attempts, spec.process) == ("on-failure", 5, "p")
    assert spec.input("x").queue_bytes == 1 << 20


# ---- operators


def test_one_operator_is_the_node() -> None:
    spec = node("operator: {python: a.py, inputs: {x: s/v}, outputs: [o]}")
    assert (spec.kind, spec.code.path, spec.code.name, spec.process) == ("operator", "a.py", "Operator", "")
    assert spec.code.adapter == "noderuntime.dora.operator_adapter:adapt"
    assert (spec.outputs, spec.restart_policy) == (("o",), "never")


def test_an_operator_may_have_options_for_python() -> None:
    assert node("operator: {python: {source: a.py}}").code.path == "a.py"


def test_several_operators_are_nodes_of_one_process() -> None:
    found = flow(
        SENDER + "- id: m\n  env: {E: 1}\n  operators:\n"
        "  - {id: a, python: a.py, inputs: {x: s/v}, outputs: [o]}\n"
        "  - {id: b, python: b.py, inputs: {x: m/a/o}, outputs: [o]}\n"
        "- {id: r, path: r.py, inputs: {x: m/b/o}}"
    )
    a, b = found.node("m.a"), found.node("m.b")
    assert (a.process, b.process, a.env, b.env) == ("m", "m", {"E": "1"}, {"E": "1"})
    assert (b.inputs[0].node, b.inputs[0].output) == ("m.a", "o")
    assert (found.node("r").inputs[0].node, found.node("r").inputs[0].output) == ("m.b", "o")


def test_a_list_of_one_operator_is_addressed_as_dora_does() -> None:
    found = flow("- {id: m, operators: [{id: a, python: a.py, outputs: [o]}]}\n- {id: r, path: r.py, inputs: {x: m/a/o}}")
    assert (found.node("r").inputs[0].node, found.node("r").inputs[0].output) == ("m", "o")


# ---- inputs


@pytest.mark.parametrize(
    ("written", "period_ns"),
    [("secs/2", 2_000_000_000), ("millis/100", 100_000_000), ("micros/500", 500_000), ("nanos/200000", 200_000),
     ("hz/30", 33_333_333), ("hz/2.5", 400_000_000)],
)  # fmt: skip
def test_timers_have_the_units_of_dora(written: str, period_ns: int) -> None:
    spec = input_of(f"dora/timer/{written}")
    assert spec.period_ns == period_ns and spec.is_timer and spec.source.startswith("timer/")


@pytest.mark.parametrize(
    "written",
    ["dora/timer/secs/0.5", "dora/timer/millis/1.5", "dora/timer/millis/0", "dora/timer/minutes/1", "dora/timer/hz/0",
     "dora/timer/hz", "dora/other", "dora/logs/loud", "dora/logs/info/a/b", "s", "s/", "/v", "s//v", "dora/timer/nanos/1",
     "dora/timer/millis/-5", "timer/millis/100"],
)  # fmt: skip
def test_other_sources_are_refused_with_a_sentence(written: str) -> None:
    error = refused(f"nodes:\n{SENDER}- {{id: a, path: a.py, inputs: {{x: {written}}}}}")
    assert (error.line, error.column) == (3, 35)
    assert error.hint


def test_an_input_has_the_queue_of_dora() -> None:
    spec = input_of("s/v")
    assert (spec.queue_size, spec.queue_policy, spec.queue_bytes) == (10, "drop_oldest", BYTES_MAX)


@pytest.mark.parametrize(("size", "means"), [(0, 1), (1, 1), (3, 3), (1000, 1000)])
def test_a_queue_of_none_is_one_of_one(size: int, means: int) -> None:
    assert input_of(f"{{source: s/v, queue_size: {size}}}").queue_size == means


@pytest.mark.parametrize(("size", "room"), [(1, 100), (10, 100), (50, 500)])
def test_backpressure_has_the_room_that_dora_gives_it(size: int, room: int) -> None:
    spec = input_of(f"{{source: s/v, queue_policy: backpressure, queue_size: {size}}}")
    assert (spec.queue_policy, spec.queue_size) == ("backpressure", room)


def test_a_timeout_and_slashes_in_names() -> None:
    assert input_of("{source: s/v, input_timeout: 0.5}").input_timeout_s == 0.5
    assert (input_of("s/w/x").node, input_of("s/w/x").output) == ("s", "w/x")
    assert node("path: a.py, inputs: {a/b: s/v}").inputs[0].name == "a/b"


# ---- the end of a node


@pytest.mark.parametrize(
    ("inputs", "finishes", "endless"),
    [("x: s/v", False, False), ("x: s/v, t: dora/timer/secs/1", False, True), ("t: dora/timer/secs/1", False, True),
     ("x: s/v, t: dora/timer/secs/1", True, False), ("t: dora/timer/secs/1", True, True), ("l: dora/logs", False, True),
     ("x: s/v, l: dora/logs", True, False)],
)  # fmt: skip
def test_timers_and_logs_keep_a_node_unless_the_file_says_otherwise(inputs: str, finishes: bool, endless: bool) -> None:
    text = f"exit_when_nodes_finish: {str(finishes).lower()}\nnodes:\n{SENDER}- {{id: a, path: a.py, inputs: {{{inputs}}}}}"
    assert parse(text).dataflow.node("a").endless is endless
    assert parse(text, finishes=False).dataflow.node("a").endless is (inputs != "x: s/v")


# ---- lines and logs


def test_lines_come_from_a_helper_that_ends_with_their_node() -> None:
    found = flow("- {id: a, path: a.py, outputs: [o, l, v], send_stdout_as: o, send_logs_as: l, min_log_level: warn}\n"
                 "- {id: r, path: r.py, inputs: {x: a/o, y: a/l, z: a/v}}")  # fmt: skip
    x, y, z = found.node("r").inputs
    assert (x.node, x.output, y.node, y.output, z.node) == ("a~lines", "o", "a~lines", "l", "a")
    helper = found.node("a~lines")
    assert helper.config == {
        "node": "a", "process": "a", "nodes": {"a": {"node": "a", "level": 30}}, "stdout": "o", "logs": "l",
    }  # fmt: skip
    assert helper.endless
    assert [spec.node for spec in helper.inputs if not spec.is_timer] == ["a"]
    assert helper.inputs[0].output in found.node("a").outputs
    assert found.node("a").forwards_lines and found.node("a").log_level == 30


def test_nobody_helps_where_nobody_listens() -> None:
    assert [spec.id for spec in flow("- {id: a, path: a.py, outputs: [o], send_stdout_as: o}").nodes] == ["a"]


def test_logs_come_from_one_helper_that_ends_with_those_who_read_them() -> None:
    found = flow("- {id: a, path: a.py}\n- {id: r, path: r.py, inputs: {x: dora/logs, y: dora/logs/warn/a}}\n"
                 "- {id: q, path: r.py, inputs: {x: dora/logs}}")  # fmt: skip
    helper = found.node(LOGS)
    assert helper.config["outputs"] == {
        "logs-to-r": {"level": "", "node": "", "reader": "r"},
        "logs-warn-a-to-r": {"level": "warn", "node": "a", "reader": "r"},
        "logs-to-q": {"level": "", "node": "", "reader": "q"},
    }
    assert {*helper.config["nodes"]} == {"a", "r", "q"}
    assert [spec.node for spec in helper.inputs if not spec.is_timer] == ["r", "q"]
    assert not any(spec.counts for spec in found.node("r").inputs)


# ---- env


@pytest.mark.parametrize(
    ("written", "text"),
    [("x", "x"), ('"007"', "007"), ('"1.10"', "1.10"), ("8080", "8080"), ("1.0", "1"), ("1e3", "1000"), ("0x10", "16"),
     ("0o17", "15"), ("1.5", "1.5"), ("1e-7", "0.0000001"), ("-0.5", "-0.5"), ("true", "true"), ("True", "true"),
     ("false", "false"), ("yes", "yes"), ("010", "010"), ("1_000", "1_000"), ("1.0.0", "1.0.0"), ('""', ""),
     ("12345678901234567890123", "12345678901234567890123"), ("$HOME", "/home/u"), ('"${HOME}"', "/home/u"),
     ("a-$HOME-b", "a-/home/u-b"), ('"${NOPE:-dflt}"', "dflt"), ('"${EMPTY:-dflt}"', ""), ("$SEVEN", "007"),
     ("x$$y", "x$y"), ("$$HOME", "$HOME"), ("5 $", "5 $"), ("~", None), ("~/x", "~/x"), ("a$ b", "a$ b")],
)  # fmt: skip
def test_values_of_env(written: str, text: str | None) -> None:
    if text is None:
        assert "nothing" in refused(f"nodes:\n- {{id: a, path: a.py, env: {{K: {written}}}}}").what
        return
    assert node(f"path: a.py, env: {{K: {written}}}").env == {"K": text}


@pytest.mark.parametrize(
    ("written", "what"),
    [("$NOPE", "`K` in `env` of node 'a': the variable NOPE is not set"),
     ("[1]", "`K` in `env` of node 'a' must be a text, a number or a boolean, not a list"),
     ("{__dora_env: X}", "`K` in `env` of node 'a' must be a text, a number or a boolean, not a mapping"),
     ("", "`K` in `env` of node 'a' must be a text, a number or a boolean, not nothing")],
)  # fmt: skip
def test_values_that_env_cannot_have(written: str, what: str) -> None:
    error = refused(f"nodes:\n- id: a\n  path: a.py\n  env:\n    K: {written}")
    assert (error.line, error.what) == (5, what)
    assert error.hint


def test_the_env_of_a_node_wins_over_the_option_and_that_over_the_file() -> None:
    text = "env: {A: 1, B: 1, C: 1}\nnodes:\n- {id: a, path: a.py, env: {C: 3}}"
    assert parse(text, overrides={"B": "2", "C": "2"}).dataflow.nodes[0].env == {"A": "1", "B": "2", "C": "3"}


# ---- what has no effect is said


@pytest.mark.parametrize(
    ("fields", "note"),
    [("outputs: [o], output_types: {o: std/core/v1/Bool}", refusals.UNCHECKED),
     ("inputs: {x: s/v}, input_types: {x: t}", refusals.UNCHECKED), ("pattern: service-server", refusals.UNCHECKED),
     ("max_log_size: 5MB, max_rotated_files: 3", refusals.LOG_FILES)],
)  # fmt: skip
def test_what_changes_nothing_is_told(fields: str, note: str) -> None:
    assert read(f"{SENDER}- {{id: a, path: a.py, {fields}}}").notes == (note,)


def test_most_files_have_nothing_to_be_told() -> None:
    assert read(f"{SENDER}- {{id: a, path: a.py, inputs: {{x: s/v}}, output_framing: {{o: arrow-ipc}}}}").notes == ()


# ---- what builds, and what nodes are told


def test_builds_are_lines_in_the_order_of_the_file() -> None:
    found = read("- {id: a, path: a.py, env: {E: 1}, build: \"pip install x\\n\\n  make all \"}\n"
                 "- {id: m, operators: [{id: x, python: a.py, build: b1}, {id: y, python: b.py, build: b2}]}")  # fmt: skip
    assert [(item.node, item.commands) for item in found.builds] == [
        ("a", ("pip install x", "make all")), ("m.x", ("b1",)), ("m.y", ("b2",)),
    ]  # fmt: skip
    assert found.builds[0].env == {"E": "1"}


def test_the_descriptor_is_that_of_dora() -> None:
    """As dora 1.1.0 showed it for the same file, but for `A`, a text in quotes, which dora turns into the number 7."""
    text = """
env: {R: 1, T: true, S: "x"}
health_check_interval: 2
nodes:
- id: a
  path: desc.py
  name: nn
  description: dd
  args: 5
  build: "echo hi"
  env: {A: "007", F: 1.5, G: $HOME}
  inputs:
    t: dora/timer/millis/100
    u: {source: a/x, queue_size: 3, queue_policy: drop_oldest, input_timeout: 5}
    l: dora/logs/info/a
    l2: dora/logs
    v: {source: dora/timer/hz/2.5}
  outputs: [z, x, o]
  send_stdout_as: o
  min_log_level: info
  max_log_size: 5MB
  max_rotated_files: 3
  restart_policy: on-failure
  max_restarts: 2
  restart_delay: 1
  max_restart_delay: 5.5
  restart_window: 7
  health_check_timeout: 9
  finish_grace_secs: 3
  startup_timeout: 12
  cpu_affinity: [0]
  shared_memory_pool_size: 128MB
  output_framing: {x: arrow-ipc}
- id: ops
  operator: {python: op.py, inputs: {t: dora/timer/secs/1}, outputs: [q], name: opn}
- id: d
  path: dynamic
  inputs: {q: ops/q}
"""
    found = parse(text, env=ENVIRON)
    assert found.descriptor == {
        "nodes": [
            {
                "id": "a", "name": "nn", "description": "dd", "path": "desc.py", "args": "5",
                "env": {"A": "007", "F": 1.5, "G": "/home/u"}, "outputs": ["o", "x", "z"],
                "output_framing": {"x": "arrow-ipc"},
                "inputs": {
                    "l": "dora/logs/info/a", "l2": "dora/logs", "t": "dora/timer/millis/100",
                    "u": {"source": "a/x", "queue_size": 3, "input_timeout": 5.0, "queue_policy": "drop_oldest"},
                    "v": "dora/timer/millis/400",
                },
                "send_stdout_as": "o", "min_log_level": "info", "max_log_size": "5MB", "max_rotated_files": 3,
                "build": "echo hi", "restart_policy": "on-failure", "shared_memory_pool_size": 134217728,
                "max_restarts": 2, "restart_delay": 1.0, "max_restart_delay": 5.5, "restart_window": 7.0,
                "health_check_timeout": 9.0, "finish_grace_secs": 3.0, "cpu_affinity": [0], "deploy": None,
                "startup_timeout": 12.0,
            },
            {
                "id": "ops", "name": None, "description": None, "env": None,
                "operator": {
                    "id": None, "name": "opn", "description": None, "inputs": {"t": "dora/timer/secs/1"},
                    "outputs": ["q"], "python": "op.py",
                },
                "outputs": [], "inputs": {}, "restart_policy": "never", "max_restarts": 0, "deploy": None,
            },
            {
                "id": "d", "name": None, "description": None, "path": "dynamic", "env": None, "outputs": [],
                "inputs": {"q": "ops/q"}, "restart_policy": "never", "max_restarts": 0, "deploy": None,
            },
        ],
        "deploy": None, "debug": {"enable_debug_inspection": False}, "health_check_interval": 2.0,
        "env": {"R": 1, "S": "x", "T": True},
    }  # fmt: skip
    assert found.nodes["a"] == {
        "node": "a", "operator": "", "outputs": ["o", "x", "z"], "inputs": found.descriptor["nodes"][0]["inputs"],
        "options": {"output_framing": {"x": "arrow-ipc"}, "shared_memory_pool_size": 134217728},
    }  # fmt: skip


# ---- modules


MODULE = """
module: {name: tp, inputs: [raw], inputs_optional: [cfg], outputs: [done]}
build: echo modbuild
nodes:
- id: w
  path: w.py
  args: --s $PARAM_SPEED ${PARAM_SPEED} $PARAM_SPEEDX $OTHER
  env: {Q: 1}
  inputs: {d: _mod/raw, c: _mod/cfg, s: {source: w/done, queue_size: 2}}
  outputs: [done]
"""
OUTER = """
nodes:
- {id: s, path: s.py, outputs: [v]}
- id: p
  module: m/mod.yml
  inputs: {raw: {source: s/v, queue_size: 5}}
  params: {speed: "2.0", mode: "a b"}
  env: {Z: 3}
  build: echo pb
- {id: r, path: r.py, inputs: {f: p/done, g: p.w/done}}
"""


def modules(outer: str, **files: str) -> DoraFile:
    texts = {name.replace("__", "/") + ".yml": text for name, text in files.items()}

    def read_module(path: str) -> bytes:
        if path not in texts:
            raise DataflowError("there is no such file", file=path)
        return texts[path].encode()

    return parse(outer, file="d.yml", env=ENVIRON, read_module=read_module)


def refused_module(outer: str, **files: str) -> DataflowError:
    with pytest.raises(DataflowError) as caught:
        modules(outer, **files)
    return caught.value


def test_a_module_becomes_its_nodes_as_dora_expands_it() -> None:
    found = modules(OUTER, m__mod=MODULE)
    assert [spec.id for spec in found.dataflow.nodes] == ["s", "p.w", "r"]
    spec = found.dataflow.node("p.w")
    assert (spec.code.path, spec.code.args) == ("m/w.py", ("--s", "2.0", "${PARAM_SPEED}", "$PARAM_SPEEDX", "$OTHER"))
    assert spec.env == {"PARAM_SPEED": "2.0", "PARAM_MODE": "a b", "Z": "3", "Q": "1"}
    assert [(item.name, item.source, item.queue_size) for item in spec.inputs] == [("d", "s/v", 5), ("s", "p.w/done", 2)]
    assert [item.source for item in found.dataflow.node("r").inputs] == ["p.w/done", "p.w/done"]
    assert [(item.node, item.commands) for item in found.builds] == [("p.w", ("echo pb", "echo modbuild"))]


def test_modules_may_be_in_modules() -> None:
    inner = "module: {name: i, inputs: [x], outputs: [o]}\nnodes:\n- {id: n, path: n.py, inputs: {x: _mod/x}, outputs: [o]}"
    middle = (
        "module: {name: m, inputs: [x], outputs: [o, q]}\nnodes:\n- {id: i, module: deep/inner.yml, inputs: {x: _mod/x}}\n"
        "- {id: k, path: k.py, inputs: {x: i/o}, outputs: [q]}"
    )
    outer = ("nodes:\n- {id: s, path: s.py, outputs: [v]}\n- {id: m, module: middle.yml, inputs: {x: s/v}}\n"
             "- {id: r, path: r.py, inputs: {a: m/o, b: m/q}}")  # fmt: skip
    found = modules(outer, middle=middle, deep__inner=inner).dataflow
    assert [spec.id for spec in found.nodes] == ["s", "m.i.n", "m.k", "r"]
    assert [item.source for item in found.node("r").inputs] == ["m.i.n/o", "m.k/q"]
    assert found.node("m.k").inputs[0].source == "m.i.n/o"
    assert found.node("m.i.n").code.path == "deep/n.py"


def test_operators_in_modules_are_reached_with_their_segment() -> None:
    module = (
        "module: {name: m, inputs: [x], outputs: [o]}\nnodes:\n- id: n\n  operators:\n"
        "  - {id: a, python: a.py, inputs: {x: _mod/x}, outputs: [h]}\n"
        "  - {id: b, python: b.py, inputs: {x: n/a/h}, outputs: [o]}\n"
    )
    outer = ("nodes:\n- {id: s, path: s.py, outputs: [v]}\n- {id: m, module: m.yml, inputs: {x: s/v}}\n"
             "- {id: r, path: r.py, inputs: {a: m/o}}")  # fmt: skip
    found = modules(outer, m=module).dataflow
    assert (found.node("r").inputs[0].node, found.node("r").inputs[0].output) == ("m.n.b", "o")
    assert found.node("m.n.b").inputs[0].node == "m.n.a"


@pytest.mark.parametrize(
    ("outer", "module", "file", "what"),
    [
        ("{id: p, module: mod.yml}", MODULE, "d.yml", "node 'p' wires no input 'raw', which the module needs"),
        ("{id: p, module: mod.yml, inputs: {raw: s/v, x: s/v}}", MODULE, "d.yml", "the module of node 'p' has no input 'x'"),
        ("{id: p, module: mod.yml, inputs: {raw: s/v}, path: a.py}", MODULE, "d.yml", "`path` of node 'p', which is a module"),
        ("{id: p, module: ../mod.yml}", MODULE, "d.yml", "`module` of node 'p' is outside of the folder"),
        ("{id: p, module: /mod.yml}", MODULE, "d.yml", "`module` of node 'p' is outside of the folder"),
        ("{id: p, module: none.yml}", MODULE, "d.yml", "`module` of node 'p': 'none.yml': there is no such file"),
        ("{id: p, module: mod.yml, inputs: {raw: s/v}, params: {a-b: 1}}", MODULE, "d.yml", "'a-b' in `params` of node 'p'"),
        ("{id: p, module: mod.yml}", "nodes: []", "mod.yml", "a module has no `module`"),
        ("{id: p, module: mod.yml}", "module: {name: n}", "mod.yml", "a module has no `nodes`"),
        ("{id: p, module: mod.yml}", "module: {}\nnodes: []", "mod.yml", "`module` has no `name`"),
        ("{id: p, module: mod.yml}", "module: {name: n, zz: 1}\nnodes: []", "mod.yml", "unknown field `zz` in `module`"),
        ("{id: p, module: mod.yml}", "module: {name: n}\nnodes: []\nzz: 1", "mod.yml", "unknown field `zz` in a module"),
        ("{id: p, module: mod.yml}", "module: {name: n, outputs: [o]}\nnodes: []", "mod.yml", "no node of the module has"),
        ("{id: p, module: mod.yml}", "module: {name: n}\nnodes: [{id: a, path: a.py, inputs: {x: _mod/y}}]", "mod.yml",
         "the module declares no input 'y'"),
        ("{id: p, module: mod.yml}", "module: {name: n}\nnodes:\n- {id: a, path: a.py, argz: 1}", "mod.yml",
         "unknown field `argz` in node 'p.a'"),
        ("{id: p, module: mod.yml}", "module: {name: n}\nnodes: [{id: a, module: mod.yml}]", "mod.yml",
         "the module 'mod.yml' contains itself"),
        ("{id: p, module: mod.yml}", "module: {name: n\nnodes: 5", "mod.yml", "`,` or `}` is missing"),
        ("{id: p, module: mod.yml}", "module: {name: n}\nnodes: [{id: a, path: a.py, inputs: {x: b/y}}]", "mod.yml",
         "input 'x' of node 'p.a' comes from the node 'b', which does not exist"),
        ("{id: p, module: mod.yml}",
         "module: {name: n}\nnodes: [{id: a, path: a.py, inputs: {x: {source: a/o, queue_policy: backpressure}}, outputs: [o]}]",
         "mod.yml", "a cycle in which every input waits for room"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_module_is_told_with_its_file(outer: str, module: str, file: str, what: str) -> None:
    error = refused_module(f"nodes:\n- {{id: s, path: s.py, outputs: [v]}}\n- {outer}", mod=module)
    found = [(item.file, item.what) for item in (error, *error.more)]
    assert any(named == file and said.startswith(what) for named, said in found), found
    assert all(item.line for item in (error, *error.more))


def test_what_is_in_a_parameter_is_taken_as_it_is() -> None:
    outer = 'nodes:\n- {id: m, module: m.yml, params: {p: "a$NOPE $HOME", q: "007", r: 1.50}}'
    module = "module: {name: m}\nnodes: [{id: n, path: n.py, args: \"$PARAM_P $PARAM_Q\"}]"
    spec = modules(outer, m=module).dataflow.node("m.n")
    assert spec.env == {"PARAM_P": "a$NOPE $HOME", "PARAM_Q": "007", "PARAM_R": "1.50"}
    assert spec.code.args == ("a$NOPE", "$HOME", "007")


def test_options_of_the_inner_input_win_over_those_that_it_is_wired_with() -> None:
    outer = ("nodes:\n- {id: s, path: s.py, outputs: [v]}\n"
             "- {id: m, module: m.yml, inputs: {x: {source: s/v, queue_size: 5, input_timeout: 3}}}")  # fmt: skip
    module = ("module: {name: m, inputs: [x]}\nnodes:\n"
              "- {id: n, path: n.py, inputs: {x: {source: _mod/x, queue_size: 2}, y: _mod/x}}")  # fmt: skip
    x, y = modules(outer, m=module).dataflow.node("m.n").inputs
    assert (x.queue_size, x.input_timeout_s, y.queue_size, y.input_timeout_s) == (2, 3.0, 5, 3.0)


@pytest.mark.parametrize(
    ("written", "path"), [("e.py", "sub/e.py"), ("./e.py", "sub/e.py"), ("../e.py", "e.py"), ("/bin/echo", "/bin/echo")]
)
def test_paths_in_a_module_begin_in_its_folder(written: str, path: str) -> None:
    module = f"module: {{name: m}}\nnodes:\n- {{id: n, path: {written}}}\n- {{id: o, operator: {{python: {written}}}}}"
    found = modules("nodes:\n- {id: m, module: sub/m.yml}", sub__m=module)
    assert [spec.code.path for spec in found.dataflow.nodes] == [path, path]
    assert [found.descriptor["nodes"][0]["path"], found.descriptor["nodes"][1]["operator"]["python"]] == [path, path]


def test_the_number_of_modules_is_bounded() -> None:
    many = "module: {name: n}\nnodes: [" + ", ".join(f"{{id: a{n}, module: %s.yml}}" for n in range(50)) + "]"
    error = refused_module("nodes:\n- {id: p, module: m0.yml}", m0=many % (("m1",) * 50), m1=many % (("m2",) * 50), m2=many % (("m3",) * 50), m3=MODULE)
    assert "more than 1000 modules" in str(error)


def test_the_depth_of_modules_is_bounded() -> None:
    files = {
        f"m{level}": f"module: {{name: n}}\nnodes: [{{id: a, module: m{level + 1}.yml}}]" for level in range(12)
    }
    error = refused_module("nodes:\n- {id: p, module: m0.yml}", **files)
    assert "more than 8 levels deep" in str(error)


@pytest.mark.parametrize("data", [b"", b"\xff", b"nodes: [", b"{}", b"[]", b"nodes: 5", b"nodes: [5]", b"nodes: [{id: {}}]"])
def test_whatever_the_data_are_only_one_kind_of_error_is_raised(data: bytes) -> None:
    with pytest.raises(DataflowError):
        parse(data)


def test_each_field_with_a_value_of_each_kind_is_read_or_refused_and_nothing_else() -> None:
    values = [None, True, 5, -1, 1.5, "", "x", "x/y", [], [1], ["x"], {}, {"x": "y"}, {"x": {"source": "a/o"}}, [[]]]
    for field in (*NODE_FIELDS, "process", "max_attempts"):
        for value in values:
            for extra in ({"path": "a.py"}, {"operator": {"python": "a.py", field: value}}, {}):
                made = {"id": "a", "outputs": ["o"], **extra, field: value}
                try:
                    parse(yaml.safe_dump({"nodes": [made]}), env={})
                except DataflowError as error:
                    assert str(error)


WORDS = st.sampled_from([*NODE_FIELDS, *ROOT_FIELDS, "source", "queue_size", "queue_policy", "python", "a", "b", "a/o", "a/b/o", "_mod/i",
                         "dora/timer/millis/5", "dora/logs/info/a", "a.py", "$HOME", "mod.yml", "backpressure", "shell", "dynamic"])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2000) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=20,
)
NODES = st.lists(st.dictionaries(WORDS, VALUES, max_size=6).map(lambda fields: {"id": "a", "path": "a.py", **fields}), min_size=1, max_size=3)


@settings(max_examples=400)
@given(NODES, st.dictionaries(st.sampled_from([*ROOT_FIELDS, "state", "snapshots"]), VALUES, max_size=3), NODES)
def test_whatever_a_file_says_it_is_read_or_refused(nodes: Any, rest: dict[str, Any], inner: Any) -> None:
    module = {"module": {"name": "m", "inputs": ["i"], "outputs": ["o"]}, "nodes": inner}
    try:
        parse(yaml.safe_dump({**rest, "nodes": nodes}), env=ENVIRON, read_module=lambda path: yaml.safe_dump(module).encode())
    except DataflowError as error:
        assert str(error)
