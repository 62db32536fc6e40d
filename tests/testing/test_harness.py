"""The Harness keeps the contract of a run: one event, one transaction."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

from noderuntime import (
    Context,
    KeyTooLong,
    NodeRuntimeError,
    Operator,
    OperatorError,
    RevisionConflict,
    Source,
    Status,
    UnknownOutput,
    ValueTooLarge,
)
from noderuntime.api.events import Event
from noderuntime.merges import Add, Union
from noderuntime.testing import Harness


class RunningSum(Operator):
    def __init__(self) -> None:
        self.total = 0

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.total = int(state["total"])

    def on_event(self, event: Event, ctx: Context) -> Status:
        if event["type"] == "INPUT":
            self.total += event["value"]
            ctx.save_state("total", b"%d" % self.total)
            ctx.send_output("sum", self.total, {"unit": "m"})
        return Status.CONTINUE


class Echo:
    """Any class with on_event will do. Keeps its events; sends what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event, ctx: Context) -> None:
        seen.append(event)
        if event.type == "INPUT":
            ctx.send_output("out", event.value, event.metadata)


seen: list[Event] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


def handling(handler: Any) -> Any:
    """An operator class whose on_event is `handler(event, ctx)`."""
    return type("Handling", (Operator,), {"on_event": lambda self, event, ctx: handler(event, ctx)})


def test_state_outlives_a_crash() -> None:
    h = Harness(RunningSum)
    h.send("n", 3)
    h.crash()
    h.send("n", 4)
    assert h.outputs("sum") == [3, 7]
    assert h.state["total"] == b"7"


def test_a_crash_before_the_commit_has_no_effect_and_the_event_comes_again() -> None:
    h = Harness(RunningSum)
    h.send("n", 3)
    h.send("n", 4, crashes=3)
    assert h.outputs("sum") == [3, 7]


def test_a_redelivered_event_has_the_same_uid_and_a_higher_attempt() -> None:
    Harness(Echo).send("in", 1, crashes=2)
    assert [event.attempt for event in seen] == [1, 2, 3]
    assert len({event.uid for event in seen}) == 1


def test_what_a_raising_handler_staged_is_discarded() -> None:
    def handler(event: Event, ctx: Context) -> None:
        ctx.send_output("out", 1)
        ctx.save_state("k", b"1")
        ctx.kvs_write("k", b"1")
        if event.attempt == 1:
            raise ValueError("no luck")

    h = Harness(handling(handler))
    with pytest.raises(ValueError, match="no luck"):
        h.send("in", 0)
    assert (h.outputs("out"), h.state, dict(h.kvs)) == ([], {}, {})
    h.redeliver()
    assert (h.outputs("out"), h.state, dict(h.kvs)) == ([1], {"k": b"1"}, {"k": b"1"})
    assert h.incarnation == 2


def test_after_an_exception_the_next_event_meets_a_new_life() -> None:
    class Fragile(RunningSum):
        def on_event(self, event: Event, ctx: Context) -> Status:
            status = super().on_event(event, ctx)
            if event["value"] == 13:
                raise RuntimeError("thirteen")
            return status

    h = Harness(Fragile)
    h.send("n", 1)
    with pytest.raises(RuntimeError):
        h.send("n", 13)
    h.send("n", 2)
    assert h.outputs("sum") == [1, 3]


def test_nothing_is_redelivered_after_a_commit() -> None:
    h = Harness(RunningSum)
    h.send("n", 1)
    with pytest.raises(RuntimeError, match="committed"):
        h.redeliver()


def test_reads_see_staged_writes_first() -> None:
    found: list[Any] = []

    def handler(event: Event, ctx: Context) -> None:
        ctx.save_state("a", b"new")
        ctx.delete_state("b")
        ctx.kvs_write("s", b"new")
        ctx.kvs_delete("t")
        ctx.kvs_merge("n", Add(2))
        ctx.kvs_merge("n", Add(3))
        found.append((ctx.load_state("a"), ctx.load_state("b", b"gone"), ctx.state()))
        found.append((ctx.kvs_read("s"), ctx.kvs_read("t", b"gone"), ctx.kvs_read("n")))

    h = Harness(handling(handler), state={"a": b"old", "b": b"old"}, kvs={"s": b"old", "t": b"old"})
    h.send("in", 0)
    assert found == [(b"new", b"gone", {"a": b"new"}), (b"new", b"gone", b"\x05")]
    assert (h.state, dict(h.kvs)) == ({"a": b"new"}, {"n": b"\x05", "s": b"new"})


def test_staging_copies_so_that_a_buffer_may_be_reused() -> None:
    def handler(event: Event, ctx: Context) -> None:
        array = np.zeros(3)
        message = [1]
        buffer = bytearray(b"a")
        ctx.send_output("out", array)
        ctx.send_output("out", message)
        ctx.save_state("k", buffer)
        array[:] = 9
        message.append(9)
        buffer[:] = b"9"

    h = Harness(handling(handler))
    h.send("in", 0)
    assert h.outputs("out")[0].tolist() == [0, 0, 0]
    assert h.outputs("out")[1] == [1]
    assert h.state["k"] == b"a"


def test_values_travel_as_between_two_nodes() -> None:
    h = Harness(Echo)
    sent = dt.datetime(2024, 5, 6, tzinfo=dt.UTC)
    h.send("in", {"a": [1, 2.5, None], "when": sent}, {"key": "k"})
    h.send("in", np.arange(6).reshape(2, 3))
    plain, array = h.outputs("out")
    assert plain == {"a": [1, 2.5, None], "when": sent}
    assert h.sent[0].metadata == {"key": "k"}
    assert array.shape == (2, 3)
    assert not array.flags.writeable
    with pytest.raises(ValueError):
        array[0, 0] = 1


def test_a_value_that_cannot_travel_is_a_type_error_that_names_its_type() -> None:
    h = Harness(handling(lambda event, ctx: ctx.send_output("out", {1, 2})))
    with pytest.raises(TypeError, match="set"):
        h.send("in", 0)
    with pytest.raises(TypeError, match="object"):
        h.send("in", object())


def test_an_undeclared_output_is_an_error_that_names_the_declared_ones() -> None:
    h = Harness(RunningSum, outputs=["total"])
    with pytest.raises(UnknownOutput, match="its outputs are: total"):
        h.send("n", 1)
    with pytest.raises(UnknownOutput):
        h.outputs("sum")


def test_ctx_itself_sends() -> None:
    h = Harness(handling(lambda event, ctx: ctx("out", 1, {"a": 2})))
    h.send("in", 0)
    assert [(sent.value, sent.metadata, sent.uid) for sent in h.sent] == [(1, {"a": 2}, "operator/out#1")]


@pytest.mark.parametrize("call", ["save_state", "kvs_write"])
def test_keys_and_values_have_limits(call: str) -> None:
    def attempt(key: Any, value: Any) -> None:
        Harness(handling(lambda event, ctx: getattr(ctx, call)(key, value))).send("in", 0)

    attempt("k" * 508, b"v" * 1_000_000)
    with pytest.raises(KeyTooLong) as long:
        attempt("ü" * 255, b"")
    assert (long.value.size_bytes, long.value.limit_bytes) == (510, 508)
    with pytest.raises(ValueTooLarge) as large:
        attempt("k", b"v" * 1_000_001)
    assert (large.value.size_bytes, large.value.limit_bytes) == (1_000_001, 1_000_000)
    with pytest.raises(TypeError, match="must be bytes, not str"):
        attempt("k", "text")
    with pytest.raises(TypeError, match="str, not int"):
        attempt(1, b"")


def test_a_merge_that_does_not_fit_is_a_type_error_at_the_call() -> None:
    h = Harness(handling(lambda event, ctx: ctx.kvs_merge("k", Add(1))), kvs={"k": b"hello"})
    with pytest.raises(TypeError, match="stored by a merge"):
        h.send("in", 0)
    h = Harness(handling(lambda event, ctx: ctx.kvs_merge("k", 1)))
    with pytest.raises(TypeError, match=r"one of noderuntime\.merges, not int"):
        h.send("in", 0)


def test_two_operators_may_share_one_kvs() -> None:
    adds = Harness(handling(lambda event, ctx: ctx.kvs_merge("names", Union({event.value}))))
    reads = Harness(
        handling(lambda event, ctx: ctx.send_output("out", ctx.kvs_read("names"))), kvs=adds.kvs
    )
    adds.send("in", "a")
    reads.send("in", 0)
    assert reads.outputs("out") == [b"\x91\xa1a"]


def test_a_shared_key_with_a_time_to_live_goes_when_its_time_has_come() -> None:
    h = Harness(handling(lambda event, ctx: ctx.kvs_write("k", b"v", ttl=5)))
    h.send("in", 0)
    h.advance(4.9)
    assert "k" in h.kvs
    h.advance(0.1)
    assert "k" not in h.kvs
    assert len(h.kvs) == 0


def test_a_tick_has_a_due_time_and_no_uid() -> None:
    h = Harness(Echo)
    h.advance(1.5)
    h.tick("clock")
    (event,) = seen
    assert (event.id, event.value, event.metadata["due"]) == ("clock", None, h.now)
    assert "uid" not in event


def test_notices_arrive_as_in_a_run() -> None:
    h = Harness(Echo)
    h.close_input("in")
    h.notice("NODE_RESTARTED", "camera", "killed by signal 9")
    h.stop()
    assert [dict(event) for event in seen] == [
        {"type": "INPUT_CLOSED", "id": "in"},
        {"type": "NODE_RESTARTED", "id": "camera", "error": "killed by signal 9"},
        {"type": "STOP", "id": "MANUAL"},
    ]
    assert h.ended


def test_an_operator_that_has_ended_gets_nothing_more() -> None:
    h = Harness(handling(lambda event, ctx: Status.STOP))
    assert h.send("in", 1) is Status.STOP
    assert h.ended
    assert h.send("in", 2) is Status.STOP
    assert h.sent == []


def test_a_nonsense_return_value_is_an_operator_error() -> None:
    with pytest.raises(OperatorError, match=r"on_event returned 5; return Status\.CONTINUE"):
        Harness(handling(lambda event, ctx: 5)).send("in", 0)


def test_an_operator_may_take_ctx_when_it_is_made_but_not_send_yet() -> None:
    class Configured(Echo):
        def __init__(self, ctx: Context) -> None:
            super().__init__()
            self.limit = ctx.config["limit"]
            assert ctx.incarnation == 1 and not ctx.is_restart

    class Hasty(Echo):
        def __init__(self, ctx: Context) -> None:
            ctx.send_output("out", 1)

    Harness(Configured, config={"limit": 3})
    with pytest.raises(NodeRuntimeError, match="no event in hand"):
        Harness(Hasty)


def test_a_class_that_wants_more_than_ctx_and_an_instance_are_refused() -> None:
    class Wants:
        def __init__(self, ctx: Context, limit: int) -> None:
            pass

    with pytest.raises(TypeError, match="takes no argument, or one"):
        Harness(Wants)
    with pytest.raises(TypeError, match="give its class"):
        Harness(RunningSum())  # type: ignore[arg-type]


class Countdown(Source):
    def produce(self, position: Any, ctx: Context) -> Any:
        left = 3 if position is None else position
        if left == 0:
            return Source.END
        ctx.send_output("n", left)
        return left - 1


def test_a_source_goes_on_behind_its_last_committed_output() -> None:
    h = Harness(Countdown)
    h.produce()
    h.crash()
    h.produce(crashes=2)
    h.produce_all()
    assert h.outputs("n") == [3, 2, 1]
    assert h.ended
    assert h.produce() is Source.END


def test_an_idle_source_is_asked_again_from_the_same_position() -> None:
    class Waits(Source):
        def produce(self, position: Any, ctx: Context) -> Any:
            ready = ctx.kvs_read("ready")
            return Source.IDLE if ready is None else [int(ready)]

    h = Harness(Waits)
    assert h.produce() is Source.IDLE
    assert (h.position, h.ended) == (None, False)
    h.kvs["ready"] = b"7"
    h.produce()
    assert h.position == [7]


def test_a_source_that_forgets_to_return_is_told_so() -> None:
    class Forgetful(Source):
        def produce(self, position: Any, ctx: Context) -> Any:
            ctx.send_output("n", 1)

    h = Harness(Forgetful)
    with pytest.raises(OperatorError, match="produce: produce returned None"):
        h.produce()
    assert h.sent == []


def test_an_allocated_array_is_filled_and_sent() -> None:
    def handler(event: Event, ctx: Context) -> None:
        array = ctx.allocate((2, 3), "float32")
        array[:] = event.value
        ctx.send_output("out", array)

    h = Harness(handling(handler))
    h.send("in", 7)
    (sent,) = h.outputs("out")
    assert (sent.dtype, sent.tolist()) == (np.float32, [[7, 7, 7], [7, 7, 7]])


def test_ctx_kvs_takes_effect_at_once_even_if_the_handler_then_raises() -> None:
    revisions: list[int] = []

    def handler(event: Event, ctx: Context) -> None:
        revisions.append(ctx.kvs.set("k", b"1", expect=0))
        with pytest.raises(RevisionConflict):
            ctx.kvs.set("k", b"2", expect=0)
        ctx.kvs.merge("n", Add(1))
        with ctx.kvs.snapshot() as view:
            assert [view.get_or(key, b"") for key in ("k", "other")] == [b"1", b""]
            assert list(view.get_root()) == ["k", "n"]
        assert ctx.kvs.get("k").revision == revisions[0]
        assert ctx.kvs.delete("n") and not ctx.kvs.delete("n")
        raise ValueError

    h = Harness(handling(handler))
    with pytest.raises(ValueError):
        h.send("in", 0)
    assert dict(h.kvs) == {"k": b"1"}


class Watcher:
    def __init__(self, ctx: Any) -> None:
        ctx.kvs.watch("limit/")

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] == "KVS_UPDATE":
            ctx.send_output("out", [event["id"], event["value"], event["revision"] > 0])


def test_changes_of_watched_keys_come_as_events_when_the_test_says_so() -> None:
    h = Harness(Watcher, kvs={"limit/old": b"1"})
    assert h.update() == 0
    h.kvs["limit/a"] = b"1"
    h.kvs["limit/a"] = b"2"
    h.kvs["other"] = b"3"
    del h.kvs["limit/old"]
    assert h.update() == 2
    h.crash()
    assert h.update() == 0
    assert h.outputs("out") == [["limit/a", b"2", True], ["limit/old", None, True]]
