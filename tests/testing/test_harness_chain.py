"""ChainHarness: operators that share a process and a transaction, as a run has them (tests/node/test_chain_host.py)."""

from __future__ import annotations

from typing import Any

import pytest

from noderuntime import Operator, Source, Status, stateful_map
from noderuntime.merges import Add
from noderuntime.testing import ChainHarness, Harness


class Parse(Operator):
    """Sends each number of a text."""

    def on_event(self, event: Any, ctx: Any) -> Any:
        if event["type"] == "INPUT":
            ctx.save_state("last", event["value"].encode())
            for word in event["value"].split():
                ctx.send_output("n", int(word))
        elif event["type"] == "STOP":
            ctx.send_output("n", 1000)


class Sums(Operator):
    def __init__(self) -> None:
        self.total = 0

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.total = int(state["total"])

    def on_event(self, event: Any, ctx: Any) -> Any:
        if event["type"] == "INPUT":
            if event["value"] in ctx.config.get("poison", ()):
                raise ValueError(f"{event['value']} is poison")
            self.total += event["value"]
            ctx.save_state("total", str(self.total).encode())
            ctx.send_output("sum", [self.total, event["uid"], event["attempt"]])
        else:
            ctx.send_output("sum", [event["type"], event["id"]])


class Lines(Source):
    def produce(self, position: Any, ctx: Any) -> Any:
        number = position or 0
        if number == 3:
            return Source.END
        ctx.send_output("text", f"{number} {number + 10}")
        return number + 1


@stateful_map(output="sum", key=lambda value: value % 2, default=int)
def parity(key: int, value: int, state: int) -> tuple[int, int]:
    return state + value, state + value


def chain(**more: Any) -> ChainHarness:
    return ChainHarness({"parse": Parse, "sums": Sums}, {"sums/n": "parse/n"}, **more)


def test_what_an_event_makes_inside_is_one_commit() -> None:
    h = chain()
    h.send("parse/text", "1 2")
    assert h.outputs("sums/sum") == [[1, "parse/n#1", 1], [3, "parse/n#2", 1]]
    assert h.outputs("parse/n") == [1, 2]
    assert (h.state("parse"), h.state("sums")) == ({"last": b"1 2"}, {"total": b"3"})
    assert h.commits == 1


def test_a_new_life_of_all_restores_what_is_committed() -> None:
    h = chain()
    h.send("parse/text", "1 2")
    h.crash()
    assert h.incarnation == 2
    h.send("parse/text", "4", crashes=1)
    assert h.outputs("sums/sum")[2:] == [[7, "parse/n#3", 2]] and h.incarnation == 3


def test_a_failure_inside_leaves_nothing_behind_and_names_the_operator_that_raised() -> None:
    h = chain(config={"sums": {"poison": [13]}})
    h.send("parse/text", "1")
    with pytest.raises(ValueError, match="13 is poison"):
        h.send("parse/text", "2 13")
    assert (h.failed, h.state("parse"), h.state("sums")) == ("sums", {"last": b"1"}, {"total": b"1"})
    with pytest.raises(ValueError, match="13 is poison"):
        h.redeliver()
    h.send("parse/text", "5")
    assert h.outputs("sums/sum") == [[1, "parse/n#1", 1], [6, "parse/n#2", 1]], "the bad message is skipped"


def test_an_event_that_is_no_message_is_handled_alone_once_it_has_failed() -> None:
    operators = {"lines": Lines, "parse": Parse, "sums": Sums}
    h = ChainHarness(operators, {"parse/text": "lines/text", "sums/n": "parse/n"}, config={"sums": {"poison": [11]}})
    h.produce("lines")
    with pytest.raises(ValueError, match="11"):
        h.produce("lines")
    assert h.outputs("lines/text") == ["0 10"]
    with pytest.raises(ValueError, match="11"):
        h.redeliver()
    assert h.outputs("lines/text") == ["0 10", "1 11"], "the line is committed, its bad message waits inside"
    assert h.outputs("parse/n") == [0, 10, 1, 11]
    assert h.produce("lines") == 3, "the message is skipped, as a dead letter is"
    assert [value[0] for value in h.outputs("sums/sum")] == [0, 10, 11, 13, 25]
    assert h.produce("lines") is Source.END and h.ended("lines")


def test_messages_inside_are_first_in_first_out() -> None:
    seen: list[tuple[str, int]] = []

    class Twice(Operator):
        def on_event(self, event: Any, ctx: Any) -> Any:
            for times in range(2):
                ctx.send_output("out", event["value"] * 10 + times)

    class See(Operator):
        def on_event(self, event: Any, ctx: Any) -> Any:
            seen.append((event["id"], event["value"]))

    links = {"y/in": "x/out", "z/near": "x/out", "z/far": "y/out"}
    h = ChainHarness({"x": Twice, "y": Twice, "z": See}, links)
    h.send("x/in", 1)
    assert seen == [("near", 10), ("near", 11), ("far", 100), ("far", 101), ("far", 110), ("far", 111)]


def test_what_one_stages_in_the_shared_kvs_all_see_and_a_failure_undoes() -> None:
    class Counts(Operator):
        def on_event(self, event: Any, ctx: Any) -> Any:
            ctx.kvs_merge("count", Add(1))
            ctx.kvs_write("seen", str(event["value"]).encode())
            ctx.send_output("out", event["value"])

    class Reads(Operator):
        def on_event(self, event: Any, ctx: Any) -> Any:
            ctx.kvs_merge("count", Add(1))
            ctx.send_output("out", ctx.kvs_read("seen"))
            if event["value"] == 13:
                raise ValueError

    h = ChainHarness({"x": Counts, "y": Reads}, {"y/in": "x/out"})
    h.send("x/in", 1)
    with pytest.raises(ValueError):
        h.send("x/in", 13)
    assert h.outputs("y/out") == [b"1"] and h.kvs["seen"] == b"1" and h.kvs["count"] == b"\x02"
    assert Harness(Sums, kvs=h.kvs).kvs is h.kvs


def test_beyond_a_thousand_messages_of_one_event_they_are_events_of_their_own() -> None:
    h = chain()
    h.send("parse/text", " ".join(["1"] * 1003))
    assert len(h.outputs("sums/sum")) == 1003 and h.outputs("sums/sum")[-1][:2] == [1003, "parse/n#1003"]
    assert h.commits == 1 + 3


def test_a_cycle_goes_round_through_the_input_that_drops() -> None:
    class Down(Operator):
        def on_event(self, event: Any, ctx: Any) -> Any:
            if event["value"]:
                ctx.send_output("out", event["value"] - 1)

    links = {"y/in": "x/out", "x/back": "y/out"}
    h = ChainHarness({"x": Down, "y": Down}, links, drop_oldest=["x/back"])
    h.send("x/in", 5)
    assert h.outputs("x/out") == [4, 2, 0] and h.outputs("y/out") == [3, 1] and h.commits == 3


def test_an_operator_that_ends_closes_its_inputs_inside_and_the_others_continue() -> None:
    class Once(Operator):
        def on_event(self, event: Any, ctx: Any) -> Any:
            ctx.send_output("n", event["value"])
            return Status.STOP

    h = ChainHarness({"once": Once, "sums": Sums}, {"sums/n": "once/n"})
    h.send("once/in", 1)
    h.send("once/in", 2)
    assert h.outputs("sums/sum") == [[1, "once/n#1", 1], ["INPUT_CLOSED", "n"]]
    assert h.ended("once") and not h.ended("sums")
    h.send("sums/other", 5)
    assert h.outputs("sums/sum")[-1][0] == 6


def test_what_an_operator_sends_at_its_stop_is_handled_before_the_end_of_its_receiver() -> None:
    h = chain()
    h.stop(id="ALL_INPUTS_CLOSED")
    assert h.outputs("sums/sum") == [
        [1000, "parse/n#1", 1], ["INPUT_CLOSED", "n"], ["STOP", "ALL_INPUTS_CLOSED"],
    ]  # fmt: skip


def test_ticks_and_the_time_that_passes() -> None:
    class Clock(Operator):
        def on_event(self, event: Any, ctx: Any) -> Any:
            ctx.send_output("text", str(int(event["metadata"]["due"].timestamp()) % 1000))

    h = ChainHarness({"clock": Clock, "parse": Parse}, {"parse/text": "clock/text"})
    h.tick("clock/each")
    h.advance(5)
    h.tick("clock/each")
    first, second = h.outputs("parse/n")
    assert second - first == 5


def test_closed_inputs_and_keyed_operators() -> None:
    h = ChainHarness({"parse": Parse, "parity": parity}, {"parity/n": "parse/n"})
    h.send("parse/text", "1 2 3")
    h.crash()
    h.send("parse/text", "4")
    h.close_input("parse/text")
    assert h.outputs("parity/sum") == [1, 2, 4, 6]
    assert [sent.metadata for sent in h.sent("parity")] == [{"key": 1}, {"key": 0}, {"key": 1}, {"key": 0}]


@pytest.mark.parametrize(
    ("links", "more", "text"),
    [
        ({"sums/n": "pasre/n"}, {}, "there is no operator 'pasre'"),
        ({"n": "parse/n"}, {}, "write it as NODE/INPUT"),
        ({"sums/n": "parse/n"}, {"drop_oldest": ["sums/m"]}, "'sums/m', which is no input of `links`"),
    ],
)
def test_a_place_that_is_not_there_is_named(links: dict[str, str], more: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ChainHarness({"parse": Parse, "sums": Sums}, links, **more)
