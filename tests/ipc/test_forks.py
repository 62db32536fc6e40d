"""What a fork of a node's process may do to the node: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.fake_runtime import Run
from support.procs import wait_until

from noderuntime.ipc.protocol import Bye, Failed, Log

Make = Callable[..., Run]


def custom() -> dict[str, Any]:
    """a feeds the custom node n, and c takes what it sends."""
    return {
        "a": {"outputs": ["out"]},
        "n": {"inputs": {"in": "a/out"}, "outputs": ["out"]},
        "c": {"inputs": {"in": "n/out"}},
    }


def operator() -> dict[str, Any]:
    """a feeds the operator op, and c takes what it sends."""
    return {
        "a": {"outputs": ["out"]},
        "op": {"operator": {"python": "op.py:Op", "inputs": {"in": "a/out"}, "outputs": ["out"]}},
        "c": {"inputs": {"in": "op/out"}},
    }


CALLS = {
    "send_output": "node.send_output('out', 1)",
    "flush": "node.flush()",
    "next": "node.next()",
    "try_next": "node.try_next()",
    "next_async": "asyncio.run(node.next_async())",
    "a loop": "[event for event in node]",
    "allocate": "node.allocate(1_000_000)",
    "a shared read": "node.kvs_read('x')",
    "a shared write": "node.kvs_write('x', b'1')",
    "a shared delete": "node.kvs_delete('x')",
    "the shared store from before": "kvs.set('x', b'1')",
    "a moment of the shared store from before": "kvs.get_root()",
}


@pytest.mark.parametrize("call", CALLS)
def test_each_call_in_a_fork_of_a_custom_node_says_whose_the_node_is_and_leaves_it_alone(run: Make, call: str) -> None:
    r = run(custom())
    child = r.begun(
        "n",
        f"""
import asyncio, os, time
from noderuntime import Node, NodeRuntimeError
node = Node()
kvs = node.kvs
node.next()
node.send_output("out", "before")
pid = os.fork()
if not pid:
    try:
        {CALLS[call]}
        print("no error", flush=True)
    except NodeRuntimeError as error:
        print(type(error).__name__, f"fork of a node's process ({{os.getppid()}})" in str(error), flush=True)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
node.send_output("out", "after")
node.close()
""",
    )
    r.send("a", 1)
    assert r.take("c", 2) == ["before", "after"]
    assert child.wait() == 0, child.text
    assert child.text.split("\n") == ["Forked True", "7", ""]


@pytest.mark.parametrize("end", ["os._exit(0)", "raise SystemExit(0)", "pass"])
def test_a_fork_that_leaves_with_node_ends_and_the_node_goes_on(run: Make, end: str) -> None:
    r = run(custom())
    child = r.begun(
        "n",
        f"""
import os, sys
from noderuntime import Node
with Node() as node:
    event = node.next()
    node.send_output("out", "before")
    pid = os.fork()
    if pid:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        node.send_output("out", event.value)
if not pid:
    node.close()
    {end}
""",
    )
    r.send("a", 1)
    assert r.take("c", 2) == ["before", 1]
    assert child.wait() == 0, child.text
    assert child.text == "0\n"
    assert child.has_said(Bye) == [Bye(True, "")]
    assert r.queued("n", "in") == []


def test_a_pool_of_forks_works_for_a_node_that_goes_on_sending(run: Make) -> None:
    r = run(custom())
    child = r.begun(
        "n",
        """
import multiprocessing
from noderuntime import Node
def work(number):
    return number * number
with Node() as node:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for event in node:
            if event.type == "INPUT":
                node.send_output("out", pool.map(work, [event.value] * 3))
""",
    )
    r.send("a", 2, 3, ends=True)
    assert r.take("c", 2) == [[4, 4, 4], [9, 9, 9]]
    assert child.wait() == 0, child.text


def test_forks_while_other_threads_send_do_not_hang(run: Make) -> None:
    """A fork copies locks in whatever state other threads have them."""
    r = run(custom())
    child = r.begun(
        "n",
        """
import os, threading
from noderuntime import Node, NodeRuntimeError
sent = 0
with Node() as node:
    over = threading.Event()
    def send():
        global sent
        while not over.is_set() and sent < 900:
            node.send_output("out", sent)
            sent += 1
    thread = threading.Thread(target=send)
    thread.start()
    codes = set()
    for _ in range(30):
        pid = os.fork()
        if not pid:
            try:
                with node:
                    node.send_output("out", "from a fork")
            except NodeRuntimeError:
                node.close()
                os._exit(3)
            os._exit(4)
        codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    over.set()
    thread.join()
print(codes, flush=True)
os.write(1, b"sent %d\\n" % sent)
""",
    )
    assert child.wait() == 0, child.text
    assert child.text.startswith("{3}\n")
    sent = int(child.text.split()[-1])
    assert r.queued("c", "in") == list(range(sent))


OPERATOR = """
import os
class Op:
    def on_event(self, event, ctx):
        if event["type"] != "INPUT": return
        ctx.save_state("x", b"1")
        pid = os.fork()
        if not pid:
            {child}
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        ctx.send_output("out", event["value"])
"""

OPERATOR_CALLS = {
    "send_output": "ctx.send_output('out', 'lost')",
    "allocate": "ctx.allocate(1_000_000)",
    "save_state": "ctx.save_state('x', b'2')",
    "load_state": "ctx.load_state('y')",
    "state": "ctx.state()",
    "kvs_write": "ctx.kvs_write('x', b'1')",
    "kvs_read": "ctx.kvs_read('x')",
    "kvs": "ctx.kvs.set('x', b'1')",
}


@pytest.mark.parametrize("call", OPERATOR_CALLS)
def test_each_call_in_a_fork_of_an_operator_is_an_error(run: Make, call: str) -> None:
    told = f"""
            try: {OPERATOR_CALLS[call]}
            except Exception as error: print(type(error).__name__, flush=True)
            os._exit(7)"""
    r = run(operator(), op=OPERATOR.format(child=told))
    child = r.begun("op")
    r.send("a", 1, 2)
    assert r.take("c", 2) == [1, 2]
    assert child.text.split("\n") == ["Forked", "7", "Forked", "7", ""]


ENDS = {
    "returns": ("return", "it ends here"),
    "raises": ("raise ValueError('mine')", "ValueError: mine"),
    "sends": ("ctx.send_output('out', 'lost')", "only that one can send"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_fork_that_comes_back_from_the_handler_ends_there(run: Make, end: str) -> None:
    what, said = ENDS[end]
    r = run(operator(), op=OPERATOR.format(child=what))
    r.send("a", 1, 2, 3)
    child = r.begun("op")
    assert r.take("c", 3) == [1, 2, 3]
    wait_until(lambda: child.text.count("\n1\n") + child.text.startswith("1\n") == 3, child.text)
    assert child.text.count(said) == 3 and not child.has_said(Failed)


def test_what_a_fork_of_an_operator_logs_is_on_stderr(run: Make) -> None:
    r = run(operator(), op=OPERATOR.format(child="ctx.log.warning('from a fork'); os._exit(0)"))
    child = r.begun("op")
    r.send("a", 1)
    assert r.take("c") == [1]
    assert child.text == "from a fork\n0\n" and not child.has_said(Log)
