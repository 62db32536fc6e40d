"""The Harness against the real thing: the same calls on both kinds of `ctx` read, refuse, commit and discard alike."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noderuntime.api.events import Event
from noderuntime.errors import NodeRuntimeError
from noderuntime.ipc import doorbell
from noderuntime.ipc.protocol import VERSION, Request
from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.wiring import OutputWiring, ReceiverWiring, Wiring
from noderuntime.merges import Add, Max, Min, Union
from noderuntime.node.context import OperatorContext
from noderuntime.node.session import NodeSession
from noderuntime.space.environment import create
from noderuntime.space.mailbox import next_messages
from noderuntime.space.records import decode_message
from noderuntime.space.staging import Staged
from noderuntime.store.operations import Store
from noderuntime.testing import Harness

SEED = 5
EVENTS = 150
CALLS_PER_EVENT_MAX = 8

Call = Callable[[Any], Any]
Handler = Callable[[Any], None]


class Discard(Exception):
    """What a handler raises: its event must have no effect."""


class Real:
    """An operator's `ctx` on a space of its own, with one output `out` and a receiver that takes nothing."""

    def __init__(self, folder: Path) -> None:
        run_dir = RunDir(folder)
        space = create(run_dir.space, 50_000_000, "boot")
        store = Store(space)
        nodes = [
            {"id": "operator", "kind": "operator", "inputs": [], "outputs": ["out"]},
            {"id": "sink", "kind": "node", "inputs": [["in", "operator"]], "outputs": []},
        ]
        opened = store.handle(
            Request(VERSION, "t", 1, "open", {"nodes": nodes, "fingerprint": "", "fresh": False, "resume": False})
        )
        claim = {"node": "operator", "cause": "", "counts": False, "hands": [], "max_attempts": 3, "trace": ""}
        claimed = store.handle(Request(VERSION, "t", 2, "claim", {**claim, "error": ""}))
        assert not opened.error and not claimed.error, (opened, claimed)
        space.close()  # one environment a process
        numbers = opened.result["numbers"]
        mine, sink = numbers["operator"], numbers["sink"]
        (run_dir.root / "pulse").mkdir()
        for each in (mine, sink):
            doorbell.create(run_dir.bell(each["number"]))
        receiver = ReceiverWiring(sink["number"], sink["inputs"]["in"], 10**6, 10**9, False)
        output = OutputWiring("out", mine["outputs"]["out"], (receiver,))
        wiring = Wiring("run", "operator", mine["number"], "operator", (), (output,))
        self.session = NodeSession(run_dir, wiring, claimed.result["incarnation"])
        self.ctx = OperatorContext(self.session, {}, logging.getLogger("operator"))

    def event(self, handler: Handler) -> None:
        self.ctx.staged = staged = Staged()
        try:
            handler(self.ctx)
        except Discard:
            # the process would end here; what it had staged goes with it
            self.ctx.committed()
            return
        finally:
            self.ctx.staged = None
        assert self.session.commit([staged]) == 1
        self.ctx.committed()

    def sent(self) -> list[Any]:
        (receiver,) = self.session.commits.outputs["out"].receivers
        found = next_messages(self.session.space, [receiver.mailbox], 10**6)
        return [decode_message(record)[1:3] for _, record in found]

    def seen(self) -> Any:
        return self.ctx.state(), {key: entry.value for key, entry in self.ctx.kvs.get_root().items()}


class Pretended:
    def __init__(self) -> None:
        class Operator:
            def on_event(self, event: Event, ctx: Any) -> None:
                handlers.pop()(ctx)

        handlers: list[Handler] = []
        self.handlers = handlers
        self.harness = Harness(Operator, outputs=["out"])

    def event(self, handler: Handler) -> None:
        self.handlers.append(handler)
        with contextlib.suppress(Discard):
            self.harness.send("in", None)

    def sent(self) -> list[Any]:
        return [(sent.value, sent.metadata) for sent in self.harness.sent]

    def seen(self) -> Any:
        return self.harness.state, dict(self.harness.kvs)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    made = Real(tmp_path)
    yield made
    made.session.close()


def random_call(generator: random.Random) -> Call:
    """One call of `ctx`; keys are few, so that calls meet each other's effects."""
    key, other = generator.choice("abc"), generator.choice(["n", "set", "a"])
    number = generator.randrange(100)
    merge = generator.choice([Add(number), Max(number), Min(number), Union({number})])
    value = generator.choice([None, number, [number, "ä"], {"k": 1.5}, b"\x00" * number])
    ttl = generator.choice([None, 1000])
    calls: list[Call] = [
        lambda ctx: ctx.send_output("out", value, {"n": number}),
        lambda ctx: ctx("out", value),
        lambda ctx: ctx.send_output("unknown", value),
        lambda ctx: ctx.send_output("out", {number}),
        lambda ctx: ctx.save_state(key, b"%d" % number),
        lambda ctx: ctx.save_state("k" * 509, b""),
        lambda ctx: ctx.save_state(key, bytearray(1_000_001)),
        lambda ctx: ctx.save_state(key, "text"),
        lambda ctx: ctx.delete_state(key),
        lambda ctx: ctx.load_state(key, b"default"),
        lambda ctx: ctx.state(),
        lambda ctx: ctx.kvs_write(key, b"%d" % number, ttl=ttl),
        lambda ctx: ctx.kvs_write(key, b"", ttl=0),
        lambda ctx: ctx.kvs_write(number, b""),
        lambda ctx: ctx.kvs_delete(other),
        lambda ctx: ctx.kvs_read(other, b"default"),
        lambda ctx: ctx.kvs_merge(other, merge),
        lambda ctx: ctx.kvs_merge(key, 5),
        lambda ctx: ctx.kvs.get_or(other, b"default"),
    ]
    return generator.choice(calls)


def outcome(call: Call, ctx: Any) -> Any:
    """What a call returns, or how it refuses: the class, and for our own errors the text."""
    try:
        return call(ctx)
    except NodeRuntimeError as error:
        return type(error), str(error)
    except (TypeError, ValueError) as error:
        return type(error)


def test_the_harness_agrees_with_the_real_ctx_call_by_call(real: Real) -> None:
    generator = random.Random(SEED)
    pretended = Pretended()
    for number in range(EVENTS):
        calls = [random_call(generator) for _ in range(generator.randrange(CALLS_PER_EVENT_MAX))]
        discarded = generator.random() < 0.2
        outcomes: list[list[Any]] = []

        def handler(
            ctx: Any, calls: list[Call] = calls, discarded: bool = discarded, outcomes: list[list[Any]] = outcomes
        ) -> None:
            outcomes.append([outcome(call, ctx) for call in calls])
            if discarded:
                raise Discard

        for side in (real, pretended):
            side.event(handler)
        assert outcomes[0] == outcomes[1], f"seed {SEED}, event {number}"
        assert real.seen() == pretended.seen(), f"seed {SEED}, event {number}"
    assert real.sent() == pretended.sent()
    assert len(real.sent()) > EVENTS / 10
