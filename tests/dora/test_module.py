"""The module `dora` that children import: its names, the builder, the mock node, what it refuses."""

from __future__ import annotations

import asyncio
import enum
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from noderuntime.dora import commands
from noderuntime.dora.builder import DataflowBuilder, Operator
from noderuntime.dora.mock_node import MockNode
from noderuntime.dora.operator_adapter import PATH, DoraStatus
from noderuntime.dora.unsupported import Ros2Context, Ros2QosPolicies, start_runtime


def python(program: str) -> str:
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {PATH!r})\n{program}"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_module_has_the_names_of_doras() -> None:
    shown = python("import dora; print(dora.__version__, *sorted(n for n in dir(dora) if not n.startswith('_')))")
    assert shown.split() == [
        "1.1.0", "DoraStatus", "Node", "Ros2ActionClient", "Ros2ActionServer", "Ros2Context", "Ros2Durability",
        "Ros2Liveliness", "Ros2Node", "Ros2NodeOptions", "Ros2Publisher", "Ros2QosPolicies", "Ros2ServiceClient",
        "Ros2ServiceServer", "Ros2Subscription", "Ros2Topic", "Ros2Transport", "build", "run", "start_runtime",
    ]  # fmt: skip


def test_importing_it_does_not_import_pyarrow() -> None:
    assert python("import dora, dora.testing, dora.builder; print('pyarrow' in sys.modules)") == "False\n"


def test_without_pyarrow_a_value_says_which_extra_to_install() -> None:
    program = """
sys.modules["pyarrow"] = None
from noderuntime.dora import arrays
try: arrays.load()
except ModuleNotFoundError as error: print(error)
"""
    assert "pip install 'noderuntime[arrow]'" in python(program)


def test_the_status_of_an_operator_is_an_enum() -> None:
    assert issubclass(DoraStatus, enum.Enum)
    assert {status.name: status.value for status in DoraStatus} == {"CONTINUE": 0, "STOP": 1, "STOP_ALL": 2}


@pytest.mark.parametrize("make", [Ros2Context, lambda: Ros2QosPolicies(reliable=True)])
def test_ros_2_is_refused_with_what_to_use_instead(make: Any) -> None:
    with pytest.raises(NotImplementedError, match=r"is part of dora's ROS 2 bridge, .* rclpy"):
        make()


def test_the_runtime_is_not_started_by_a_program() -> None:
    with pytest.raises(NotImplementedError, match="noderuntime run --dora"):
        start_runtime()


# --- the builder ----------------------------------------------------------------------------------------------------


def test_a_dataflow_is_built_by_calls(tmp_path: Path) -> None:
    flow = DataflowBuilder("any name")
    camera = flow.add_node("camera", restart_policy="always").path("camera.py").args("--fast").env({"A": "1"})
    image = camera.build("make").add_output("image")
    assert str(image) == "camera/image"
    camera.add_output("image")
    sink = flow.add_node("sink").git("https://example.org/x.git", branch="main", rev="abc")
    sink.add_input("image", image, queue_size=3, queue_policy="backpressure").add_input("tick", "dora/timer/secs/1")
    sink.add_input("again", image, queue_size=1)
    flow.add_node("ops").add_operator(Operator("o", name="n", python="o.py", shared_library="s", send_stdout_as="out"))
    expected = {
        "nodes": [
            {"id": "camera", "path": "camera.py", "args": "--fast", "env": {"A": "1"}, "build": "make",
             "outputs": ["image"], "restart_policy": "always"},
            {"id": "sink", "git": "https://example.org/x.git", "branch": "main", "rev": "abc", "inputs": {
                "image": {"source": "camera/image", "queue_size": 3, "queue_policy": "backpressure"},
                "tick": "dora/timer/secs/1", "again": {"source": "camera/image", "queue_size": 1}}},
            {"id": "ops", "operators": [{"id": "o", "name": "n", "python": "o.py", "shared-library": "s",
                                         "send_stdout_as": "out"}]},
        ]
    }  # fmt: skip
    text = flow.to_yaml()
    assert text is not None
    assert yaml.safe_load(text) == expected
    assert flow.to_yaml(str(tmp_path / "flow.yml")) is None
    assert (tmp_path / "flow.yml").read_text() == text
    with flow as same:
        assert same is flow


def test_a_queue_that_cannot_be_is_refused() -> None:
    node = DataflowBuilder().add_node("n")
    with pytest.raises(ValueError, match="queue_size must be >= 1, got 0"):
        node.add_input("i", "a/b", queue_size=0)
    with pytest.raises(ValueError, match=r"queue_policy must be one of .*, got 'newest'"):
        node.add_input("i", "a/b", queue_policy="newest")


# --- the mock node --------------------------------------------------------------------------------------------------

STOP = {"type": "STOP", "id": "ALL_INPUTS_CLOSED"}


def given(value: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    return {"type": "INPUT", "id": "i", "value": value, "metadata": metadata}


def test_a_mock_node_hands_out_what_it_was_given_and_then_stop() -> None:
    node = MockNode([("i", 1), ("i", [2])], metadata={"k": 1})
    events = list(node)
    assert events == [given(1, {"k": 1}), given([2], {"k": 1}), STOP]
    assert events[0]["metadata"] is not events[1]["metadata"]
    assert node.next(timeout=1) is None
    assert node.is_empty()


def test_a_mock_node_takes_whole_events() -> None:
    node = MockNode([{"type": "STOP", "id": "MANUAL"}, {"type": "ERROR", "error": "e"}])
    assert not node.is_empty()
    assert node.drain() == [{"type": "STOP", "id": "MANUAL"}, {"type": "ERROR", "error": "e"}]
    assert node.drain() == []
    assert node.try_recv() is None


def test_a_mock_node_can_be_awaited() -> None:
    assert asyncio.run(MockNode([("i", 1)]).recv_async(timeout=1)) == given(1, {})


def test_a_mock_node_keeps_what_is_sent() -> None:
    node = MockNode([])
    node.send_output("o", [1], {"k": 1})
    node.send_output("o", b"2")
    node.log("info", "m", "t", {"a": "b"})
    for level in ("error", "warn", "info", "debug", "trace"):
        getattr(node, f"log_{level}")(level)
    node.kvs_write("k", b"v")
    assert node.outputs == {"o": [[1], b"2"]}
    assert node.logs[0] == {"level": "info", "message": "m", "target": "t", "fields": {"a": "b"}}
    assert [record["level"] for record in node.logs[1:]] == ["error", "warn", "info", "debug", "trace"]
    assert (node.kvs_read("k"), node.kvs_read("x", b"d")) == (b"v", b"d")


def test_a_mock_node_answers_requests() -> None:
    node = MockNode([("i", 0)], service_responses={"i": ["yes"]})
    request = node.send_service_request("i", b"q", {"m": 1})
    other = node.send_service_request("i", b"q")
    assert request != other
    assert [event.get("value") for event in node] == [0, "yes", None]
    told = {"output_id": "i", "data": b"q", "metadata": {"m": 1}, "request_id": request}
    assert node.service_requests[0] == told
    node.send_service_response("o", b"r", {"request_id": "x"})
    sent = {"output_id": "o", "data": b"r", "metadata": {"request_id": "x"}, "request_id": "x"}
    assert node.service_responses_sent == [sent]


def test_a_reply_comes_before_the_stop() -> None:
    node = MockNode([("i", 0)], service_responses={"i": ["yes"]})
    request = node.send_service_request("i", b"q")
    assert list(node) == [given(0, {}), given("yes", {"request_id": request}), STOP]


def test_a_mock_node_says_what_it_was_told() -> None:
    node = MockNode([], dataflow_descriptor={"nodes": []}, dataflow_id="d", node_config={"inputs": {}})
    assert (node.dataflow_descriptor(), node.dataflow_id(), node.node_config()) == ({"nodes": []}, "d", {"inputs": {}})
    assert (node.is_restart(), node.restart_count()) == (False, 0)
    again = MockNode([], is_restart=True, restart_count=2)
    assert (again.is_restart(), again.restart_count(), again.dataflow_id()) == (True, 2, "")
    assert node.timestamp().tzinfo is not None


def test_what_needs_a_run_is_not_mocked() -> None:
    node = MockNode([])
    with pytest.raises(NotImplementedError, match="send_output"):
        node.send_output_raw("o", 5)
    with pytest.raises(NotImplementedError, match="constructor"):
        node.merge_external_events(iter([]))


# --- commands -------------------------------------------------------------------------------------------------------


def test_a_failed_run_is_a_runtime_error(tmp_path: Path) -> None:
    (tmp_path / "flow.yml").write_text("nodes: [{id: n, path: missing.py, nonsense: 1}]")
    with pytest.raises(RuntimeError, match="failed with exit code"):
        commands.run(str(tmp_path / "flow.yml"))


def test_what_a_run_cannot_do_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="uv=True"):
        commands.run("flow.yml", uv=True)
    with pytest.raises(NotImplementedError, match="there is no coordinator"):
        commands.build("flow.yml", coordinator_addr="127.0.0.1")
