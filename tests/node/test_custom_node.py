"""`Node` in real programs, as the runtime and the neighbours see it."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_runtime import Run
from support.kit import commit, staged
from support.procs import wait_until

from noderuntime import Node, NodeRuntimeError, NotRunning
from noderuntime.ipc import pulse
from noderuntime.ipc.protocol import EXIT_FENCED, Bye, Hello, Ready, Refused, Stop
from noderuntime.ipc.rundir import ENV_NODE, ENV_RUN_DIR
from noderuntime.ipc.store_records import NodeOpen
from noderuntime.node import inbox
from noderuntime.space import keys
from noderuntime.space.environment import scan
from noderuntime.store.remote_nodes import RemoteNode

Make = Callable[..., Run]


def between(size: int = 1000, policy: str = "backpressure", **more: Any) -> dict[str, Any]:
    """a feeds the custom node n, and c takes what it sends."""
    fed = {"source": "a/out", "queue_size": size, "queue_policy": policy}
    taken = {"source": "n/out", "queue_size": size}
    return {
        "a": {"outputs": ["out"]},
        "n": {"inputs": {"in": fed}, "outputs": ["out"], **more},
        "c": {"inputs": {"in": taken}},
    }


def in_hand(child: Any) -> list[list[int]]:
    return [list(hand) for hand in child.pulse.hands]


ECHO = """
from noderuntime import Node
for event in (node := Node()):
    node.send_output("out", [event["type"], event["id"], event.get("value")])
"""


# --- one thread -----------------------------------------------------------------------------------------------------


def test_a_node_takes_events_and_sends_until_all_its_inputs_have_ended(run: Make) -> None:
    r = run(between())
    child = r.begun("n", ECHO)
    r.send("a", 1, 2, ends=True)
    expected = [
        ["INPUT", "in", 1],
        ["INPUT", "in", 2],
        ["INPUT_CLOSED", "in", None],
        ["STOP", "ALL_INPUTS_CLOSED", None],
    ]
    assert r.take("c", 4) == expected
    assert child.wait() == 0
    assert child.has_said(Ready) == [Ready(1)]
    assert child.has_said(Bye) == [Bye(True, "ALL_INPUTS_CLOSED")]
    assert child.hello is not None and (child.hello.kind, child.hello.life) == ("node", 1)
    assert r.queued("n", "in") == [] and r.figures("n")["inputs"]["in"]["taken"] == 2


def test_an_input_that_a_failure_closed_does_not_end_the_node(run: Make) -> None:
    r = run(between())
    child = r.begun("n", ECHO)
    r.send("a", 1)
    r.end("a", error="broken")
    r.ring("n")
    told = [["INPUT", "in", 1], ["NODE_FAILED", "a", None], ["INPUT_CLOSED", "in", None]]
    assert r.take("c", 3) == told
    wait_until(lambda: child.pulse.phase == pulse.WAITING)
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert r.take("c") == [["STOP", "MANUAL", None]]


def test_what_a_node_sends_after_its_message_was_taken_away_goes_out_all_the_same(run: Make) -> None:
    r = run(between())
    program = ECHO.replace("    node.send", "    import os, time\n    while event.get('value') == 1 and not "
                           "os.path.exists('goes on'): time.sleep(0.001)\n    node.send")  # fmt: skip
    child = r.begun("n", program)
    r.send("a", 1, 2, ends=True)
    wait_until(lambda: child.pulse.hands)
    r.steal("n", "in", 0)
    (r.folder / "goes on").touch()
    assert r.take("c", 2) == [["INPUT", "in", 1], ["INPUT", "in", 2]]
    assert child.wait() == 0
    assert r.figures("n")["inputs"]["in"]["taken"] == 1


def test_a_stop_wakes_a_node_that_waits_and_is_its_last_event(run: Make) -> None:
    r = run(between())
    child = r.begun("n", ECHO)
    wait_until(lambda: child.pulse.phase == pulse.WAITING)
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert r.take("c") == [["STOP", "MANUAL", None]]
    assert child.has_said(Bye) == [Bye(False, "")]


def test_what_a_node_knows_of_itself(run: Make) -> None:
    r = run(between(config={"start": 7}))
    program = """
from noderuntime import Node
n = Node()
n.send_output('out', [n.node_id, n.config['start'], n.incarnation, n.is_restart])
"""
    r.begun("n", program).wait()
    r.begun("n", program, cause="it ended").wait()
    assert r.take("c", 3) == [["n", 7, 1, False], ("NODE_RESTARTED", "n", "it ended"), ["n", 7, 2, True]]


def test_an_event_is_acknowledged_when_the_next_one_is_asked_for(run: Make) -> None:
    r = run(between())
    child = r.begun(
        "n",
        """
import signal; from noderuntime import Node
node = Node()
node.next(); node.next(); signal.pause()
""",
    )
    r.send("a", 1, 2)
    wait_until(lambda: r.queued("n", "in") == [2] and in_hand(child))  # the second may come when the first is gone
    assert len(in_hand(child)) == 1
    assert r.figures("n")["inputs"]["in"]["taken"] == 1


def test_a_killed_node_gets_its_event_again_with_the_attempt_raised(run: Make) -> None:
    r = run(between())
    program = """
from noderuntime import Node
node = Node()
event = node.next()
node.send_output('out', [event.value, event.attempt, event.uid])
node.flush()
node.kvs_read('x')
import signal; signal.pause()
"""
    child = r.begun("n", program)
    r.send("a", 5)
    assert r.take("c") == [[5, 1, "a/out#1"]]
    child.kill()
    hands = in_hand(child)
    r.begun("n", program, hands=hands)
    assert r.take("c") == [[5, 2, "a/out#1"]]


def test_a_poisonous_event_is_buried_for_custom_nodes_too(run: Make) -> None:
    r = run(between())
    program = """
from noderuntime import Node
for event in (node := Node()):
    if event.get('value') == 'poison': raise ValueError
    node.send_output('out', event.get('value'))
"""
    r.send("a", "poison", "good")
    hands: list[Any] = []
    for _ in range(3):
        child = r.begun("n", program, counts=bool(hands), hands=hands)
        assert child.wait() == 1
        hands = in_hand(child)
        assert len(hands) == 1
    assert r.claim("n", counts=True, hands=hands)["buried"] == "a/out#1"
    r.begun("n", program)
    assert r.take("c") == ["good"]


ENDINGS = {
    "close": ("node.close()", True, True),
    "leaving a with": ("with node: pass", True, True),
    "a with and an exception": ("with node: raise ValueError", False, False),
    "an exception": ("raise ValueError", False, False),
    "the end of the program": ("", False, True),
    "a second close": ("node.close(); node.close()", True, True),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_how_a_program_ends_decides_what_is_acknowledged_and_all_it_sent_counts(run: Make, how: str) -> None:
    end, acknowledged, bye = ENDINGS[how]
    r = run(between())
    r.send("a", 1, 2)
    child = r.begun(
        "n",
        f"""
from noderuntime import Node
node = Node()
node.next()
for i in range(5): node.send_output('out', i)
{end}
""",
    )
    child.wait()
    assert r.queued("n", "in") == ([2] if acknowledged else [1, 2])
    assert r.queued("c", "in") == [0, 1, 2, 3, 4]
    assert child.has_said(Bye) == ([Bye(True, "")] if bye else [])


def test_try_next_does_not_wait_and_next_times_out(run: Make) -> None:
    r = run(between())
    program = """
from noderuntime import Node
node = Node()
said = [node.try_next()]
try:
    node.next(timeout=0.01)
except TimeoutError as error:
    said.append(str(error))
print("nothing", flush=True)
said.append(node.next(timeout=None).value)
said.append(node.try_next().value)
said.append(node.try_next())
node.send_output("out", said)
node.next()
"""
    r.begun("n", program)
    wait_until(lambda: "nothing" in r.children[-1].text)
    commit(r.play("a"), staged(r.play("a"), ("out", 1), ("out", 2)))
    r.ring("n")
    assert r.take("c") == [[None, "no event for 'n' within 0.01 seconds", 1, 2, None]]


def test_ticks_come_on_schedule_and_are_events_like_others(run: Make) -> None:
    r = run({"n": {"inputs": {"t": "timer/millis/10"}, "outputs": ["out"]}, "c": {"inputs": {"in": "n/out"}}})
    child = r.begun(
        "n",
        """
from noderuntime import Node
for e in (node := Node()):
    if e.type == 'INPUT': node.send_output('out', e.metadata['due'].timestamp())
""",
    )
    dues = r.take("c", 4)
    assert dues == sorted(set(dues))
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0


def test_an_input_that_falls_silent_closes_and_recovers(run: Make) -> None:
    nodes = between()
    nodes["n"]["inputs"]["in"]["input_timeout"] = 0.3
    r = run(nodes)
    child = r.begun("n", ECHO)
    r.send("a", 1)
    assert r.take("c", 2) == [["INPUT", "in", 1], ["INPUT_CLOSED", "in", None]]
    child.signal(signal.SIGSTOP)
    r.send("a", 2, 3)
    child.signal(signal.SIGCONT)
    assert r.take("c", 3) == [["INPUT_RECOVERED", "in", None], ["INPUT", "in", 2], ["INPUT", "in", 3]]


def test_restarts_of_senders_are_events(run: Make) -> None:
    r = run(between())
    r.begun(
        "n",
        """
from noderuntime import Node
for e in (node := Node()): node.send_output('out', [e.type, e.id, e.error])
""",
    )
    r.play("a")
    r.claim("a", cause="it was killed")
    r.ring("n")
    assert r.take("c") == [["NODE_RESTARTED", "a", "it was killed"]]


def test_of_a_dropping_input_a_node_takes_the_newest_there_is(run: Make) -> None:
    r = run(between(size=2, policy="drop_oldest"))
    program = """
from noderuntime import Node
node = Node()
for _ in range(3):
    node.send_output('out', node.next().value)
    node.flush()
    while not node.kvs_read('go'): pass
"""
    r.begun("n", program)
    r.send("a", 1)
    assert r.take("c") == [1]
    r.send("a", 2, 3, 4)
    r.ask("state_set", scope="shared", key="go", value=b"1")
    assert r.take("c", 2) == [3, 4]


# --- sending --------------------------------------------------------------------------------------------------------


def test_sends_are_committed_in_groups_and_in_order(run: Make) -> None:
    r = run(between())
    child = r.begun(
        "n",
        """
from noderuntime import Node
with Node() as node:
    for i in range(900): node.send_output('out', i)
""",
    )
    child.wait()
    assert r.queued("c", "in") == list(range(900))
    assert child.pulse.commits < 450


def test_what_was_sent_is_committed_soon_though_the_program_does_something_else(run: Make) -> None:
    r = run(between())
    r.begun(
        "n",
        """
from noderuntime import Node
import signal
node = Node()
for i in range(10): node.send_output('out', i)
signal.pause()
""",
    )
    assert r.take("c", 10) == list(range(10))


def test_acknowledgements_of_a_busy_node_are_committed_in_groups(run: Make) -> None:
    r = run(between(size=1000))
    r.send("a", *range(900), ends=True)
    child = r.begun("n", "from noderuntime import Node\nfor event in Node(): pass")
    assert child.wait() == 0
    assert r.figures("n")["inputs"]["in"]["taken"] == 900
    assert child.pulse.commits < 40


def test_what_was_handled_is_acknowledged_soon_though_the_program_does_something_else(run: Make) -> None:
    r = run(between())
    r.send("a", *range(10))
    r.begun(
        "n",
        """
from noderuntime import Node
import signal
node = Node()
for _ in range(5): node.next()
signal.pause()
""",
    )
    wait_until(lambda: r.figures("n")["inputs"]["in"]["taken"] == 4)
    assert r.queued("n", "in") == [4, 5, 6, 7, 8, 9]


def test_flush_returns_when_what_was_sent_is_committed(run: Make) -> None:
    r = run(between())
    r.begun(
        "n",
        """
from noderuntime import Node
node = Node()
for i in range(5): node.send_output('out', i)
node.flush()
print('flushed', flush=True)
node.next()
""",
    )
    child = r.children[-1]
    wait_until(lambda: "flushed" in child.text)
    assert r.queued("c", "in") == [0, 1, 2, 3, 4]


def test_a_node_waits_for_room_and_goes_on(run: Make) -> None:
    r = run(between(size=3))
    child = r.begun(
        "n",
        """
from noderuntime import Node
node = Node()
for i in range(500): node.send_output('out', i)
""",
    )
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM)
    assert r.take("c", 500) == list(range(500))
    assert child.wait() == 0


def test_a_node_that_got_room_is_not_said_to_wait_for_it(run: Make) -> None:
    r = run(between(size=1))
    child = r.begun(
        "n",
        """
from noderuntime import Node
import signal
node = Node()
for i in range(3): node.send_output('out', i)
node.flush()
print('done', flush=True)
signal.pause()
""",
    )
    assert r.take("c", 3) == [0, 1, 2]
    wait_until(lambda: "done" in child.text)
    wait_until(lambda: child.pulse.phase == pulse.WAITING)  # another thread may be on its way to say so


def test_a_stopped_node_gives_up_what_nobody_has_room_for_and_keeps_the_event_it_follows_from(run: Make) -> None:
    r = run(between(size=2))
    program = """
from noderuntime import Node
for e in (node := Node()):
    for i in range(5): node.send_output('out', [e.get('value'), i])
"""
    r.send("a", "x")
    child = r.begun("n", program)
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM)
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert child.has_said(Bye) == [Bye(False, "")]
    assert r.queued("n", "in") == ["x"]  # it comes again


def test_a_draining_node_waits_for_room_because_its_receivers_go_on(run: Make) -> None:
    r = run(between(size=2))
    program = """
from noderuntime import Node
for e in (node := Node()):
    for i in range(5): node.send_output('out', [e.get('value'), i])
"""
    r.send("a", "x")
    child = r.begun("n", program)
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM)
    child.send(Stop("MANUAL", 10.0, True))
    assert r.take("c", 10) == [*(["x", i] for i in range(5)), *([None, i] for i in range(5))]
    assert child.wait() == 0
    assert r.queued("n", "in") == []


BAD_SENDS = {
    "node.send_output('nowhere', 1)": "UnknownOutput",
    "node.send_output('out', {1})": "TypeError",
    "node.send_output('out', bytes(3 << 20))": "ValueTooLarge",
    "node.save_state('k', b'')": "StateNotAvailable",
    "node.load_state('k')": "StateNotAvailable load_state: saving and restoring state belong to operators",
    "node.load_state()": "StateNotAvailable",
    "node.restore_state({})": "StateNotAvailable restore_state: saving and restoring state belong to operators",
    "node.restore_state()": "StateNotAvailable",
    "node.delete_state('k')": "StateNotAvailable",
    "node.state()": "StateNotAvailable",
    "node.kvs_write('k', 'text')": "TypeError",
    "node.kvs_write('k' * 600, b'')": "KeyTooLong",
    "node.close(); node.send_output('out', 1)": "NodeRuntimeError",
    "node.close(); node.next()": "NodeRuntimeError",
    "node.close(); node.kvs_read('k')": "NodeRuntimeError",
}


@pytest.mark.parametrize("call", BAD_SENDS)
def test_what_a_program_does_wrongly_is_an_error_at_the_call(run: Make, call: str) -> None:
    r = run(between())
    child = r.begun(
        "n",
        f"""
from noderuntime import Node
node = Node()
try:
    {call}
except Exception as error:
    print(type(error).__name__, error)
""",
    )
    assert child.wait() == 0
    assert child.text.startswith(BAD_SENDS[call]), child.text
    assert r.queued("c", "in") == []


def test_the_shared_store_is_immediate_and_behind_what_was_sent(run: Make) -> None:
    r = run(between())
    program = """
from noderuntime import Node
from noderuntime.merges import Add
node = Node()
node.send_output("out", "before")
node.kvs_write("k", b"v")
said = [node.kvs_read("k"), node.kvs_read("none", b"d")]
node.kvs_delete("k")
node.kvs_merge("n", Add(2)); node.kvs_merge("n", Add(3))
revision = node.kvs.set("c", b"1", expect=0)
try:
    node.kvs.set("c", b"2", expect=0)
except Exception as error:
    said.append([type(error).__name__, error.found == revision])
with node.kvs.snapshot() as view:
    said.append([view.get_or("k", b"gone"), view.get("c").value, sorted(view.get_root())])
node.send_output("out", said)
node.next()
"""
    r.begun("n", program)
    expected = [b"v", b"d", ["RevisionConflict", True], [b"gone", b"1", ["c", "n"]]]
    assert r.take("c", 2) == ["before", expected]
    assert r.shared() == {"c": b"1", "n": b"\x05"}


def test_a_signal_handlers_exception_in_a_commit_neither_loses_nor_doubles(run: Make) -> None:
    r = run(between(size=100_000))
    program = """
import random, signal
from noderuntime import Node
node = Node()
armed = False  # a signal that comes at the end of the block may be handled behind it
def interrupt(*_):
    if armed:
        raise InterruptedError
signal.signal(signal.SIGALRM, interrupt)
dice = random.Random(5)
number = 0
def send():  # a function: in Python 3.13 a `try` misses what a signal raises in the condition of its loop
    global number
    while number < 3000:
        number += 1
        node.send_output("out", number)
while number < 3000:
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00005, 0.0006))
        send()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptedError:
        pass
    armed = False
node.close()
"""
    child = r.begun("n", program)
    assert child.wait() == 0, child.text
    found = r.queued("c", "in")
    assert found == sorted(set(found)), "something came twice, or out of order"
    assert len(found) > 1000


# --- threads --------------------------------------------------------------------------------------------------------

THREADS = """
import threading
from noderuntime import Node
node = Node()
def work(name):
    for event in node:
        if event.type == "INPUT":
            node.send_output("out", event.value)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
node.close()
"""


def test_threads_share_the_events_and_each_is_taken_once(run: Make) -> None:
    r = run(between())
    child = r.begun("n", THREADS)
    r.send("a", *range(300))
    r.send("a", ends=True)
    assert sorted(r.take("c", 300)) == list(range(300))
    assert child.wait() == 0, child.text
    assert r.figures("n")["inputs"]["in"]["taken"] == 300


def test_a_stop_reaches_every_waiting_thread(run: Make) -> None:
    r = run(between())
    child = r.begun("n", THREADS)
    wait_until(lambda: child.pulse.phase == pulse.WAITING)
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert child.has_said(Bye) == [Bye(False, "")]


def test_a_thread_that_waits_is_woken_while_another_one_has_the_first_message_in_hand(run: Make) -> None:
    r = run(between())
    program = """
import threading
from noderuntime import Node
node = Node()
meeting = threading.Barrier(3, timeout=20)
def work():
    for event in node:
        if event.type == "INPUT":
            meeting.wait()   # nobody gets further before three have one
            node.send_output("out", event.value)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    child = r.begun("n", program)
    for value in range(3):
        wait_until(lambda value=value: len(in_hand(child)) == value)
        r.send("a", value)
    assert sorted(r.take("c", 3)) == [0, 1, 2]


def test_large_messages_in_hand_do_not_hide_those_behind_them(run: Make) -> None:
    r = run(between())
    program = """
import threading
from noderuntime import Node
node = Node()
meeting = threading.Barrier(2, timeout=20)
def work():
    node.next(); meeting.wait(); node.send_output("out", 1); node.next()
threading.Thread(target=work).start()
work()
"""
    r.send("a", bytes(1_500_000), bytes(1_500_000))
    r.begun("n", program)
    assert r.take("c", 2) == [1, 1]


def test_closing_lets_threads_go_that_wait(run: Make) -> None:
    r = run(between())
    program = """
import threading
from noderuntime import Node
node = Node()
said = []
threads = [threading.Thread(target=lambda: said.append(node.next())) for _ in range(3)]
for thread in threads: thread.start()
node.next()
node.close()
for thread in threads: thread.join()
print(said)
"""
    child = r.begun("n", program)
    r.send("a", 1)
    wait_until(lambda: len(in_hand(child)) == 1 or child.code is not None)
    r.send("a", 2, 3, 4)  # whoever has what: at least one thread goes on to close
    assert child.wait() == 0, child.text


def test_the_event_of_a_thread_that_died_is_not_acknowledged_by_a_new_one(run: Make) -> None:
    r = run(between())
    program = """
import threading
from noderuntime import Node
node = Node()
for _ in range(2):
    thread = threading.Thread(target=lambda: node.send_output("out", node.next().value))
    thread.start(); thread.join()
node.flush()
print("both", flush=True)
node.next()
"""
    r.send("a", 1, 2)
    child = r.begun("n", program)
    wait_until(lambda: "both" in child.text)
    assert r.take("c", 2) == [1, 2]
    assert r.queued("n", "in") == [1, 2] and len(in_hand(child)) == 2


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_tasks_share_the_events_and_each_is_taken_once(run: Make) -> None:
    r = run(between())
    program = """
import asyncio
from noderuntime import Node
async def work(node):
    while (event := await node.next_async()) is not None:
        if event.type == "INPUT":
            await asyncio.sleep(0)
            node.send_output("out", event.value)
async def main():
    with Node() as node:
        await asyncio.gather(*(work(node) for _ in range(5)))
asyncio.run(main())
"""
    child = r.begun("n", program)
    r.send("a", *range(200))
    r.send("a", ends=True)
    assert sorted(r.take("c", 200)) == list(range(200))
    assert child.wait() == 0, child.text


def test_a_task_that_waits_is_woken_while_another_one_has_the_first_message_in_hand(run: Make) -> None:
    r = run(between())
    program = """
import asyncio
from noderuntime import Node
async def work(node, meeting, second):
    event = await node.next_async()
    meeting.append(event.value)
    node.send_output("out", "has one")
    if len(meeting) == 2: second.set()
    await second.wait()
    await node.next_async()
async def main():
    node, meeting, second = Node(), [], asyncio.Event()
    await asyncio.gather(*(work(node, meeting, second) for _ in range(2)))
asyncio.run(main())
"""
    r.begun("n", program)
    r.send("a", 1)
    assert r.take("c") == ["has one"]
    r.send("a", 2)
    assert r.take("c") == ["has one"]


@pytest.mark.parametrize("take", ["asyncio.wait_for(node.next_async(), 20)", "asyncio.create_task(node.next_async())"])
def test_an_event_that_was_taken_by_a_task_of_its_own_is_acknowledged_too(run: Make, take: str) -> None:
    r = run(between(size=3))
    program = f"""
import asyncio
from noderuntime import Node
async def main():
    node = Node()
    for _ in range(20):
        event = await {take}
        node.send_output("out", event.value)
    await node.next_async()
asyncio.run(main())
"""
    r.begun("n", program)
    for value in range(20):
        wait_until(lambda: len(r.queued("n", "in")) < 3)
        r.send("a", value)
        assert r.take("c") == [value]
    wait_until(lambda: r.queued("n", "in") == [])


CANCELS = {
    "before anything comes": ("tasks[0].cancel()", ""),
    "when the bell has rung": ("", "while not node.kvs_read('go'): time.sleep(0.001)"),
    "when it has been woken": (
        "drains = node._waiters.drains",
        "while node._waiters.drains == drains: await asyncio.sleep(0)",
    ),
}


@pytest.mark.parametrize("when", CANCELS)
def test_a_cancelled_wait_takes_nothing_from_the_others(run: Make, when: str) -> None:
    r = run(between())
    before, behind = CANCELS[when]
    program = f"""
import asyncio, time
from noderuntime import Node
async def main():
    node = Node()
    for _ in range(50):
        try:
            await asyncio.wait_for(node.next_async(), 0.0005)
        except TimeoutError:
            pass
    tasks = [asyncio.create_task(node.next_async()) for _ in range(3)]
    await asyncio.sleep(0)  # all of them wait
    {before}
    node.send_output("out", "waiting")
    node.flush()
    {behind}
    tasks[0].cancel()
    done, _ = await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
    assert tasks[0].cancelled()
    node.send_output("out", done.pop().result().value)
    await node.next_async()
asyncio.run(main())
"""
    r.begun("n", program)
    assert r.take("c") == ["waiting"]
    r.send("a", 7)
    r.ask("state_set", scope="shared", key="go", value=b"1")
    assert r.take("c") == [7]


def test_a_stop_wakes_waiting_tasks_and_closing_lets_them_go(run: Make) -> None:
    r = run(between())
    program = """
import asyncio
from noderuntime import Node
async def main():
    node = Node()
    waiting = [asyncio.create_task(node.next_async()) for _ in range(3)]
    await asyncio.sleep(0)
    {act}
    print([event and event.type for event in await asyncio.gather(*waiting)])
asyncio.run(main())
"""
    child = r.begun("n", program.replace("{act}", "node.close()"))
    assert child.wait() == 0, child.text
    assert child.text.strip() == "[None, None, None]"
    child = r.begun("n", program.replace("{act}", ""))
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0, child.text
    assert sorted(child.text.strip("[]\n").split(", ")) == ["'STOP'", "None", "None"]


# --- lives ----------------------------------------------------------------------------------------------------------


def test_a_process_of_an_old_life_commits_nothing_and_ends(run: Make) -> None:
    r = run(between())
    child = r.begun("n", ECHO)
    r.claim("n")
    r.send("a", 1)
    assert child.wait() == EXIT_FENCED
    assert r.queued("c", "in") == [] and r.queued("n", "in") == [1]
    assert "replaced" in child.text


def test_immediate_writes_of_an_old_life_are_fenced_too(run: Make) -> None:
    r = run(between())
    program = """
from noderuntime import Node
node = Node()
print('up', flush=True)
import sys, os
while not os.path.exists('go'): pass
node.kvs_write('k', b'v')
"""
    child = r.begun("n", program)
    wait_until(lambda: "up" in child.text)
    r.claim("n")
    (r.folder / "go").touch()
    assert child.wait() != 0
    assert r.shared() == {}


def test_a_refused_program_ends_without_a_failure_and_a_dynamic_one_is_told_why(run: Make) -> None:
    r = run(between())
    child = r.start("n", ECHO)
    child.expect(Hello)
    child.send(Refused("there is one already"))
    assert child.wait() == EXIT_FENCED
    program = f"""
import os; os.environ.pop('{ENV_NODE}'); from noderuntime import Node, NotRunning
from noderuntime.ipc import runs
from pathlib import Path
from types import SimpleNamespace
found = SimpleNamespace(run_dir=runs.RunDir(Path({str(r.folder)!r})), state="running")
runs.find_run = lambda name, environ: found
try: Node('n', run={r.folder.name!r})
except NotRunning as error: print(error)
"""
    child = r.start("n", program)
    assert child.expect(Hello).kind == "dynamic" and child.expect(Hello).life == 0
    child.send(Refused("there is one already"))
    assert child.wait() == 0
    assert "may not join: there is one already" in child.text


def test_a_fork_of_the_program_does_not_end_the_node(run: Make) -> None:
    r = run(between())
    program = """
import os, sys
from noderuntime import Node
node = Node()
pid = os.fork()
if not pid:
    sys.exit(0)
os.waitpid(pid, 0)
for event in node:
    node.send_output("out", event.get("value"))
"""
    child = r.begun("n", program)
    r.send("a", 1)
    assert r.take("c") == [1]
    assert child.code is None


def test_a_node_outside_of_a_run_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv(ENV_NODE, raising=False)
    monkeypatch.delenv(ENV_RUN_DIR, raising=False)
    with pytest.raises(NotRunning, match="noderuntime run FILE"):
        Node()
    with pytest.raises(TypeError, match="run=NAME"):
        Node("n")
    monkeypatch.setenv("NODERUNTIME_HOME", str(tmp_path))
    with pytest.raises(NotRunning, match="no run 'gone'"):
        Node("n", run="gone")
    assert issubclass(NotRunning, NodeRuntimeError)


def test_the_attempts_record_goes_when_the_event_is_acknowledged(run: Make) -> None:
    r = run(between())
    program = """
from noderuntime import Node
for event in (node := Node()): node.send_output('out', event.attempt)
"""
    r.send("a", 1)
    n = r.begin("n")
    r.begun("n", program, hands=[list(keys.parse_message(r.messages(n)[0][0])[1:])])
    assert r.take("c") == [2]
    wait_until(lambda: r.queued("n", "in") == [])
    with r.space.read() as txn:
        assert list(scan(txn, keys.attempts_prefix(n.node))) == []


def test_a_thread_that_waits_for_payload_room_holds_up_nobody(run: Make) -> None:
    """Others acknowledge meanwhile, which may be what makes room; and the run can be stopped."""
    r = run(between())
    child = r.begun(
        "n",
        """
import threading
from noderuntime import Node, StoreFull
node = Node()
def send():
    try:
        while True: node.send_output("out", bytes(2_000_000))
    except StoreFull:
        print("no room", flush=True)
thread = threading.Thread(target=send)
thread.start()
for event in node:
    print(event.type, flush=True)
thread.join()
node.close()
""",
    )
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM)
    r.send("a", 1, 2, 3)
    wait_until(lambda: r.queued("n", "in") == [], "the acknowledgement of all")
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert sorted(child.text.split("\n")) == ["", "INPUT", "INPUT", "INPUT", "STOP", "no room"]


def test_a_node_passes_over_any_number_of_messages_that_were_dropped_in_hand(run: Make) -> None:
    r = run(between())
    child = r.begun(
        "n",
        """
import sys
from noderuntime import Node
from noderuntime.space.segments import Dropped, SegmentViews
node = Node()
lease, left = SegmentViews.lease, 200
def dropped(views, key, reference):
    global left
    left -= 1
    if left >= 0: raise Dropped
    return lease(views, key, reference)
SegmentViews.lease = dropped
sys.setrecursionlimit(150)
print(len(node.next().value), flush=True)
""",
    )
    r.send("a", bytes(70_000))
    assert child.wait() == 0, child.text
    assert child.text == "70000\n"


def test_a_node_without_lmdb_that_dies_with_a_large_message_in_hand_leaves_nothing_in_the_store(run: Make) -> None:
    r = run(between())
    r.send("a", bytes(200_000))
    gc.collect()  # descriptors of earlier tests must not go while these are counted
    before = len(os.listdir("/proc/self/fd"))
    claim = r.claim("n")
    node = RemoteNode(r.dir, r.space, NodeOpen(r.wirings["n"].to_plain(), claim["incarnation"], os.getpid()))
    message = node.session.next_messages(1)[0]
    assert len(inbox.parts_of(node.session, message)[1]) == 200_000
    node.close()
    assert len(os.listdir("/proc/self/fd")) == before
    (segment,) = r.dir.segments.iterdir()
    with segment.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when somebody still has it


# --- several events at once ---


def test_events_that_were_taken_together_come_again_together(run: Make) -> None:
    program = """
import os, signal
from noderuntime import Node
node = Node()
while not node.is_waiting(): pass
taken = []
while len(taken) < 4: taken = node.take_all() or taken
print([(event.type, event.get("value"), event.get("attempt")) for event in taken], flush=True)
if node.incarnation == 1: os.kill(os.getpid(), signal.SIGKILL)
print(node.next(), node.take_all(), flush=True)
"""
    r = run(between())
    r.send("a", 1, 2, ends=True)
    told = [("INPUT", 1), ("INPUT", 2), ("INPUT_CLOSED", None), ("STOP", None)]
    child = r.begun("n", program)
    assert child.wait() == -signal.SIGKILL
    assert child.text.startswith(str([(kind, value, 1 if value else None) for kind, value in told])[:-1])
    assert r.queued("n", "in")[:2] == [1, 2]
    again = r.begun("n", program)
    assert again.wait() == 0, again
    assert again.text.startswith(str([(kind, value, 1 if value else None) for kind, value in told])[:-1])
    assert again.text.endswith("]\nNone []\n")


# --- events of another origin ---------------------------------------------------------------------------------------


def test_an_event_of_another_origin_is_handed_out_before_what_waits(run: Make) -> None:
    program = """
import threading
from noderuntime import Node
from noderuntime.api.events import external_event
node = Node()
threading.Thread(target=lambda: node.put_event(external_event(5))).start()
event = node.next()
print(dict(event))
node.send_output("out", 0)
while not node.is_waiting(): pass
node.put_event(external_event([6]))
print([dict(node.try_next()) for _ in range(1)], node.is_waiting(), node.try_next().value, node.is_waiting())
"""
    r = run(between())
    child = r.begun("n", program)
    r.take("c")
    r.send("a", 7)
    assert child.wait() == 0, child
    first = {"type": "EXTERNAL", "value": 5}
    assert child.text == f"{first}\n[{{'type': 'EXTERNAL', 'value': [6]}}] True 7 False\n"
