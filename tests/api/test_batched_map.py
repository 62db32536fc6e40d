"""Batches in a Harness: many records in one message, one transaction, one message out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noderuntime import KeyedOperator, stateful_map
from noderuntime.testing import Harness


@stateful_map(output="sum", key=lambda r: r["k"], default=int, batch=True)
def sums(key: str, record: dict[str, Any], state: int) -> tuple[int, int]:
    state += record["n"]
    return state, state


ROWS = [{"k": "a", "n": 1}, {"k": "b", "n": 2}, {"k": "a", "n": 3}]
MORE = [{"k": "b", "n": 4}, {"k": "c", "n": 5}]


def as_array(rows: list[dict[str, Any]]) -> Any:
    return np.array([(row["k"], row["n"]) for row in rows], [("k", "U1"), ("n", "i8")])


FORMS = {
    "list": list,
    "structured array": as_array,
    "table": pa.Table.from_pylist,
    "record batch": pa.RecordBatch.from_pylist,
}


@pytest.mark.parametrize("form", FORMS)
def test_what_the_records_of_a_batch_send_is_one_message_with_their_keys(form: str) -> None:
    h = Harness(sums, outputs=["sum"])
    for rows in (ROWS, MORE):
        h.send("in", FORMS[form](rows))
    assert h.outputs("sum") == [[1, 2, 4], [6, 5]]
    assert [sent.metadata for sent in h.sent] == [{"keys": ["a", "b", "a"]}, {"keys": ["b", "c"]}]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_takes_effect_once_wherever_the_process_ends(form: str) -> None:
    h = Harness(sums)
    for rows in (ROWS, MORE):
        h.send("in", FORMS[form](rows), crashes=2)
        h.crash()
    assert h.outputs("sum") == [[1, 2, 4], [6, 5]]


def test_the_states_of_a_batch_are_those_of_its_records_one_by_one() -> None:
    single = stateful_map(sums.function, output="sum", key=lambda r: r["k"], default=int)
    alone, together = Harness(single), Harness(sums)
    together.send("in", ROWS + MORE)
    for row in ROWS + MORE:
        alone.send("in", row)
    assert together.state == alone.state
    assert together.outputs("sum") == [alone.outputs("sum")]


def test_a_chain_of_batches_is_a_chain_of_single_records() -> None:
    """The values that come out of one may go into the next."""
    doubled = stateful_map(
        lambda key, value, state: (value * 2 + state, state + 1), output="out", default=int, batch=True
    )
    first, second = Harness(sums), Harness(doubled)
    first.send("in", ROWS)
    second.send("in", first.outputs("sum")[0])
    assert second.outputs("out") == [[2, 5, 10]]


def test_a_record_that_fails_leaves_nothing_of_its_batch() -> None:
    def careful(key: str, record: dict[str, Any], state: list[int]) -> Any:
        state.append(record["n"])
        if record["n"] < 0:
            raise ValueError("below 0")
        return len(state), state

    operator = stateful_map(careful, output="n", key=lambda r: r["k"], default=list, batch=True)
    h = Harness(operator)
    h.send("in", ROWS)
    before = dict(h.state)
    with pytest.raises(ValueError, match="below 0") as raised:
        h.send("in", [*MORE, {"k": "a", "n": -1}, {"k": "a", "n": 1}])
    assert raised.value.__notes__ == ["in record 2 of a batch of 4"]
    assert h.state == before
    assert h.outputs("n") == [[1, 1, 2]]
    h.send("in", [{"k": "a", "n": 0}])
    assert h.outputs("n")[-1] == [3]


def test_within_a_batch_a_key_may_be_dropped_and_come_again() -> None:
    joined = stateful_map(
        lambda key, value, state: (state + value, None if len(state + value) >= 6 else state + value),
        output="text", key=len, default=str, batch=True,
    )  # fmt: skip
    h = Harness(joined)
    h.send("in", ["foo", "bar", "hello", "world", "baz"])
    assert h.outputs("text") == [["foo", "foobar", "hello", "helloworld", "baz"]]
    assert list(h.state) == ["int:3"]


def test_records_that_send_nothing_are_left_out_and_a_batch_of_those_sends_nothing() -> None:
    odd = stateful_map(lambda key, n, state: (n if n % 2 else None, n), output="odd", key=lambda n: n % 3, batch=True)
    h = Harness(odd)
    for batch in ([1, 2, 3], [2, 4], []):
        h.send("in", batch)
    assert [(sent.value, sent.metadata) for sent in h.sent] == [([1, 3], {"keys": [1, 0]})]


def test_keys_of_any_kind_may_stand_in_one_batch() -> None:
    keys = [True, 1, "1", 1.0, b"1", None, [1], [True], {"a": 1}, 0.0, -0.0]
    count = stateful_map(
        lambda key, value, state: (state + 1, state + 1), output="n", key=lambda v: v, default=int, batch=True
    )
    h = Harness(count)
    h.send("in", keys + keys)
    assert h.outputs("n") == [[1] * len(keys) + [2] * len(keys)]
    assert repr(h.sent[0].metadata) == repr({"keys": keys + keys})
    pairs = stateful_map(count.function, output="n", key=lambda v: (v, v), default=int, batch=True)
    h = Harness(pairs)
    h.send("in", ["a", "b", "a"])
    assert h.sent[0].metadata == {"keys": [["a", "a"], ["b", "b"], ["a", "a"]]}
    assert h.outputs("n") == [[1, 1, 2]]


def test_rows_of_an_array_may_become_states() -> None:
    @stateful_map(output="out", batch=True)
    def total(key: None, row: Any, state: Any) -> Any:
        state = row if state is None else state + row
        return state.tolist(), state

    h = Harness(total)
    h.send("in", np.arange(6).reshape(3, 2))
    h.crash()
    h.send("in", np.ones((1, 2), int))
    assert h.outputs("out") == [[[0, 1], [2, 4], [6, 9]], [[7, 10]]]


def test_event_time_goes_on_from_record_to_record() -> None:
    counts = stateful_map(
        lambda key, value, state: (state + 1, state + 1),
        output="n", key=lambda v: v[0], default=int, ttl=10, time=lambda event: event["value"][1], batch=True,
    )  # fmt: skip
    h = Harness(counts)
    h.send("in", [["a", 0], ["a", 10], ["b", 21], ["a", 5], ["b", 31], ["b", 42]])
    assert h.outputs("n") == [[1, 2, 1, 1, 2, 1]]


@pytest.mark.parametrize("value", [None, 5, "text", b"bytes", {"k": "a", "n": 1}], ids=repr)
def test_a_message_that_is_no_batch_is_an_error_that_says_so(value: Any) -> None:
    h = Harness(sums)
    with pytest.raises(TypeError, match=r"sums takes batches, and on its input 'in' came .*no batch of records"):
        h.send("in", value)


def test_a_tick_is_no_batch_and_no_error() -> None:
    h = Harness(sums)
    h.send("in", ROWS)
    h.tick()
    assert len(h.sent) == 1


def test_batch_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="batch=100"):
        stateful_map(output="n", batch=100)  # type: ignore[arg-type]


class Sessions(KeyedOperator):
    default = int
    batch = True

    def key_of(self, event: Any) -> Any:
        return event["value"]["user"]

    def time_of(self, event: Any) -> float:
        return float(event["value"]["t"])

    def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
        ctx.set_timer(ctx.now + 30)
        ctx.send_output("place", [event["uid"], event["index"]])
        return state + 1

    def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> None:
        ctx.send_output("session", {"user": key, "clicks": state, "ended": due})


def test_a_keyed_operator_gets_an_event_for_each_record_and_timers_fire_between_them() -> None:
    clicks = [{"user": user, "t": t} for user, t in (("a", 0), ("b", 5), ("a", 10), ("c", 36), ("c", 100))]
    h = Harness(Sessions)
    h.send("in", clicks[:2])
    h.crash()
    h.send("in", clicks[2:], crashes=1)
    assert h.outputs("session") == [
        {"user": "b", "clicks": 1, "ended": 35.0},
        {"user": "a", "clicks": 2, "ended": 40.0},
        {"user": "c", "clicks": 1, "ended": 66.0},
    ]
    assert h.outputs("place")[-3:] == [["test/in#2", 0], ["test/in#2", 1], ["test/in#2", 2]]
