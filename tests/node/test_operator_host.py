"""The process of an operator, as the runtime and its neighbours see it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.fake_runtime import Run
from support.kit import commit, staged
from support.procs import wait_until

from noderuntime.ipc import pulse
from noderuntime.ipc.protocol import (
    EXIT_FENCED,
    EXIT_RELOAD,
    Bye,
    Failed,
    Hello,
    Quiet,
    Ready,
    Refused,
    Reload,
    ReloadFailed,
    Stop,
    StopAll,
)
from noderuntime.space.commit import Commits

Make = Callable[..., Run]

SUM = """
from noderuntime import Operator, Status

class Sum(Operator):
    def __init__(self):
        self.total = 0
    def restore_state(self, state):
        self.total = int(state["total"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            if event["value"] == "stop": return Status.STOP
            if event["value"] == "stop all": return Status.STOP_ALL
            if event["value"] == "nonsense": return "nonsense"
            self.total += event["value"]
            ctx.save_state("total", str(self.total).encode())
            ctx.send_output("out", self.total)
        elif event["type"] == "STOP":
            ctx.save_state("total", str(self.total).encode())
            ctx.send_output("out", event["id"])
        elif event["type"] == "INPUT_CLOSED":
            ctx.send_output("out", "closed")
"""


def between(code: str = "op.py:Op", size: int = 1000, **operator: Any) -> dict[str, Any]:
    """a feeds the operator op, and c takes what it sends."""
    inputs = {"in": {"source": "a/out", "queue_size": size}}
    return {
        "a": {"outputs": ["out"]},
        "op": {"operator": {"python": code, "inputs": inputs, "outputs": ["out"]}, **operator},
        "c": {"inputs": {"in": {"source": "op/out", "queue_size": size}}},
    }


ECHO = """
class Op:
    def on_event(self, event, ctx):
        shown = {key: str(event[key]) for key in event if key not in ("timestamp", "metadata")}
        ctx.send_output("out", shown)
"""


# --- beginning ------------------------------------------------------------------------------------------------------


def test_a_child_says_who_it_is_and_is_ready_when_it_was_welcomed(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    assert child.hello is not None
    assert (child.hello.node, child.hello.kind, child.hello.pid, child.hello.life) == ("op", "operator", child.pid, 1)
    assert child.has_said(Ready) == [Ready(1)]


@pytest.mark.parametrize("inline", [True, False], ids=["by value", "by reference"])
def test_the_state_crosses_the_wire_and_the_next_life_goes_on_from_it(run: Make, inline: bool) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    first = r.begun("op")
    r.send("a", 1, 2, 3)
    assert r.take("c", 3) == [1, 3, 6]
    first.kill()
    r.begun("op", cause="SIGKILL", inline=inline)
    r.send("a", 4)
    assert r.take("c", 2) == [("NODE_RESTARTED", "op", "SIGKILL"), 10]


def test_without_state_restore_state_is_not_called(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    r.begun("op").kill()
    second = r.begun("op")
    assert second.has_said(Failed) == []


def test_a_refused_child_ends_without_a_failure(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.start("op")
    child.expect(Hello)
    child.send(Refused("not you"))
    assert child.wait() == EXIT_FENCED


BAD = {
    "raises at import": ("import nothing_like_this", "import", True, "ModuleNotFoundError"),
    "has no such class": ("x = 1", "import", True, "has no 'Op'"),
    "raises in init": ("class Op:\n    def __init__(self): raise ValueError('mine')", "init", False, "mine"),
    "needs arguments": (
        """
class Op:
    def __init__(self, a, b): ...
    def on_event(s, e, c): ...
""",
        "init",
        False,
        "Op",
    ),
    "has no on_event": ("class Op: ...", "init", True, "neither on_event nor produce"),
    "exits in init": ("class Op:\n    def __init__(self): raise SystemExit(0)", "init", False, "SystemExit"),
    "sends in init": (
        """
class Op:
    def __init__(self, ctx): ctx.send_output('out', 1)
    def on_event(s, e, c): ...
""",
        "init",
        False,
        "no event in hand",
    ),
    "is a source with inputs": (
        "class Op:\n    def produce(self, position, ctx): ...",
        "init",
        True,
        "takes no inputs",
    ),
}


@pytest.mark.parametrize("how", BAD)
def test_an_operator_that_cannot_begin_says_where_and_why(run: Make, how: str) -> None:
    text, where, permanent, error = BAD[how]
    r = run(between(), op=text)
    child = r.start("op")
    r.welcome(child)
    assert child.wait() == 1
    failed = child.has_said(Failed)[0]
    assert (failed.where, failed.permanent) == (where, permanent), failed
    assert error in failed.error
    assert "noderuntime/" not in failed.trace.replace(str(r.folder), "")


def test_a_state_that_cannot_be_restored_is_named_as_that(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    op = r.begin("op")
    commit(op, staged(op, private={"total": b"no number"}))
    child = r.start("op")
    r.welcome(child)
    assert child.wait() == 1
    failed = child.has_said(Failed)[0]
    assert failed.where == "restore_state" and not failed.permanent
    assert "op.py" in failed.trace and "operator_host" not in failed.trace


def test_an_operator_without_inputs_that_is_no_source_is_told_so(run: Make) -> None:
    r = run(
        {"op": {"operator": {"python": "op.py:Op", "outputs": ["out"]}}}, op="class Op:\n    def on_event(s, e, c): ..."
    )
    child = r.start("op")
    r.welcome(child)
    assert child.wait() == 1
    assert "no inputs" in child.has_said(Failed)[0].error


# --- events ---------------------------------------------------------------------------------------------------------


def test_an_input_carries_what_the_contract_says(run: Make) -> None:
    r = run(between(), op=ECHO)
    r.begun("op")
    r.send("a", 5)
    expected = {"type": "INPUT", "id": "in", "value": "5", "source": "a/out", "uid": "a/out#1", "attempt": "1"}
    assert r.take("c") == [expected]


HELD = """
import time
from pathlib import Path
class Op:
    def on_event(self, event, ctx):
        while event.type == "INPUT" and not Path(event.value).exists():
            time.sleep(0.001)
        ctx.send_output("out", event.id)
"""


def test_the_pulse_says_since_when_a_message_is_handled_not_since_when_another_one_was(
    run: Make, tmp_path: Path
) -> None:
    r = run(between(), op=HELD)
    child = r.begun("op")
    go = tmp_path / "go"
    go.touch()
    r.send("a", str(go))
    assert r.take("c") == ["in"]
    wait_until(lambda: child.pulse.phase == pulse.WAITING)
    go.unlink()
    sent_ns = time.monotonic_ns()
    r.send("a", str(go))
    wait_until(lambda: child.pulse.phase == pulse.HANDLING)
    assert child.pulse.since_ns >= sent_ns
    go.touch()
    assert r.take("c", 1) == ["in"]


KILLS_ITSELF_TWICE = """
import os, signal
class Op:
    def on_event(self, event, ctx):
        if event.attempt < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.send_output("out", event.attempt)
"""


def test_a_message_that_earlier_lives_had_in_hand_says_which_attempt_this_is(run: Make) -> None:
    r = run(between(), op=KILLS_ITSELF_TWICE)
    r.send("a", "x")
    hands: list[Any] = []
    for _ in range(2):
        child = r.start("op")
        r.welcome(child, hands=hands)
        assert child.wait() == -signal.SIGKILL
        hands = [list(hand) for hand in child.pulse.hands]
        assert len(hands) == 1
    r.begun("op", hands=hands)
    assert r.take("c") == [3]


def test_all_inputs_closed_ends_the_operator_behind_its_last_message(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    r.send("a", 1, 2, ends=True)
    assert r.take("c", 5) == [1, 3, "closed", "ALL_INPUTS_CLOSED", ("INPUT_CLOSED", "", None)]
    assert child.wait() == 0
    assert child.has_said(Bye) == [Bye(True, "")]
    assert r.figures("op")["status"] == "ended"


def test_a_life_that_begins_when_all_inputs_have_closed_ends_at_once(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    r.send("a", 1, ends=True)
    op = r.begin("op")
    for message in r.messages(op):
        commit(op, staged(op, ack=message))
    child = r.begun("op")
    assert child.wait() == 0
    assert r.take("c", 2) == ["ALL_INPUTS_CLOSED", ("INPUT_CLOSED", "", None)]


def test_an_input_that_a_failure_closed_has_not_ended_in_this_life_or_the_next(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    r.send("a", 1)
    r.end("a", error="broken")
    r.ring("op")
    assert r.take("c", 2) == [1, "closed"]
    child.kill()
    child = r.begun("op")
    r.ask("revive", node="a")
    r.claim("a", cause="mended")
    r.played["a"] = Commits(r.space, r.wirings["a"], r.figures("a")["incarnation"])
    r.send("a", 2)
    assert r.take("c") == [3]
    r.send("a", ends=True)
    assert r.take("c", 3) == ["closed", "ALL_INPUTS_CLOSED", ("INPUT_CLOSED", "", None)]
    assert child.wait() == 0


BLOCKS = """
import os, time
class Op:
    count = 0
    def restore_state(self, state):
        self.count = int(state["count"])
    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.count += 1
            ctx.save_state("count", str(self.count).encode())
            ctx.send_output("out", [event["value"], self.count])
            while event["value"] == "blocks" and not os.path.exists("goes on"):
                time.sleep(0.001)
"""


def test_a_message_that_is_taken_away_from_an_operators_hand_is_undone_and_the_rest_is_read_again(run: Make) -> None:
    r = run(between(), op=BLOCKS)
    child = r.begun("op")
    r.send("a", 1)
    assert r.take("c") == [[1, 1]]
    r.send("a", "blocks")
    wait_until(lambda: child.pulse.phase == pulse.HANDLING and child.pulse.hands)
    r.steal("op", "in", 0)
    (r.folder / "goes on").touch()
    assert child.wait() == EXIT_FENCED
    wait_until(lambda: child.logged("a message of input 'in' was taken away while it was in hand"), str(child))
    r.send("a", 2)
    r.begun("op")
    assert r.take("c") == [[2, 2]]


def test_a_drained_operator_makes_no_more_ticks(run: Make) -> None:
    inputs = {"tick": "timer/millis/5", "in": "a/out"}
    nodes = {
        "a": {"outputs": ["out"]},
        "op": {"operator": {"python": "op.py:Op", "inputs": inputs, "outputs": ["out"]}},
        "c": {"inputs": {"in": "op/out"}},
    }
    r = run(nodes, op=ECHO)
    child = r.begun("op")
    assert r.take("c")[0]["id"] == "tick"
    child.send(Quiet())
    r.send("a", "one")

    def takes(what: str) -> bool:
        (shown,) = r.take("c")
        return bool(shown.get("value") == what)

    wait_until(lambda: takes("one"))
    wait_until(lambda: not takes_a_tick(r))
    r.send("a", "two")
    assert r.take("c")[0]["value"] == "two"
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0


def takes_a_tick(r: Run) -> bool:
    """Whether one more came, in the time of some ticks."""
    before = len(r.queued("c", "in"))
    time.sleep(0.2)
    found = len(r.queued("c", "in")) > before
    r.take("c", len(r.queued("c", "in")))
    return found


def test_a_stopped_operator_gets_the_event_and_does_not_close_its_outputs(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    r.send("a", 1)
    assert r.take("c") == [1]
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert child.has_said(Bye) == [Bye(False, "")]
    assert r.take("c") == ["MANUAL"]
    assert r.figures("op")["status"] == "live"


@pytest.mark.parametrize(("value", "kinds"), [("stop", [Bye]), ("stop all", [StopAll, Bye])])
def test_a_status_ends_the_operator_and_discards_what_waits(run: Make, value: str, kinds: list[type]) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    r.send("a", 1, value, 3, 4)
    child = r.begun("op")
    assert child.wait() == 0
    assert [type(message) for message in child.said if isinstance(message, Bye | StopAll)] == kinds
    assert r.take("c", 2) == [1, ("INPUT_CLOSED", "", None)]
    figures = r.figures("op")
    assert figures["status"] == "ended"
    assert figures["inputs"]["in"]["taken"] == 2 and figures["inputs"]["in"]["discarded"] == 2


def test_an_operator_that_returns_nonsense_fails_by_name(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    r.send("a", "nonsense")
    assert child.wait() == 1
    failed = child.has_said(Failed)[0]
    assert failed.where == "on_event" and "nonsense" in failed.error and "Status.CONTINUE" in failed.error


FRAGILE = """
class Op:
    def on_event(self, event, ctx):
        if event["type"] != "INPUT": return
        ctx.send_output("out", event["value"])
        ctx.save_state("last", str(event["value"]).encode())
        ctx.kvs_write("last", str(event["value"]).encode())
        if event["value"] == 3:
            helper()

def helper():
    raise RuntimeError("mine")
"""


def test_a_failure_shows_the_users_frames_and_commits_the_events_before_it(run: Make) -> None:
    r = run(between(), op=FRAGILE)
    r.send("a", 1, 2, 3, 4)
    child = r.begun("op")
    assert child.wait() == 1
    failed = child.has_said(Failed)[0]
    assert failed.error == "RuntimeError: mine" and failed.where == "on_event"
    assert "in helper" in failed.trace and "operator_host" not in failed.trace
    assert r.take("c", 2) == [1, 2]
    assert r.queued("op", "in") == [3, 4] and r.queued("c", "in") == []
    assert r.private("op") == r.shared() == {"last": b"2"}
    assert [hand[0] for hand in child.pulse.hands] == [r.numbers["op"]["inputs"]["in"]]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("ctx.send_output('nowhere', 1)", "UnknownOutput"),
        ("ctx.send_output('out', object())", "TypeError"),
        ("ctx.save_state('k', 'text')", "TypeError"),
        ("ctx.save_state('k' * 600, b'')", "KeyTooLong"),
        ("ctx.save_state('k', bytes(2_000_000))", "ValueTooLarge"),
        ("ctx.kvs_merge('k', 5)", "TypeError"),
        ("ctx.kvs_write('k', b'', ttl=-1)", "ValueError"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_what_an_operator_does_wrongly_is_an_error_in_its_own_code(run: Make, call: str, error: str) -> None:
    r = run(
        between(),
        op=f"""
class Op:
    def on_event(self, event, ctx):
        {call}
""",
    )
    child = r.begun("op")
    r.send("a", 1)
    assert child.wait() == 1
    failed = child.has_said(Failed)[0]
    assert failed.where == "on_event" and error in failed.error and "op.py" in failed.trace


# --- state ----------------------------------------------------------------------------------------------------------

STATES = """
class Op:
    def on_event(self, event, ctx):
        if event["type"] != "INPUT": return
        said = []
        for call, *arguments in event["value"]:
            if call.startswith("kvs."):
                said.append(getattr(ctx.kvs, call[4:])(*arguments) is not None)
            else:
                said.append(getattr(ctx, call)(*arguments))
        ctx.send_output("out", said)
"""


def test_reads_see_what_is_staged_and_only_a_commit_makes_it_seen_by_others(run: Make) -> None:
    r = run(between(), op=STATES)
    r.begun("op")
    r.send("a", [["save_state", "k", b"1"], ["load_state", "k"], ["delete_state", "k"], ["load_state", "k", b"d"]])
    r.send("a", [["save_state", "k", b"2"], ["kvs_write", "s", b"3"], ["kvs_read", "s"], ["state"]])
    r.send("a", [["load_state", "k"], ["kvs_delete", "s"], ["kvs_read", "s", b"gone"], ["state"]])
    assert r.take("c", 3) == [
        [None, b"1", None, b"d"],
        [None, None, b"3", {"k": b"2"}],
        [b"2", None, b"gone", {"k": b"2"}],
    ]
    assert r.private("op") == {"k": b"2"} and r.shared() == {}


def test_staged_writes_go_with_a_failed_event_and_immediate_ones_stay(run: Make) -> None:
    r = run(
        between(),
        op="""
class Op:
    def on_event(self, event, ctx):
        ctx.kvs_write('staged', b'1')
        ctx.kvs.set('immediate', b'2')
        raise ValueError
""",
    )
    child = r.begun("op")
    r.send("a", 1)
    assert child.wait() == 1
    assert r.shared() == {"immediate": b"2"}


# --- timers and timeouts --------------------------------------------------------------------------------------------

TICKS = """
import time
class Op:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "tick":
            ctx.send_output("out", [event["metadata"]["due"].timestamp(), "uid" in event])
            if ctx.config.get("slow"):
                time.sleep(ctx.config["slow"])
"""


def ticking(period: str, **more: Any) -> dict[str, Any]:
    operator = {"python": "op.py:Op", "inputs": {"tick": period}, "outputs": ["out"]}
    return {"op": {"operator": operator, **more}, "c": {"inputs": {"in": "op/out"}}}


def test_ticks_are_due_on_an_absolute_schedule_and_have_no_uid(run: Make) -> None:
    r = run(ticking("timer/millis/20"), op=TICKS)
    r.begun("op")
    ticks = r.take("c", 5)
    wall_ns, _ = r.space.clock
    places = [round((due - wall_ns / 1e9) / 0.02, 3) for due, _ in ticks]
    assert all(place == int(place) for place in places)
    assert places == sorted(set(places))
    assert not any(uid for _, uid in ticks)


def test_ticks_that_were_missed_do_not_pile_up(run: Make) -> None:
    r = run(ticking("timer/millis/10", config={"slow": 0.035}), op=TICKS)
    r.begun("op")
    dues = [due for due, _ in r.take("c", 4)]
    assert all(later - earlier > 0.029 for earlier, later in pairwise(dues))


def test_a_new_life_does_not_repeat_a_tick(run: Make) -> None:
    r = run(ticking("timer/millis/20"), op=TICKS)
    for _ in range(3):
        child = r.begun("op")
        seen = len(r.queued("c", "in"))
        wait_until(lambda seen=seen: len(r.queued("c", "in")) > seen + 1)
        child.kill()
    dues = [due for due, _ in r.queued("c", "in")]
    assert dues == sorted(set(dues))


def test_a_timer_goes_on_when_its_period_was_made_longer(run: Make) -> None:
    r = run(ticking("timer/secs/1"), op=TICKS)
    op = r.begin("op")
    commit(op, staged(op, counters={op.inputs["tick"].counter: 10**9}))
    r.begun("op")
    assert len(r.take("c", 1)) == 1


def silent(seconds: float) -> dict[str, Any]:
    inputs = {"in": {"source": "a/out", "input_timeout": seconds}, "busy": "b/out"}
    return {
        "a": {"outputs": ["out"]},
        "b": {"outputs": ["out"]},
        "op": {"operator": {"python": "op.py:Op", "inputs": inputs, "outputs": ["out"]}},
        "c": {"inputs": {"in": "op/out"}},
    }


KINDS = """
class Op:
    def on_event(self, event, ctx):
        ctx.send_output("out", [event["type"], event["id"], event.get("value")])
"""


def test_an_input_that_falls_silent_closes_and_recovers_before_its_next_message(run: Make) -> None:
    r = run(silent(0.3), op=KINDS)
    child = r.begun("op")
    r.send("a", 1)
    assert r.take("c", 2) == [["INPUT", "in", 1], ["INPUT_CLOSED", "in", None]]
    child.signal(signal.SIGSTOP)  # so that both wait when it looks
    r.send("a", 2, 3)
    child.signal(signal.SIGCONT)
    assert r.take("c", 3) == [["INPUT_RECOVERED", "in", None], ["INPUT", "in", 2], ["INPUT", "in", 3]]


def test_a_busy_input_does_not_hide_that_another_one_is_silent(run: Make) -> None:
    r = run(silent(0.05), op=KINDS.replace("ctx.send", "import time; time.sleep(0.002); ctx.send"))
    r.begun("op")
    r.send("a", 1)
    for _ in range(1000):
        r.send("b", 2)
        if ["INPUT_CLOSED", "in", None] in r.queued("c", "in"):
            break
    else:
        wait_until(lambda: ["INPUT_CLOSED", "in", None] in r.queued("c", "in"))
        assert r.queued("op", "busy"), "it closed only when nothing else waited"


def test_an_input_that_was_never_heard_of_does_not_time_out(run: Make) -> None:
    r = run(silent(0.01), op=KINDS)
    r.begun("op")
    r.send("b", 1, 2, 3)
    assert r.take("c", 3) == [["INPUT", "busy", n] for n in (1, 2, 3)]
    assert r.queued("c", "in") == []


# --- sources --------------------------------------------------------------------------------------------------------

COUNT = """
from noderuntime import Source
class Op(Source):
    def produce(self, position, ctx):
        position = position or 0
        if position == ctx.config["last"]:
            return Source.END
        if ctx.config.get("idle") == position and not ctx.kvs_read("go"):
            return Source.idle(0.001)
        ctx.send_output("out", position + 1)
        return position + 1
    def on_event(self, event, ctx):
        ctx.send_output("out", event["id"])
"""


def source(size: int = 1000, **config: Any) -> dict[str, Any]:
    return {
        "op": {"operator": {"python": "op.py:Op", "outputs": ["out"]}, "config": config},
        "c": {"inputs": {"in": {"source": "op/out", "queue_size": size}}},
    }


def test_a_source_sends_until_its_end_and_closes(run: Make) -> None:
    r = run(source(last=500), op=COUNT)
    child = r.begun("op")
    assert r.take("c", 501) == [*range(1, 501), ("INPUT_CLOSED", "", None)]
    assert child.wait() == 0
    assert child.has_said(Bye) == [Bye(True, "")]


def test_an_idle_source_is_asked_again(run: Make) -> None:
    r = run(source(last=5, idle=3), op=COUNT)
    r.begun("op")
    assert r.take("c", 3) == [1, 2, 3]
    r.ask("state_set", scope="shared", key="go", value=b"1")
    assert r.take("c", 3) == [4, 5, ("INPUT_CLOSED", "", None)]


def test_a_source_that_is_killed_goes_on_behind_its_last_committed_output(run: Make) -> None:
    r = run(source(last=3000, size=50), op=COUNT)
    found: list[Any] = []
    while ("INPUT_CLOSED", "", None) not in found:
        child = r.begun("op", cause="killed" if found else "")
        found += r.take("c", 700) if len(found) < 2000 else []
        if len(found) < 2000:
            child.kill()
        else:
            while found[-1] != ("INPUT_CLOSED", "", None):
                found += r.take("c")
    assert [value for value in found if isinstance(value, int)] == list(range(1, 3001))


def test_a_source_that_is_stopped_gets_the_event(run: Make) -> None:
    r = run(source(last=5, idle=0), op=COUNT)
    child = r.begun("op")
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert r.take("c") == ["MANUAL"]
    assert child.has_said(Bye) == [Bye(False, "")]


# --- no room --------------------------------------------------------------------------------------------------------


def test_an_operator_waits_for_room_and_goes_on(run: Make) -> None:
    r = run(between("op.py:Sum", size=2), op=SUM)
    child = r.begun("op")
    r.send("a", 1, 1)
    wait_until(lambda: r.queued("op", "in") == [])
    r.send("a", 1, 1)
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM)
    assert r.queued("op", "in") == [1, 1]
    assert r.take("c", 4) == [1, 2, 3, 4]


def test_an_operator_that_is_stopped_while_it_waits_for_room_commits_nothing_more(run: Make) -> None:
    """What it has handled but not committed will be handled again: its STOP handler must not save that."""
    r = run(between("op.py:Sum", size=2), op=SUM)
    child = r.begun("op")
    r.send("a", 1, 1)
    wait_until(lambda: r.queued("op", "in") == [])
    r.send("a", 1, 1)
    wait_until(lambda: child.pulse.phase == pulse.WAITING_FOR_ROOM)
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert child.has_said(Bye) == [Bye(False, "")]
    assert r.private("op") == {"total": b"2"} and r.queued("op", "in") == [1, 1]
    r.take("c", 2)
    r.begun("op")
    assert r.take("c", 2) == [3, 4]


# --- control --------------------------------------------------------------------------------------------------------


def test_a_stop_is_heard_by_an_operator_that_logs(run: Make) -> None:
    r = run(
        between(),
        op="""
class Op:
    def on_event(self, event, ctx):
        ctx.log.info('got %s', event.id)
""",
    )
    child = r.begun("op")
    for _ in range(20):
        r.send("a", 1)
    wait_until(lambda: child.logged("got in"))
    child.send(Stop("MANUAL", 10.0))
    assert child.wait() == 0
    assert child.logged("got MANUAL")


def test_logs_from_threads_and_of_odd_texts_arrive(run: Make) -> None:
    r = run(
        between(),
        op="import threading\nclass Op:\n    def on_event(self, event, ctx):\n"
        "        thread = threading.Thread(target=lambda: ctx.log.warning('odd \\udc80 ' + 'x' * 300_000))\n"
        "        thread.start(); thread.join()\n        ctx.send_output('out', 1)",
    )
    child = r.begun("op")
    r.send("a", 1)
    assert r.take("c") == [1]
    wait_until(lambda: child.logged("odd ? xxx"))


def test_new_code_takes_over_between_two_events(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    r.send("a", 1)
    assert r.take("c") == [1]
    (r.folder / "op.py").write_text(SUM.replace("self.total +=", "self.total += 100 *"))
    child.send(Reload())
    assert child.wait() == EXIT_RELOAD
    assert child.has_said(Bye) == []
    r.send("a", 2)
    r.begun("op")
    assert r.take("c") == [201]


def test_new_code_that_does_not_import_is_reported_and_the_old_goes_on(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    (r.folder / "op.py").write_text("""
import sys
print('x' * 200_000, file=sys.stderr)
raise ValueError('not yet')
""")
    child.send(Reload())
    failed = child.expect(ReloadFailed)
    assert failed.error == "ValueError: not yet"
    r.send("a", 5)
    assert r.take("c") == [5]


def test_a_process_of_an_old_life_commits_nothing_and_ends(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    child = r.begun("op")
    r.claim("op")
    r.send("a", 1)
    assert child.wait() == EXIT_FENCED
    assert r.queued("c", "in") == [] and r.queued("op", "in") == [1]
    assert child.has_said(Failed) == []


def test_immediate_writes_of_an_old_life_are_fenced_too(run: Make) -> None:
    r = run(
        between(),
        op="""
class Op:
    def on_event(self, event, ctx):
        ctx.kvs.set('k', b'v')
""",
    )
    child = r.begun("op")
    r.claim("op")
    r.send("a", 1)
    assert child.wait() == EXIT_FENCED
    assert r.shared() == {}


def test_after_a_stop_from_a_tick_nothing_else_is_handled(run: Make) -> None:
    code = """
from noderuntime import Status
class Op:
    def on_event(self, event, ctx):
        if event["type"] == "INPUT" and event["id"] == "tick":
            return Status.STOP
        ctx.send_output("out", "late")
"""
    inputs = {"tick": "timer/millis/1", "in": "a/out"}
    operator = {"python": "op.py:Op", "inputs": inputs, "outputs": ["out"]}
    r = run({"a": {"outputs": ["out"]}, "op": {"operator": operator}, "c": {"inputs": {"in": "op/out"}}}, op=code)
    r.send("a", *range(10))
    child = r.begun("op")
    assert child.wait() == 0
    assert r.figures("op")["status"] == "ended"
    assert r.take("c") == [("INPUT_CLOSED", "", None)]


def test_many_messages_pass_in_groups_in_order(run: Make) -> None:
    r = run(between("op.py:Sum"), op=SUM)
    r.send("a", *[1] * 1000)
    child = r.begun("op")
    assert r.take("c", 1000) == list(range(1, 1001))
    wait_until(lambda: child.pulse.phase == pulse.WAITING, "what it did to be counted")
    assert child.pulse.handled == 1000 and child.pulse.commits < 500
