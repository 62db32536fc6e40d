"""`dora.Node` in real programs, with a runtime that the test plays."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.dora_nodes import begin, said
from support.fake_runtime import Run
from support.procs import wait_until

from noderuntime.dora.node import uuid7
from noderuntime.ipc import pulse
from noderuntime.ipc.protocol import Bye, Stop

Make = Callable[..., Run]


def between(size: int = 1000, policy: str = "backpressure", **more: Any) -> dict[str, Any]:
    """a feeds the node n, and c takes what it sends."""
    fed = {"source": "a/out", "queue_size": size, "queue_policy": policy}
    return {
        "a": {"outputs": ["out"]},
        "n": {"inputs": {"in": fed}, "outputs": ["out"], **more},
        "c": {"inputs": {"in": {"source": "n/out", "queue_size": 1000}}},
    }


def fed(run: Make, program: str, *values: Any, **nodes: Any) -> list[Any]:
    """What a program says that gets `values` and then the end of its input."""
    r = run(between(**nodes))
    child = begin(r, program)
    r.send("a", *values, ends=True)
    assert child.wait() == 0, child
    return said(child)


CLOSED = {"type": "INPUT_CLOSED", "id": "in", "kind": "dora"}
STOP = {"type": "STOP", "id": "ALL_INPUTS_CLOSED", "kind": "dora"}


def given(value: list[int]) -> dict[str, Any]:
    return {"type": "INPUT", "id": "in", "kind": "dora", "value": value, "metadata": {}}


# --- events ---------------------------------------------------------------------------------------------------------


def test_all_data_come_before_the_end(run: Make) -> None:
    heard = fed(run, "for event in Node(): say(plain(event))", b"a", np.array([1, 2]))
    assert heard == [[given([97])], [given([1, 2])], [CLOSED], [STOP]]


def test_a_slow_node_that_leaves_at_stop_has_lost_nothing(run: Make) -> None:
    program = """
for event in Node():
    time.sleep(0.002)
    if event["type"] == "STOP": break
    if event["type"] == "INPUT": say(event["value"][0].as_py())
"""
    assert fed(run, program, *(np.array([n]) for n in range(50))) == [[n] for n in range(50)]


def test_after_the_end_there_is_nothing_more(run: Make) -> None:
    program = """
import asyncio
node = Node()
for event in node: pass
say(node.next(), node.next(timeout=5), node.try_recv(), node.drain(), node.is_empty(), node.next())
async def more(): return await node.recv_async(timeout=5)
say(asyncio.run(more()))
try: next(node)
except StopIteration: say("stop")
say(node.send_output("out", b"late"))
"""
    assert fed(run, program, b"") == [[None, None, None, [], True, None], [None], ["stop"], [None]]


def test_what_was_sent_after_the_end_arrives(run: Make) -> None:
    r = run(between())
    begin(r, 'node = Node()\nfor event in node: pass\nnode.send_output("out", b"late")')
    r.send("a", ends=True)
    assert bytes(r.take("c")[0]) == b"late"


def test_a_timeout_is_an_event(run: Make) -> None:
    program = """
node = Node()
say(node.next(timeout=0.01))
say(node.next(timeout=0))
say(node.next(0.0))
import asyncio
async def ask(): return await asyncio.gather(node.recv_async(0.01), node.recv_async(timeout=0.01))
say(*asyncio.run(ask()))
"""
    timed_out = {"type": "ERROR", "error": "Timeout event stream error: Receiver timed out", "kind": "dora"}
    child = begin(run(between()), program)
    assert child.wait() == 0, child
    assert said(child) == [[timed_out], [timed_out], [timed_out], [timed_out, timed_out]]


@pytest.mark.parametrize(
    ("timeout", "error", "text"),
    [
        ("-1", "ValueError", "invalid timeout of -1 seconds: cannot convert float seconds to Duration: value is neg"),
        ('float("nan")', "ValueError", "invalid timeout of NaN seconds: cannot convert float seconds to Duration"),
        ('float("inf")', "ValueError", "invalid timeout of inf seconds: cannot convert float seconds to Duration"),
        ("1e30", "ValueError", "invalid timeout of 1000000000000000000000000000000 seconds: cannot convert float"),
        ('"1"', "TypeError", "must be real number, not str"),
    ],
)
def test_a_timeout_is_a_number_from_0(run: Make, timeout: str, error: str, text: str) -> None:
    ((told,),) = fed(run, f"node = Node()\nsay(refused(lambda: node.next(timeout={timeout})))")
    assert told[0] == error
    assert told[1].startswith(text)


def test_events_can_be_looked_for_without_waiting(run: Make) -> None:
    program = """
node = Node()
say(node.try_recv(), node.drain(), node.is_empty())
node.send_output("out", b"go")
while node.is_empty(): time.sleep(0.001)
say(node.is_empty(), plain(node.try_recv()))
node.send_output("out", b"go")
while len(taken := node.drain()) < 1: time.sleep(0.001)
say(plain(taken[0]))
"""
    r = run(between())
    child = begin(r, program)
    r.take("c")
    r.send("a", b"1")
    r.take("c")
    r.send("a", b"2", ends=True)
    assert child.wait() == 0, child
    assert said(child) == [[None, [], True], [False, given([49])], [given([50])]]


def test_is_empty_takes_nothing(run: Make) -> None:
    program = """
node = Node()
while node.is_empty(): time.sleep(0.001)
say([node.is_empty() for _ in range(5)], plain(node.next()))
"""
    assert fed(run, program, b"1") == [[[False] * 5, given([49])]]


def test_the_end_is_seen_by_a_node_that_asks_whether_there_is_anything(run: Make) -> None:
    program = """
node, seen = Node(), []
while "STOP" not in seen:
    if node.is_empty(): time.sleep(0.001)
    else: seen.append(node.next()["type"])
say(seen)
"""
    assert fed(run, program, b"1") == [[["INPUT", "INPUT_CLOSED", "STOP"]]]


def test_drain_takes_the_end_too(run: Make) -> None:
    program = """
node, seen = Node(), []
while "STOP" not in seen:
    seen += [event["type"] for event in node.drain()]
say(seen, node.drain(), node.next())
"""
    assert fed(run, program, b"1", b"2") == [[["INPUT", "INPUT", "INPUT_CLOSED", "STOP"], [], None]]


def test_a_tick_is_an_input_without_values(run: Make) -> None:
    nodes = {"n": {"inputs": {"tick": "timer/millis/5"}, "outputs": ["out"]}, "c": {"inputs": {"in": "n/out"}}}
    program = """
event = Node().next()
say(plain(event), str(event["value"].type), list(event["metadata"]))
"""
    child = begin(run(nodes), program)
    assert child.wait() == 0, child
    tick = {"type": "INPUT", "id": "tick", "kind": "dora", "value": [], "metadata": {}}
    assert said(child) == [[tick, "null", ["timestamp"]]]


def test_a_failed_sender_is_told_of_as_dora_tells_it(run: Make) -> None:
    r = run(between())
    child = begin(r, "for event in Node(): say(event)")
    r.play("a")
    r.end("a", "exited with code 3")
    r.ring("n")
    wait_until(lambda: len(said(child)) >= 1, str(child))
    failed = {"source_node_id": "a", "error": "exited with code 3", "affected_input_ids": ["in"]}
    assert said(child)[0] == [{"type": "NODE_FAILED", "id": "a", "kind": "dora", "value": failed}]


def test_metadata_carry_the_time_of_sending(run: Make) -> None:
    program = """
import datetime
event = Node().next()
sent = event["metadata"]["timestamp"]
say(sorted(event["metadata"]), sent.tzinfo is datetime.timezone.utc, isinstance(sent, datetime.datetime))
"""
    assert fed(run, program, b"1") == [[["timestamp"], True, True]]


def test_received_arrays_stay_valid_when_later_events_have_come(run: Make) -> None:
    program = """
node, kept = Node(), []
for event in node:
    if event["type"] == "INPUT": kept.append(event["value"])
say([(len(array), array[0].as_py(), array[-1].as_py()) for array in kept])
"""
    large = [np.full(300_000, n, np.uint8) for n in range(5)]
    assert fed(run, program, *large) == [[[[300_000, n, n] for n in range(5)]]]


def test_ctrl_c_is_noticed_while_a_node_waits(run: Make) -> None:
    program = """
node = Node()
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
node.send_output("out", b"waiting")
try: node.next(timeout=100)
except KeyboardInterrupt: say("interrupted")
"""
    r = run(between())
    child = begin(r, program)
    r.take("c")
    wait_until(lambda: child.pulse.phase == pulse.WAITING)
    child.signal(signal.SIGINT)
    assert child.wait() == 0, child
    assert said(child) == [["interrupted"]]


def test_a_stop_ends_the_stream(run: Make) -> None:
    r = run(between())
    child = begin(r, "for event in Node(): say(event)")
    child.send(Stop("MANUAL", 5.0))
    assert child.wait() == 0, child
    assert said(child) == [[{"type": "STOP", "id": "MANUAL", "kind": "dora"}]]
    assert child.has_said(Bye)


def test_what_comes_from_elsewhere_is_merged(run: Make) -> None:
    program = """
node = Node()
say(refused(lambda: node.merge_external_events(3)))
node.merge_external_events(iter([1, "two"]))
say(node.next(), node.next())
"""
    merged = [{"type": "EXTERNAL", "kind": "external", "value": value} for value in (1, "two")]
    child = begin(run(between()), program)
    assert child.wait() == 0, child
    (((error, text),), heard) = said(child)
    assert heard == merged
    assert error == "TypeError"
    assert "takes an iterable" in text


# --- sending --------------------------------------------------------------------------------------------------------


def test_an_undeclared_output_is_a_warning(run: Make) -> None:
    program = """
node = Node()
say(node.send_output("nope", b""), len(node.send_service_request("nope", b"")))
"""
    *records, returned = fed(run, program)
    assert returned == [None, 36]
    warned = "WARN", "Ignoring output `nope` not in node's output list.", "dora"
    assert [(record["level"], record["message"], record["target"]) for record in records] == [warned] * 2


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        ('"out"', "TypeError", "Node.send_output() missing 1 required positional argument: 'data'"),
        ('"out", None', "RuntimeError", "invalid `data` type, must be `PyBytes` or arrow array"),
        ('"nope", [1]', "RuntimeError", "invalid `data` type, must be `PyBytes` or arrow array"),
        ('5, b""', "TypeError", "'int' object is not an instance of 'str'"),
        ('"out", b"", 5', "TypeError", "'int' object is not an instance of 'dict'"),
        ('"out", b"", {1: 2}', "RuntimeError", "Parsing metadata keys"),
        ('"out", b"", {"a": 2**64}', "OverflowError", "Python int too large to convert to C long"),
    ],
)
def test_a_wrong_send_raises_what_dora_raises(run: Make, call: str, error: str, text: str) -> None:
    assert fed(run, f"node = Node()\nsay(refused(lambda: node.send_output({call})))") == [[[error, text]]]


def test_a_coerced_value_of_metadata_is_warned_of(run: Make) -> None:
    (record,) = fed(run, 'Node().send_output(output_id="out", data=b"", metadata={"k": None})')
    assert record["level"] == "WARN"
    text = "unsupported metadata value type for key `k`; coercing to its string representation: None"
    assert record["message"] == text


def test_a_message_is_a_copy_of_the_senders_buffer(run: Make) -> None:
    program = """
import numpy as np
node, memory = Node(), np.arange(4)
node.send_output("out", pa.array(memory))
memory[:] = 9
"""
    r = run(between())
    child = begin(r, program)
    assert child.wait() == 0, child
    assert list(r.take("c")[0]) == [0, 1, 2, 3]


def test_a_raw_sample_is_filled_in_place(run: Make) -> None:
    program = """
node = Node()
with node.send_output_raw("out", 3) as buffer:
    view = memoryview(buffer)
    assert view.format == "B" and not view.readonly and bytes(view) == bytes(3)
    view[1] = 7
    view.release()
sample = node.send_output_raw("out", 2, {"k": 1})
with sample.as_memoryview() as view: view[:] = b"ab"
sample.send()
say(refused(sample.send), refused(sample.as_memoryview), refused(sample.__enter__))
open_view = node.send_output_raw("out", 1)
view = open_view.as_memoryview()
say(refused(open_view.send)[1].startswith("Failed to send: Cannot send:"))
view.release()
open_view.send()
node.send_output_raw("out", 0).send()
node.send_output_raw("out", 5)
try:
    with node.send_output_raw("out", 5): raise ValueError
except ValueError: pass
say(refused(lambda: node.send_output_raw("nope", 1)), refused(lambda: node.send_output_raw("out", -1)))
node.send_output("out", b"end")
"""
    r = run(between())
    child = begin(r, program)
    assert [bytes(value) for value in r.take("c", 5)] == [b"\0\7\0", b"ab", b"\0", b"", b"end"]
    assert child.wait() == 0, child
    sent = ["RuntimeError", "Cannot access buffer: the sample has already been sent"]
    assert said(child) == [
        [["RuntimeError", "Sample has already been sent"], sent, sent],
        [True],
        [
            ["RuntimeError", "Output `nope` not in node's output list."],
            ["OverflowError", "can't convert negative int to unsigned"],
        ],
    ]


def test_threads_send_while_the_main_thread_waits(run: Make) -> None:
    program = """
import threading
node = Node()
def send(mark):
    for n in range(20): node.send_output("out", pa.array([mark, n]))
threads = [threading.Thread(target=send, args=(mark,)) for mark in range(4)]
for thread in threads: thread.start()
say(node.next()["type"])
for thread in threads: thread.join()
"""
    r = run(between())
    child = begin(r, program)
    taken = [list(value) for value in r.take("c", 80)]
    for mark in range(4):
        assert [n for other, n in taken if other == mark] == list(range(20))
    r.send("a", ends=True)
    assert child.wait() == 0, child
    assert said(child) == [["INPUT_CLOSED"]]


# --- services -------------------------------------------------------------------------------------------------------


def test_a_request_gets_an_id_that_the_response_carries(run: Make) -> None:
    program = """
node = Node()
say(node.send_service_request("out", b"q"), node.send_service_request("out", b"q", {"request_id": "own", "k": 1}))
say(node.send_service_response("out", b"r", {"request_id": "x"}), node.send_service_response("out", b"r", {}))
respond = node.send_service_response
say(refused(lambda: respond("out", b"", None)), refused(lambda: respond("out", b"")))
"""
    heard = fed(run, program)
    records = [item["message"] for item in heard if isinstance(item, dict)]
    ids, responses, wrong = [item for item in heard if isinstance(item, list)]
    assert [uuid.UUID(id).version for id in ids] == [7, 7]
    assert ids[0] != ids[1]
    assert responses == [None, None]
    assert wrong == [
        ["TypeError", "'None' is not an instance of 'dict'"],
        ["TypeError", "Node.send_service_response() missing 1 required positional argument: 'metadata'"],
    ]
    assert records == [
        "send_service_request: overwriting caller-provided 'request_id' with auto-generated value",
        "send_service_response: metadata is missing 'request_id' — response will not be matched to a request",
    ]


def test_a_uuid_of_version_7_begins_with_the_time() -> None:
    made = uuid.UUID(uuid7(1_700_000_000_123_456_789, bytes(range(10))))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == 1_700_000_000_123
    assert len({uuid7(5, bytes([n] * 10)) for n in range(256)}) == 256


# --- facts ----------------------------------------------------------------------------------------------------------


def test_a_node_knows_its_dataflow(run: Make) -> None:
    program = """
import datetime
node = Node()
say(node.dataflow_id(), node.dataflow_descriptor(), node.node_config(), node.is_restart(), node.restart_count())
now = node.timestamp()
say(now.tzinfo is datetime.timezone.utc, abs((now - datetime.datetime.now(datetime.timezone.utc)).total_seconds()) < 60)
say(iter(node) is node)
"""
    assert fed(run, program) == [
        [
            "6a1d6a4e-0000-4000-8000-000000000001",
            {"nodes": [{"id": "n"}], "deploy": None},
            {"inputs": {"in": "a/out"}, "outputs": ["out"]},
            False,
            0,
        ],
        [True, True],
        [True],
    ]


def test_a_node_counts_its_restarts(run: Make) -> None:
    r = run(between())
    for life in range(3):
        child = begin(r, "node = Node()\nsay(node.is_restart(), node.restart_count())\nraise SystemExit(3)")
        assert child.wait() == 3
        assert said(child) == [[life > 0, life]]


def test_a_second_node_is_the_same_node_again(run: Make) -> None:
    program = """
first, second = Node(), Node("other", daemon_port=1)
say(first is not second, plain(second.next()), first.next()["type"])
"""
    assert fed(run, program, b"1") == [[True, given([49]), "INPUT_CLOSED"]]


def test_a_fork_of_a_node_is_not_the_node(run: Make) -> None:
    program = """
import os
node = Node()
if not os.fork():
    say(refused(Node))
    os._exit(0)
os.wait()
say(node.next()["type"])
"""
    ((error, text),), kind = fed(run, program)
    assert error == "RuntimeError"
    assert text.endswith("This process is a fork of the node's, which remains the node.")
    assert kind == ["INPUT_CLOSED"]


def test_outside_a_dataflow_there_is_no_node() -> None:
    from noderuntime.dora.node import Node

    with pytest.raises(RuntimeError, match=r"^Could not initiate node from environment variable"):
        Node()
    with pytest.raises(RuntimeError, match="has no such node"):
        Node("no-such-node-anywhere")
    with pytest.raises(TypeError, match="'int' object is not an instance of 'str'"):
        Node(3)  # type: ignore[arg-type]


def test_nodes_share_a_store(run: Make) -> None:
    program = """
node = Node()
say(node.kvs_read("k"), node.kvs_read("k", "d"))
node.kvs_write("k", b"v")
say(node.kvs_read("k") == b"v")
"""
    assert fed(run, program) == [[None, "d"], [True]]


@pytest.mark.parametrize(
    "call",
    ['extension_store("a", "b", b"c")', 'extension_load("a", "b", remove=True)', 'extension_drop("a", "b")',
     'drain_dropped_extension_keys("a")'],
)  # fmt: skip
def test_the_extension_store_is_refused_with_what_to_use_instead(run: Make, call: str) -> None:
    (((error, text),),) = fed(run, f"node = Node()\nsay(refused(lambda: node.{call}))")
    assert error == "NotImplementedError"
    assert "node.kvs_" in text


# --- logs -----------------------------------------------------------------------------------------------------------


def test_a_log_record_is_a_line_of_json(run: Make) -> None:
    program = """
node = Node()
node.log("error", "m", "t", {"a": "b"})
node.log("weird", "m")
for level in ("error", "warn", "info", "debug", "trace"): getattr(node, f"log_{level}")(level)
say(refused(lambda: node.log(3, "x")), refused(lambda: node.log("info", "x", None, {"a": 1})))
"""
    *records, wrong = fed(run, program)
    shown = [(r["level"], r["message"], r["target"], r["fields"]) for r in records]
    assert shown[:2] == [("ERROR", "m", "t", {"a": "b"}), ("INFO", "m", None, None)]
    assert [level for level, message, *_ in shown[2:]] == ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"]
    assert all(record["timestamp"].endswith("Z") for record in records)
    assert wrong == [["TypeError", "'int' object is not an instance of 'str'"]] * 2


def test_logging_keeps_its_levels(run: Make) -> None:
    program = """
import logging
named = logging.getLogger("x.y")
node = Node()
named.error("of %s", "one")
logging.info("i")
logging.debug("not shown")
print("printed")
logging.warning("w")
"""
    shown = [(r["level"], r["message"], r["target"]) for r in fed(run, program)]
    assert shown == [("ERROR", "of one", "x.y"), ("INFO", "i", "root"), ("WARN", "w", "root")]


def test_what_a_program_configures_itself_stays(run: Make) -> None:
    program = """
import logging
logging.basicConfig(format='["%(message)s"]', stream=sys.stdout)
Node()
logging.warning("w")
"""
    assert fed(run, program) == [["w"]]


def test_a_level_may_be_configured_later(run: Make) -> None:
    program = "import logging\nNode()\nlogging.basicConfig(level=logging.DEBUG)\nlogging.debug('d')\nlogging.error('e')"
    assert [(r["level"], r["message"]) for r in fed(run, program)] == [("DEBUG", "d"), ("ERROR", "e")]


# --- flush ----------------------------------------------------------------------------------------------------------


def test_flush_drops_what_waits(run: Make) -> None:
    program = """
node = Node()
for n in range(20): node.send_output("out", pa.array([n]), {"flush": True} if n == 15 else {"flush": 1})
node.next()
"""
    r = run(between())
    child = begin(r, program)
    r.send("a", b"")
    assert child.wait() == 0, child
    assert [list(value) for value in r.take("c", 5)] == [[n] for n in range(15, 20)]


def test_flush_drops_what_a_node_has_read_and_not_taken(run: Make) -> None:
    """A node reads many messages at a time from a backpressure input, and hands out one."""
    sender = """
node = Node()
for n in range(10): node.send_output("out", pa.array([n]))
node.next()
node.send_output("out", pa.array([99]), {"flush": True})
"""
    receiver = """
from pathlib import Path
node = Node()
say(node.next()["value"][0].as_py())
node.send_output("out", b"one")
while not Path("flushed").exists(): time.sleep(0.001)
say([event["value"][0].as_py() for event in node if event["type"] == "INPUT"])
"""
    r = run(
        {
            "n": {"inputs": {"in": "a/out"}, "outputs": ["out"]},
            "a": {"inputs": {"go": "c/out"}, "outputs": ["out"]},
            "c": {"outputs": ["out"]},
            "d": {"inputs": {"in": "n/out"}},
        }
    )
    for wiring in r.wirings.values():
        object.__setattr__(wiring, "with_failures", True)  # as in every dataflow of dora
    sends, takes = begin(r, sender, "a"), begin(r, receiver, "n")
    r.take("d")
    r.send("c", b"", ends=True)
    assert sends.wait() == 0, sends
    r.end("a")
    r.ring("n")
    (r.folder / "flushed").touch()
    assert takes.wait() == 0, takes
    assert said(takes) == [[0], [[99]]]
