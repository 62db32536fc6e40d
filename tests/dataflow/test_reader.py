"""What a good dataflow file means: dataflow.py and dataflow_file.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from noderuntime.dataflow.model import (
    QUEUE_BYTES,
    QUEUE_SIZE,
    Code,
    Dataflow,
    InputSpec,
    NodeSpec,
    SnapshotSpec,
    StateSpec,
)
from noderuntime.dataflow.reader import parse

WHOLE = """
env: {LOG_LEVEL: info, SEED: 1}
nodes:
  - id: counter
    path: count.py
    args: --count 100
    env: {SEED: 7}
    outputs: [n]
  - id: sums
    operator:
      python: ../operators/running_sum.py
      inputs: {n: counter/n, tick: timer/millis/100}
      outputs: [sum]
    config: {start: 0}
    restart_policy: always
    max_restarts: 7
    restart_window: 90s
    restart_delay: 200ms
    max_restart_delay: 1m
    max_attempts: 4
    start_timeout: 20s
    health_check_timeout: 3s
    spawn: exec
  - id: sink
    path: sink.py
    inputs:
      sum: {source: sums/sum, queue_size: 10, queue_bytes: 64KB, queue_policy: drop_oldest, input_timeout: 5s}
state:
  {kind: redis, url: "redis://localhost", size: 1GB, ttl: 5m, purge_interval: 30, seed: {file: seed.yml}, history: 5}
snapshots: {every: 2m, to: ./snapshots, keep: 5, options: {region: x}}
"""


def one_node(fields: str, **arguments: Any) -> NodeSpec:
    """The first node of a file that has the given fields of it, each in a line."""
    lines = "\n".join(f"    {line}" for line in fields.splitlines())
    return parse(f"nodes:\n  - id: a\n{lines}\n", **arguments).nodes[0]


def one_input(written: str) -> InputSpec:
    node = one_node(f"path: a.py\noutputs: [o]\ninputs: {{i: {written}}}")
    return replace(node.inputs[0])


def test_every_field_of_the_contract_is_read() -> None:
    flow = parse(WHOLE, file="flow.yml", folder="/flows")
    counter, sums, sink = flow.nodes
    assert (flow.file, flow.folder, flow.env) == ("flow.yml", "/flows", {"LOG_LEVEL": "info", "SEED": "1"})
    assert counter == NodeSpec(
        id="counter",
        kind="node",
        code=Code(path="count.py", args=("--count", "100")),
        env={"LOG_LEVEL": "info", "SEED": "7"},
        outputs=("n",),
        restart_policy="never",
        spawn="exec",
    )
    assert sums == NodeSpec(
        id="sums",
        kind="operator",
        code=Code(path="../operators/running_sum.py", name="Operator"),
        env={"LOG_LEVEL": "info", "SEED": "1"},
        inputs=(
            InputSpec("n", "counter/n", node="counter", output="n"),
            InputSpec("tick", "timer/millis/100", period_ns=100_000_000),
        ),
        outputs=("sum",),
        config={"start": 0},
        restart_policy="always",
        max_restarts=7,
        restart_window_s=90.0,
        restart_delay_s=0.2,
        max_restart_delay_s=60.0,
        max_attempts=4,
        start_timeout_s=20.0,
        health_check_timeout_s=3.0,
        spawn="exec",
    )
    assert sink.inputs == (
        InputSpec(
            "sum",
            "sums/sum",
            node="sums",
            output="sum",
            queue_size=10,
            queue_bytes=64 * 1024,
            queue_policy="drop_oldest",
            input_timeout_s=5.0,
        ),
    )
    assert flow.state == StateSpec(
        kind="redis",
        size_bytes=1 << 30,
        ttl_s=300.0,
        purge_interval_s=30.0,
        seed_file="seed.yml",
        history=5,
        options={"url": "redis://localhost"},
    )
    assert flow.snapshots == SnapshotSpec(every_s=120.0, to="./snapshots", keep=5, options={"region": "x"})


def test_what_is_not_written_has_the_defaults_of_the_contract() -> None:
    custom = one_node("path: a.py")
    assert (custom.restart_policy, custom.spawn) == ("never", "exec")
    operator = one_node("operator: {python: a.py}")
    assert (operator.restart_policy, operator.spawn) == ("on-failure", "fork")
    assert (operator.max_restarts, operator.restart_window_s) == (5, 60.0)
    assert (operator.restart_delay_s, operator.max_restart_delay_s) == (0.1, 30.0)
    assert (operator.max_attempts, operator.start_timeout_s, operator.health_check_timeout_s) == (3, 30.0, None)
    flow = parse("nodes: [{id: a, path: a.py}]")
    assert flow.state == StateSpec(kind="memory", size_bytes=None, ttl_s=None, purge_interval_s=60.0, history=10_000)
    assert flow.snapshots == SnapshotSpec(every_s=60.0, to="", keep=3)
    spec = one_input("timer/secs/1")
    assert (spec.queue_size, spec.queue_bytes, spec.queue_policy) == (QUEUE_SIZE, QUEUE_BYTES, "backpressure")


def test_null_means_not_given() -> None:
    node = "{id: a, path: a.py, config: ~, inputs: null, outputs: , health_check_timeout: null}"
    flow = parse(f"env:\nnodes:\n- {node}\nstate: {{ttl: null}}")
    assert (flow.nodes[0].config, flow.nodes[0].inputs, flow.state.ttl_s) == ({}, (), None)


def test_inputs_and_outputs_may_stand_on_the_node_of_an_operator() -> None:
    node = one_node("operator: {python: a.py, outputs: [o]}\ninputs: {t: timer/hz/50}")
    assert (node.inputs[0].period_ns, node.outputs) == (20_000_000, ("o",))


def test_a_dynamic_node_has_no_code() -> None:
    node = one_node("path: dynamic\noutputs: [o]")
    assert (node.kind, node.code.path, str(node.code)) == ("dynamic", "", "dynamic")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("python: a.py", Code(path="a.py", name="Operator")),
        ("python: a.py:Sum", Code(path="a.py", name="Sum")),
        ("python: odd:name.py", Code(path="odd:name.py", name="Operator")),
        ("python: odd:dir/a.py:Sum", Code(path="odd:dir/a.py", name="Sum")),
        ("module: package.sums", Code(module="package.sums", name="Operator")),
        ("module: package.sums:Sum", Code(module="package.sums", name="Sum")),
    ],
)
def test_an_operator_is_a_file_or_a_module_and_perhaps_a_name(written: str, expected: Code) -> None:
    assert one_node(f"operator: {{{written}}}").code == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("--out 'a b' --n 3", ("--out", "a b", "--n", "3")),
        ("[--n, 3, on, a b]", ("--n", "3", "on", "a b")),
        ("5", ("5",)),
    ],
)
def test_arguments_are_a_list_or_are_split_as_a_shell_would(written: str, expected: tuple[str, ...]) -> None:
    assert one_node(f"path: a\nargs: {written}").code.args == expected


@pytest.mark.parametrize(
    ("written", "period_ns", "source"),
    [
        ("timer/millis/100", 100_000_000, "timer/millis/100"),
        ("dora/timer/millis/100", 100_000_000, "timer/millis/100"),
        ("timer/secs/1", 1_000_000_000, "timer/secs/1"),
        ("timer/hz/30", 33_333_333, "timer/hz/30"),
        ("{source: timer/hz/0.5, queue_size: 1}", 2_000_000_000, "timer/hz/0.5"),
    ],
)
def test_timers_have_three_units_and_may_carry_the_prefix_of_dora(written: str, period_ns: int, source: str) -> None:
    spec = one_input(written)
    assert (spec.is_timer, spec.period_ns, spec.source, spec.node) == (True, period_ns, source, "")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("500ms", 0.5),
        ("10s", 10.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1m30s", 90.0),
    ],
)
def test_a_duration_is_a_number_of_seconds_or_has_units(written: str, seconds: float) -> None:
    assert one_node(f"path: a\nstart_timeout: {written}").start_timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("written", "size"),
    [("1", 1), ("64KB", 65_536), ("64 kb", 65_536), ("1GB", 1 << 30), ("1.5M", 3 << 19), ("2KiB", 2048), ("7b", 7)],
)
def test_a_size_is_a_number_of_bytes_or_has_units_of_1024(written: str, size: int) -> None:
    assert parse(f"nodes: [{{id: a, path: a}}]\nstate: {{size: {written}}}").state.size_bytes == size


def test_the_environment_of_a_node_keeps_numbers_and_booleans_as_they_are_written() -> None:
    node = one_node('path: a\nenv: {A: 007, B: yes, C: 1.50, D: "", E: null_, F: 0x1F}')
    assert node.env == {"A": "007", "B": "yes", "C": "1.50", "D": "", "E": "null_", "F": "0x1F"}


def test_variables_expand_in_every_value_and_two_dollars_are_one() -> None:
    env = {"DIR": "/opt", "N": "7", "EMPTY": ""}
    node = one_node(
        'path: $DIR/${N}.py\nargs: ${MISSING:-a b} $$HOME ${EMPTY:-e}\nmax_restarts: "${N}"\nenv: {P: "${X:-$DIR}"}\n'
        "restart_delay: ${D:-250ms}",
        env=env,
    )
    assert node.code.path == "/opt/7.py"
    assert node.code.args == ("a", "b", "$HOME", "e")
    assert (node.max_restarts, node.restart_delay_s, node.env["P"]) == (7, 0.25, "/opt")


def test_overrides_win_over_the_environment_and_over_every_env_in_the_file() -> None:
    text = "env: {A: file}\nnodes: [{id: a, path: $A, env: {A: node, B: b}}, {id: b, path: b}]"
    flow = parse(text, env={"A": "process"}, overrides={"A": "given", "C": "c"})
    assert flow.nodes[0].code.path == "given"
    assert flow.nodes[0].env == {"A": "given", "B": "b", "C": "c"}
    assert flow.nodes[1].env == {"A": "given", "C": "c"}


def test_config_is_any_mapping_of_plain_values() -> None:
    node = one_node(
        'path: a\nconfig: {i: 3, f: 1.5, e: 1e3, t: true, n: null, s: "on", d: 2024-01-02, o: 0o17, '
        "b: !!binary aGk=, l: [1, {x: y}]}"
    )
    assert node.config == {
        "i": 3, "f": 1.5, "e": 1000.0, "t": True, "n": None, "s": "on", "d": "2024-01-02", "o": 15, "b": b"hi",
        "l": [1, {"x": "y"}],
    }  # fmt: skip


def test_aliases_and_merge_keys_repeat_what_was_written() -> None:
    text = """
nodes:
  - &base {id: a, path: a.py, max_restarts: 9, config: &c {k: 1}}
  - <<: *base
    id: b
    config: {<<: *c, m: 2}
"""
    first, second = parse(text).nodes
    assert (first.max_restarts, second.max_restarts, second.id) == (9, 9, "b")
    assert second.config == {"k": 1, "m": 2}


def test_a_cycle_with_one_input_that_drops_is_fine() -> None:
    text = """
nodes:
  - {id: a, path: a, outputs: [o], inputs: {back: {source: b/o, queue_policy: drop_oldest}}}
  - {id: b, path: b, outputs: [o], inputs: {i: a/o}}
"""
    assert [node.id for node, _ in parse(text).receivers("a", "o")] == ["b"]


def test_a_chain_of_thousands_of_nodes_loads() -> None:
    nodes = ["  - {id: n0, path: a, outputs: [o]}"]
    nodes += [f"  - {{id: n{i}, path: a, outputs: [o], inputs: {{i: n{i - 1}/o}}}}" for i in range(1, 3000)]
    assert len(parse("nodes:\n" + "\n".join(nodes)).nodes) == 3000


class TestFingerprint:
    BASE = "nodes:\n- {id: a, path: a.py, outputs: [o, p]}\n- {id: b, operator: {python: b.py, inputs: {i: a/o}}}"

    def of(self, text: str) -> str:
        return parse(text).fingerprint()

    def test_does_not_depend_on_order_limits_policies_or_environment(self) -> None:
        other = """
env: {X: y}
nodes:
  - {id: b, operator: {python: b.py, inputs: {i: {source: a/o, queue_size: 5}}}, max_restarts: 1, config: {x: 1}}
  - {id: a, path: a.py, outputs: [p, o]}
snapshots: {every: 1}
"""
        assert self.of(other) == self.of(self.BASE)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("id: b", "id: c"),
            ("a/o", "a/p"),
            ("i: a", "j: a"),
            ("[o, p]", "[o]"),
            ("b.py", "b.py:Other"),
            ("a.py", "c.py"),
        ],
    )
    def test_depends_on_nodes_inputs_outputs_and_code(self, old: str, new: str) -> None:
        assert self.of(self.BASE.replace(old, new)) != self.of(self.BASE)


def test_a_dataflow_finds_its_parts_by_name() -> None:
    flow: Dataflow = parse(WHOLE)
    assert flow.node("sums").input("n").source == "counter/n"
    with pytest.raises(KeyError):
        flow.node("nobody")
    with pytest.raises(KeyError):
        flow.node("sums").input("nothing")
