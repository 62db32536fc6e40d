"""dora's operators, as our host of operators calls them."""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.dora_nodes import FACTS

from noderuntime import Source, Status
from noderuntime.api import values
from noderuntime.api.events import input_event as input_event_of
from noderuntime.api.events import kvs_update, notice, tick_event
from noderuntime.dora.operator_adapter import DoraStatus, adapt
from noderuntime.errors import UnknownOutput
from noderuntime.ipc.rundir import ENV_DORA

NS = 1_700_000_000_000_000_000


class Ctx:
    """What an operator sees of the runtime."""

    node_id = "n"

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, Any]] = []
        self.saved: dict[str, bytes] = {}
        self.log = logging.getLogger("n")

    def send_output(self, output: str, value: Any, metadata: Any = None) -> None:
        if output != "out":
            raise UnknownOutput("n", output, ["out"])
        self.sent.append((output, value, metadata))

    def save_state(self, key: str, value: bytes) -> None:
        self.saved[key] = value

    def load_state(self, key: str, default: bytes | None = None) -> bytes | None:
        return self.saved.get(key, default)


@pytest.fixture(autouse=True)
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    file = tmp_path / "dora.json"
    file.write_text(json.dumps(FACTS))
    monkeypatch.setenv(ENV_DORA, str(file))
    yield


def made(on_event: Any, **attributes: Any) -> tuple[Any, Ctx]:
    """An adapted operator with that `on_event`, and its ctx."""
    ctx = Ctx()
    factory: Any = adapt(type("Operator", (), {"on_event": on_event, **attributes}))
    return factory(ctx), ctx


def message(value: Any, metadata: dict[str, Any] | None = None) -> Any:
    return input_event_of("in", value, metadata or {}, "a/out", NS, 1)


def test_an_operator_gets_doras_events_and_sends_by_call() -> None:
    seen = []

    def on_event(self: Any, dora_event: Any, send: Any) -> DoraStatus:
        seen.append(dora_event)
        send("out", pa.array([1, 2]), dora_event["metadata"])
        send("out", b"ab")
        return DoraStatus.CONTINUE

    operator, ctx = made(on_event)
    assert operator.on_event(message(np.array([5]), {"k": 1}), ctx) is Status.CONTINUE
    assert sorted(seen[0]) == ["id", "kind", "metadata", "type", "value"]
    assert seen[0]["value"].to_pylist() == [5]
    (_, first, told), (_, second, nothing) = ctx.sent
    assert list(values.decode(*values.encode(first))) == [1, 2]
    assert told["k"] == 1
    assert "timestamp" in told
    assert bytes(values.decode(*values.encode(second))) == b"ab"
    assert nothing is None


def test_an_operator_knows_the_dataflow() -> None:
    operator, _ = made(lambda self, event, send: DoraStatus.CONTINUE, __init__=lambda self: None)
    assert operator._operator.dataflow_descriptor == FACTS["descriptor"]


class Other(enum.Enum):
    CONTINUE = 0
    STOP = 1


@pytest.mark.parametrize(
    ("returned", "status"),
    [
        (DoraStatus.CONTINUE, Status.CONTINUE),
        (DoraStatus.STOP, Status.STOP),
        (DoraStatus.STOP_ALL, Status.STOP_ALL),
        (Other.STOP, Status.STOP),
    ],
)
def test_the_status_is_a_member_of_any_enum(returned: Any, status: Status) -> None:
    operator, ctx = made(lambda self, event, send: returned)
    assert operator.on_event(message(b""), ctx) is status


@pytest.mark.parametrize("returned", [None, 0, 1, "CONTINUE", enum.Enum("Far", {"X": 7}).X], ids=repr)  # type: ignore[attr-defined]
def test_any_other_return_value_fails_the_event(returned: Any) -> None:
    operator, ctx = made(lambda self, event, send: returned)
    with pytest.raises(TypeError, match="on_event must have enum return value"):
        operator.on_event(message(b""), ctx)


def test_which_events_an_operator_sees() -> None:
    seen = []

    def on_event(self: Any, event: Any, send: Any) -> DoraStatus:
        seen.append(event)
        return DoraStatus.CONTINUE

    operator, ctx = made(on_event)
    events = [
        notice("INPUT_CLOSED", "in"), notice("INPUT_RECOVERED", "in"), notice("NODE_RESTARTED", "a", ""),
        notice("NODE_RESTARTED", "hidden", ""), kvs_update("k", b"v", 1), notice("STOP", "ALL_INPUTS_CLOSED"),
        notice("STOP", "MANUAL"),
    ]  # fmt: skip
    for event in events:
        assert operator.on_event(event, ctx) is Status.CONTINUE
    kinds = [("INPUT_CLOSED", "in"), ("INPUT_RECOVERED", "in"), ("NODE_RESTARTED", "a"), ("STOP", "MANUAL")]
    assert seen == [{"type": kind, "id": id, "kind": "dora"} for kind, id in kinds]
    operator.on_event(tick_event("tick", "timer/millis/5", NS), ctx)
    assert seen[-1]["value"].type == pa.null()
    assert list(seen[-1]["metadata"]) == ["timestamp"]


def test_state_is_saved_by_way_of_send_output() -> None:
    def on_event(self: Any, event: Any, send: Any) -> DoraStatus:
        send.save_state("k", b"v")
        assert send.load_state("k") == b"v"
        return DoraStatus.CONTINUE

    operator, ctx = made(on_event, restore_state=lambda self, state: setattr(self, "state", state))
    operator.on_event(message(b""), ctx)
    assert ctx.saved == {"k": b"v"}
    operator.restore_state({"k": b"v"})
    assert operator._operator.state == {"k": b"v"}


def test_an_operator_without_restore_state_has_none() -> None:
    operator, _ = made(lambda self, event, send: DoraStatus.CONTINUE)
    assert not hasattr(operator, "restore_state")
    assert not hasattr(operator, "produce")


def test_an_operator_without_inputs_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ctx, "node_id", "a")
    operator, ctx = made(lambda self, event, send: DoraStatus.CONTINUE)
    assert isinstance(operator.produce(None, ctx), type(Source.IDLE))


def test_wrong_sends_of_an_operator(caplog: pytest.LogCaptureFixture) -> None:
    raised = []

    def on_event(self: Any, event: Any, send: Any) -> DoraStatus:
        send("nope", b"")
        wrong = {"k": 2**64}
        for call in (
            lambda: send("out", [1]), lambda: send(5, b""), lambda: send("out"), lambda: send("out", b"", wrong),
            lambda: send("out", b"", 5),
        ):  # fmt: skip
            try:
                call()
            except Exception as error:
                raised.append((type(error), str(error)))
        send(output="out", data=b"", metadata={"k": None})
        return DoraStatus.CONTINUE

    operator, ctx = made(on_event)
    operator.on_event(message(b""), ctx)
    assert raised[0] == (RuntimeError, "invalid `data` type, must be `PyBytes` or arrow array")
    assert raised[1] == (TypeError, "'int' object is not an instance of 'str'")
    assert raised[2] == (TypeError, "SendOutputCallback.__call__() missing 1 required positional argument: 'data'")
    assert raised[3][0] is RuntimeError
    assert raised[3][1].startswith("failed to parse metadata\n")
    assert raised[4] == (TypeError, "'int' object is not an instance of 'dict'")
    assert ctx.sent[0][2] == {"k": "None"}
    ignored, coerced = [record.getMessage() for record in caplog.records]
    assert ignored == "Ignoring output `nope` not in node's output list."
    assert coerced.startswith("unsupported metadata value type for key `k`")


def test_a_class_without_on_event_is_refused() -> None:
    factory: Any = adapt(type("Operator", (), {}))
    with pytest.raises(TypeError, match=r"Operator has no on_event\(self, dora_event, send_output\)"):
        factory(Ctx())
