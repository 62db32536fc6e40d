"""lifecycle.py: every state x every event, then the rules one by one."""

from __future__ import annotations

import random
from signal import SIGKILL, SIGTERM

import pytest

from noderuntime.ipc.protocol import EXIT_FENCED, EXIT_RELOAD
from noderuntime.runtime.health import LOCK_S_MAX, STOPPED_S_MAX
from noderuntime.runtime.lifecycle import DEAF_GRACE_S, REPLACED_S_MAX, TABLE, TERM_S, Lifecycle
from noderuntime.runtime.lifecycle_events import (
    ALIVE,
    DONE,
    EVENTS,
    Abort,
    Action,
    BecameReady,
    Claim,
    Claimed,
    ClaimRefused,
    End,
    Exited,
    LifecycleEvent,
    LifecycleState,
    Refuse,
    ReloadAsked,
    Reported,
    RestartAsked,
    Revive,
    SaidBye,
    SaidHello,
    SendReload,
    SendStop,
    SendWelcome,
    Signal,
    Spawn,
    SpawnFailed,
    Start,
    StopAsked,
    Touch,
    Vitals,
)
from noderuntime.runtime.machine import NEVER, IllegalEvent, Tell, Tick
from noderuntime.runtime.policy import Policy
from noderuntime.runtime.restart_budget import Budget

HANDS = ((1, 77, 0),)
KILLED_OUTSIDE = Exited(-9, HANDS, 0)
CRASH = Exited(1, HANDS, 0)

ANY_BUT_START_AND_RELOAD = (
    "SaidHello Claimed ClaimRefused BecameReady Reported SaidBye Exited SpawnFailed Vitals Tick StopAsked Abort"
)
LEGAL: dict[LifecycleState, str] = {
    LifecycleState.WAITING: "Start SaidHello Tick StopAsked Abort",
    LifecycleState.STARTING: (
        "SaidHello Claimed ClaimRefused Reported Exited SpawnFailed Vitals Tick StopAsked Abort RestartAsked"
    ),
    LifecycleState.RESTORING: "BecameReady Reported Exited Vitals Tick StopAsked Abort RestartAsked",
    LifecycleState.RUNNING: (
        "SaidHello BecameReady Reported SaidBye Exited SpawnFailed Vitals Tick StopAsked Abort ReloadAsked RestartAsked"
    ),
    LifecycleState.STOPPING: f"{ANY_BUT_START_AND_RELOAD} RestartAsked",
    LifecycleState.KILLED: f"{ANY_BUT_START_AND_RELOAD} RestartAsked",
    LifecycleState.BACKOFF: "Claimed ClaimRefused Tick StopAsked Abort ReloadAsked RestartAsked",
    LifecycleState.STOPPED: "Claimed ClaimRefused Tick StopAsked Abort RestartAsked",
    LifecycleState.ENDED: "SaidHello Claimed ClaimRefused Tick StopAsked Abort",
    LifecycleState.FAILED: "Claimed ClaimRefused Tick StopAsked Abort ReloadAsked RestartAsked",
}

SAMPLES: dict[type, list[LifecycleEvent]] = {
    Start: [Start()],
    SaidHello: [SaidHello()],
    Claimed: [Claimed(), Claimed(buried=True)],
    ClaimRefused: [ClaimRefused()],
    BecameReady: [BecameReady()],
    Reported: [Reported("on_event", "ValueError: x", "trace"), Reported("import", "no file", "", True)],
    SaidBye: [SaidBye(True), SaidBye(False), SaidBye(True, "ALL_INPUTS_CLOSED")],
    Exited: [
        Exited(0), Exited(1), Exited(-9, HANDS, 3), Exited(-11), Exited(None), Exited(EXIT_RELOAD),
        Exited(EXIT_FENCED), Exited(EXIT_FENCED, HANDS, is_replaced=True), Exited(-99),
    ],
    SpawnFailed: [SpawnFailed("no room"), SpawnFailed("no such file", True)],
    Vitals: [
        Vitals(), Vitals(5), Vitals(0, 99.0), Vitals(0, 0.0, True), Vitals(0, 0.0, True, 0.1),
        Vitals(0, 0.0, False, 99.0),
    ],
    Tick: [Tick()],
    StopAsked: [
        StopAsked(5.0), StopAsked(5.0, drain=True), StopAsked(5.0, True, "ALL_INPUTS_CLOSED"),
        StopAsked(5.0, alone=True),
    ],
    Abort: [Abort()],
    ReloadAsked: [ReloadAsked()],
    RestartAsked: [RestartAsked("was asked"), RestartAsked("was asked", 5.0), RestartAsked("has changed", 0.0, True)],
}  # fmt: skip

POLICIES = [
    Policy(),
    Policy("operator", "always", health_check_timeout_s=1.0),
    Policy("operator", "never"),
    Policy("node", "never"),
    Policy("node", "on-failure", max_restarts=1),
    Policy("node", "always", has_ports=False),
    Policy("dynamic", "never"),
]


def path_to(state: LifecycleState, kind: str = "operator") -> list[LifecycleEvent]:
    """Events that lead an operator (a dynamic node) from its creation to `state`."""
    begin: list[LifecycleEvent] = [SaidHello()] if kind == "dynamic" else [Start(), SaidHello()]
    running: list[LifecycleEvent] = [*begin, Claimed(), BecameReady()]
    return {
        LifecycleState.WAITING: [],
        LifecycleState.STARTING: begin,
        LifecycleState.RESTORING: [*begin, Claimed()],
        LifecycleState.RUNNING: running,
        LifecycleState.STOPPING: [*running, StopAsked(5.0)],
        LifecycleState.KILLED: [*running, Abort()],
        LifecycleState.BACKOFF: [*running, CRASH, CRASH],
        LifecycleState.STOPPED: [StopAsked(5.0)],
        LifecycleState.ENDED: [*running, SaidBye(True), Exited(0)],
        LifecycleState.FAILED: [*begin, Claimed(), Reported("import", "no such class", "", True), CRASH],
    }[state]


def led(state: LifecycleState, policy: Policy | None = None) -> Lifecycle:
    child = Lifecycle("a", policy or Policy())
    for event in path_to(state, child.policy.kind):
        child.handle(event, 0.0)
    assert child.state is state
    return child


def running(policy: Policy | None = None, now_s: float = 0.0) -> Lifecycle:
    child = Lifecycle("a", policy or Policy())
    again(child, now_s)
    return child


def again(child: Lifecycle, now_s: float = 0.0) -> None:
    """From the spawn (or the start) to ready."""
    if child.state is LifecycleState.WAITING:
        child.handle(SaidHello() if child.policy.kind == "dynamic" else Start(), now_s)
    if child.state is LifecycleState.BACKOFF:
        child.handle(Tick(), child.deadline_s)
    if child.policy.kind != "dynamic":
        child.handle(SaidHello(), now_s)
    child.handle(Claimed(), now_s)
    child.handle(BecameReady(), now_s)
    assert child.state is LifecycleState.RUNNING


def only(actions: list[Action], kind: type) -> Action:
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, actions
    return found[0]


def has(actions: list[Action], kind: type) -> bool:
    return any(isinstance(action, kind) for action in actions)


# ---- the table


def test_the_table_has_the_rows_that_can_happen_and_no_others() -> None:
    names = {event.__name__: event for event in EVENTS}
    legal = {(state, names[name]) for state, text in LEGAL.items() for name in text.split()}
    assert set(TABLE) == legal


@pytest.mark.parametrize("state", LifecycleState)
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_in_every_state_is_handled_or_raises_without_effect(state: LifecycleState, kind: type) -> None:
    for event in SAMPLES[kind]:
        child = led(state)
        before = repr(child)
        if (state, kind) in TABLE:
            try:
                child.handle(event, 1.0)
            except IllegalEvent:
                assert repr(child) == before
                # what the row is there for: a dynamic node, a node without ports
                may_say_hello = {LifecycleState.WAITING, LifecycleState.RUNNING, LifecycleState.ENDED}
                assert (state, kind) in {(state, SaidHello) for state in may_say_hello} or (
                    state is LifecycleState.STARTING and kind is SaidHello
                )
            else:
                assert child.state in TABLE[state, kind].to
        else:
            with pytest.raises(IllegalEvent, match=f"{kind.__name__} cannot happen while {state.value}"):
                child.handle(event, 1.0)
            assert repr(child) == before


def test_every_state_in_the_table_can_be_reached_from_every_row_that_names_it() -> None:
    """No row promises a state that no policy and no sample leads to."""
    seen: dict[tuple[LifecycleState, type], set[LifecycleState]] = {pair: set() for pair in TABLE}
    chance = random.Random(1)
    for _ in range(100_000):
        if all(seen[pair] == row.to for pair, row in TABLE.items()):
            break
        child = Lifecycle("a", chance.choice(POLICIES))
        now_s = 0.0
        for _ in range(25):
            now_s += chance.choice((0.0, 0.1, 1.0, 40.0))
            possible = [kind for state, kind in TABLE if state is child.state and kind is not Abort]
            event = chance.choice(SAMPLES[Abort if chance.random() < 0.05 else chance.choice(possible)])
            before = child.state
            try:
                child.handle(event, now_s)
            except IllegalEvent:
                continue
            seen[before, type(event)].add(child.state)
    for (state, kind), row in TABLE.items():
        assert seen[state, kind] == row.to, f"{state.value} + {kind.__name__}"


@pytest.mark.parametrize("seed", range(300))
def test_any_sequence_of_events_keeps_the_promises_between_machine_and_loop(seed: int) -> None:
    """One process at a time; each life claimed once; each death followed by a claim, an end or a touch."""
    chance = random.Random(seed)
    child = Lifecycle("a", POLICIES[seed % len(POLICIES)])
    dynamic = child.policy.kind == "dynamic"
    process = False
    claims: list[int] = []
    now_s = 0.0
    for _ in range(60):
        now_s += chance.choice((0.0, 0.05, 0.5, 3.0))
        event = chance.choice(SAMPLES[chance.choice(EVENTS)])
        before, life = child.state, child.life
        try:
            actions = child.handle(event, now_s)
        except IllegalEvent:
            continue
        assert child.broken_invariants(event, actions) == []
        if isinstance(event, Exited | SpawnFailed):
            assert before in ALIVE
            process = False
            settled = [a for a in actions if isinstance(a, Claim | End | Touch)]
            assert len(settled) == 1, actions
        for action in actions:
            if isinstance(action, Spawn):
                assert not process
                assert action.life == life + 1
                process = True
            elif isinstance(action, Claim):
                assert action.life == child.life
                claims.append(action.life)
                process = True
            elif isinstance(action, Signal | SendWelcome | SendStop | SendReload):
                assert process
        if dynamic and child.state not in ALIVE:
            process = False
        if before in DONE:
            back = {(LifecycleState.ENDED, SaidHello)} if dynamic else {
                (LifecycleState.FAILED, ReloadAsked), (LifecycleState.FAILED, RestartAsked),
                (LifecycleState.STOPPED, RestartAsked),
            }  # fmt: skip
            assert child.state is before or (before, type(event)) in back
            assert has(actions, Claim) == (child.state is not before)
            assert has(actions, Revive) == (child.state is not before and before is not LifecycleState.STOPPED)
        assert (child.state in ALIVE) == process
        assert (child.deadline_s < NEVER) <= (child.state not in DONE)
    assert claims == list(range(1, len(claims) + 1))


def test_a_reload_brings_a_failed_operator_back_with_a_new_budget() -> None:
    child = led(LifecycleState.FAILED)
    actions = child.handle(ReloadAsked(), 1.0)
    why = "it is started again, after it had failed"
    assert actions == [Revive(), Spawn(2), Claim(2, why)]
    assert (child.state, child.budget.streak) == (LifecycleState.STARTING, 0)
    for event in (SaidHello(), Claimed(), BecameReady()):
        child.handle(event, 1.0)
    assert (child.state, child.reason) == (LifecycleState.RUNNING, "")


def test_a_restart_ends_a_life_in_order_and_begins_another_with_a_new_budget() -> None:
    child = running(Policy(max_restarts=1))
    child.handle(CRASH, 1.0)
    again(child, 1.0)
    assert child.budget.spent_s == [1.0]
    actions = child.handle(RestartAsked("was asked to restart", 5.0), 2.0)
    assert actions == [SendStop(5.0, drain=True)] and child.state is LifecycleState.STOPPING
    actions = child.handle(Exited(0), 3.0)
    assert has(actions, Spawn) and child.budget.spent_s == []


def test_a_life_that_is_fenced_by_a_change_is_killed_and_that_is_told_once() -> None:
    child = running()
    actions = child.handle(RestartAsked("has changed: a new life begins", 5.0, at_once=True), 1.0)
    actions += child.handle(Exited(-9), 2.0)
    assert [action.text for action in actions if isinstance(action, Tell)] == ["a has changed: a new life begins"]


def test_a_program_without_inputs_has_a_short_grace_also_when_it_is_restarted() -> None:
    """It may never ask for an event, and so not hear of the STOP."""
    child = running(Policy("node", "never", has_inputs=False))
    assert child.handle(RestartAsked("was asked to restart", 5.0), 1.0) == [SendStop(DEAF_GRACE_S, drain=True)]
    assert child.deadline_s == 1.0 + DEAF_GRACE_S


def test_who_is_stopped_while_the_others_go_on_still_finds_room_for_what_it_sends() -> None:
    child = running()
    assert child.handle(StopAsked(5.0, alone=True), 1.0) == [SendStop(5.0, drain=True)]
    child.handle(Exited(0), 2.0)
    assert child.state is LifecycleState.STOPPED


def test_a_node_that_stops_begins_again_when_a_restart_is_asked_for_meanwhile() -> None:
    child = running()
    child.handle(StopAsked(5.0, alone=True), 1.0)
    assert child.handle(RestartAsked("was asked to restart", 5.0), 2.0) == []
    assert has(child.handle(Exited(0), 3.0), Spawn)
    # also one that does not hear of the STOP, and is killed
    child = running()
    child.handle(StopAsked(5.0, alone=True), 1.0)
    child.handle(Tick(), 6.0)
    child.handle(Tick(), child.deadline_s)
    assert child.state is LifecycleState.KILLED
    child.handle(RestartAsked("was asked to restart", 5.0), 9.0)
    assert has(child.handle(Exited(-9), 9.0), Spawn)
    # but not one that is to end
    child = running()
    child.handle(StopAsked(5.0, drain=True), 1.0)
    with pytest.raises(IllegalEvent):
        child.handle(RestartAsked("was asked to restart", 5.0), 2.0)


def test_what_cannot_ever_work_fails_again_at_once() -> None:
    child = led(LifecycleState.FAILED)
    for event in (ReloadAsked(), SaidHello(), Claimed(), Reported("import", "no such class", "", True), CRASH):
        child.handle(event, 1.0)
    assert child.state is LifecycleState.FAILED


def test_a_node_of_a_finished_cycle_hears_that_its_inputs_have_ended_and_ends() -> None:
    child = running()
    assert child.handle(StopAsked(5.0, True, "ALL_INPUTS_CLOSED"), 0.0) == [SendStop(5.0, True, "ALL_INPUTS_CLOSED")]
    child.handle(SaidBye(True), 0.1)
    child.handle(Exited(0), 0.1)
    assert child.state is LifecycleState.ENDED


# ---- lives


def test_a_life_is_spawned_and_claimed_side_by_side_then_welcomed_then_ready() -> None:
    child = Lifecycle("a", Policy())
    assert child.handle(Start(), 0.0) == [Spawn(1), Claim(1)]
    assert child.handle(SaidHello(), 0.1) == []
    assert child.handle(Claimed(), 0.2) == [SendWelcome()]
    assert child.state is LifecycleState.RESTORING
    assert child.handle(BecameReady(), 0.3) == []
    assert child.state is LifecycleState.RUNNING
    assert child.since_s == 0.3


def test_the_claim_may_be_answered_before_the_child_says_hello() -> None:
    child = Lifecycle("a", Policy())
    child.handle(Start(), 0.0)
    assert child.handle(Claimed(), 0.0) == []
    assert child.handle(SaidHello(), 0.0) == [SendWelcome()]


def test_a_second_hello_of_the_same_life_is_illegal() -> None:
    child = led(LifecycleState.STARTING)
    with pytest.raises(IllegalEvent):
        child.handle(SaidHello(), 0.0)


def test_an_operator_killed_from_outside_is_restarted_at_once_and_its_message_is_not_blamed() -> None:
    child = running()
    actions = child.handle(KILLED_OUTSIDE, 5.0)
    assert actions[:2] == [Spawn(2), Claim(2, "SIGKILL", False, HANDS)]
    assert actions[2] == Tell("a died (SIGKILL): restarting it")
    assert child.state is LifecycleState.STARTING
    assert child.restarts == 1


@pytest.mark.parametrize(
    ("before", "event", "cause", "counts"),
    [
        ([], Exited(1, HANDS), "exit code 1", True),
        ([], Exited(0, HANDS), "exit code 0", True),
        ([], Exited(-11, HANDS), "SIGSEGV", True),
        ([], Exited(-15, HANDS), "SIGTERM", True),
        ([], Exited(-9, HANDS), "SIGKILL", False),
        ([], Exited(-99, HANDS), "signal 99", True),
        ([], Exited(EXIT_FENCED, HANDS), "it was fenced", False),
        ([], Exited(EXIT_RELOAD, HANDS), "reloaded", False),
        ([Reported("on_event", "ValueError: x", "t")], Exited(1, HANDS), "on_event: ValueError: x", True),
        ([Vitals(0, 2.5)], Exited(-9, HANDS), "hung: one handler call took longer than 2 s", True),
        ([Vitals(0, 0.0, True, 0.1)], Exited(-9, HANDS), "was stopped while it held the write lock", False),
        ([Vitals(0, 0.0, False, 4.0)], Exited(-9, HANDS), "held the write lock for more than 3 s", False),
        (
            [Vitals(pinned_s=1.1)],
            Exited(-9, HANDS),
            "kept a read transaction (a `kvs.snapshot()`, say) open for more than 1 s",
            False,
        ),
    ],
)
def test_which_deaths_count_towards_max_attempts(
    before: list[LifecycleEvent], event: LifecycleEvent, cause: str, counts: bool
) -> None:
    child = running(Policy(health_check_timeout_s=2.0))
    for earlier in before:
        child.handle(earlier, 1.0)
    claim = only(child.handle(event, 1.0), Claim)
    assert isinstance(claim, Claim)
    assert (claim.cause, claim.counts, claim.hands) == (cause, counts, HANDS)


def test_the_error_and_the_trace_of_a_crash_reach_the_claim() -> None:
    child = running()
    child.handle(Reported("on_event", "ValueError: x", "the trace"), 0.0)
    claim = only(child.handle(CRASH, 0.0), Claim)
    assert isinstance(claim, Claim)
    assert (claim.cause, claim.trace) == ("on_event: ValueError: x", "the trace")


def test_a_death_is_claimed_once_even_when_the_next_life_dies_before_it_began() -> None:
    child = running()
    first = only(child.handle(CRASH, 0.0), Claim)
    assert isinstance(first, Claim) and first.hands == HANDS
    child.handle(Exited(-9), 0.0)
    second = only(child.handle(Tick(), 1.0), Claim)
    assert isinstance(second, Claim) and second.hands == ()


def test_a_node_whose_end_was_committed_before_it_died_ends_instead_of_living_again() -> None:
    child = running()
    child.handle(KILLED_OUTSIDE, 0.0)
    actions = child.handle(ClaimRefused(), 0.0)
    assert actions == [Refuse("this node has ended"), Signal(SIGKILL)]
    assert child.handle(Exited(-9), 0.0) == [End(failed=False)]
    assert (child.state, child.reason) == (LifecycleState.ENDED, ""), "its death is no reason any more"


def test_a_failure_for_good_is_told_as_an_error_and_a_restart_is_not() -> None:
    child = running(Policy(max_restarts=1))
    assert [action.is_error for action in child.handle(CRASH, 0.0) if isinstance(action, Tell)] == [False]
    assert [action.is_error for action in child.handle(CRASH, 0.0) if isinstance(action, Tell)] == [True]


def test_a_reload_begins_a_new_life_without_costing_budget() -> None:
    child = running(Policy(max_restarts=1))
    for life in range(2, 9):
        assert child.handle(ReloadAsked(), 0.0) == [SendReload()]
        assert only(child.handle(Exited(EXIT_RELOAD), 0.0), Spawn) == Spawn(life)
        again(child)
    assert child.budget.streak == 0


def test_only_operators_can_be_reloaded() -> None:
    with pytest.raises(IllegalEvent):
        running(Policy("node")).handle(ReloadAsked(), 0.0)


def test_a_reload_during_back_off_tries_at_once() -> None:
    child = led(LifecycleState.BACKOFF)
    assert has(child.handle(ReloadAsked(), 0.0), Spawn)


# ---- ends


def test_an_operator_that_said_bye_has_ended() -> None:
    child = running(Policy(restart_policy="always"))
    child.handle(SaidBye(True, "STOP"), 1.0)
    assert child.handle(Exited(0), 1.0) == [End(failed=False)]
    assert (child.state, child.reason) == (LifecycleState.ENDED, "STOP")


def test_a_custom_node_that_exits_0_has_ended_with_or_without_a_word() -> None:
    for words in ([], [SaidBye(False)]):
        child = running(Policy("node", "on-failure"))
        for word in words:
            child.handle(word, 0.0)
        assert child.handle(Exited(0), 0.0) == [End(failed=False)]
        assert child.state is LifecycleState.ENDED


def test_a_custom_node_under_always_lives_again_unless_all_its_inputs_have_ended() -> None:
    child = running(Policy("node", "always"))
    claim = only(child.handle(Exited(0, HANDS), 0.0), Claim)
    assert isinstance(claim, Claim) and not claim.counts
    again(child)
    child.handle(SaidBye(True, "ALL_INPUTS_CLOSED"), 0.0)
    child.handle(Exited(0), 0.0)
    assert child.state is LifecycleState.ENDED


def test_a_custom_node_that_fails_is_not_restarted_by_default() -> None:
    child = running(Policy("node", "never"))
    actions = child.handle(Exited(3), 0.0)
    assert actions[0] == End(failed=True, error="exit code 3")
    assert (child.state, child.reason) == (LifecycleState.FAILED, "exit code 3")


def test_a_node_without_inputs_and_outputs_need_not_say_hello_but_may() -> None:
    child = Lifecycle("a", Policy("node", "never", has_ports=False))
    child.handle(Start(), 0.0)
    child.handle(Claimed(), 0.0)
    assert child.state is LifecycleState.RUNNING
    assert child.handle(SaidHello(), 50.0) == [SendWelcome()]
    assert child.handle(BecameReady(), 50.0) == []
    assert child.handle(Tick(), 99.0) == []


def test_a_permanent_failure_fails_a_node_that_was_never_ready_at_once() -> None:
    child = led(LifecycleState.RESTORING)
    child.handle(Reported("import", "no such file", "", True), 0.0)
    assert has(child.handle(Exited(1), 0.0), End)
    assert (child.state, child.reason) == (LifecycleState.FAILED, "import: no such file")


def test_a_permanent_failure_later_costs_budget_because_somebody_may_be_editing() -> None:
    child = running()
    child.handle(KILLED_OUTSIDE, 0.0)
    child.handle(Reported("import", "SyntaxError", "", True), 0.0)
    child.handle(Exited(1), 0.0)
    assert child.state is LifecycleState.BACKOFF


def test_a_program_that_is_missing_fails_its_node_at_once() -> None:
    child = Lifecycle("a", Policy("node", "always"))
    child.handle(Start(), 0.0)
    actions = child.handle(SpawnFailed("a: no such file: /x", True), 0.0)
    assert actions[0] == End(failed=True, error="a: no such file: /x")


# ---- budget and back-off


def test_the_budget_is_a_function_of_restarts_now_and_window() -> None:
    budget = Budget(3, 60.0, 0.1, 0.15)
    assert [budget.spend(0.0), budget.spend(1.0), budget.spend(2.0)] == [0.0, 0.1, 0.15]
    assert budget.spend(3.0) is None
    assert budget.spend(60.5) == 0.15, "the first has left the window"
    budget.reset()
    assert budget.spend(61.0) == 0.0


def test_a_budget_without_limit_waits_ever_longer_and_keeps_nothing() -> None:
    budget = Budget(0, 60.0, 0.1, 30.0)
    waits = [budget.spend(0.0) for _ in range(5000)]
    assert waits[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == 30.0
    assert budget.spent_s == []


def test_a_crash_loop_backs_off_and_then_fails_for_good() -> None:
    child = running()
    waits = []
    while child.state is not LifecycleState.FAILED:
        child.handle(Reported("on_event", "ValueError: x"), 0.0)
        actions = child.handle(CRASH, 10.0)
        if child.state is LifecycleState.BACKOFF:
            assert actions[0] == Touch()
            waits.append(round(child.deadline_s - 10.0, 3))
            assert child.handle(Tick(), child.deadline_s - 0.01) == []
        if child.state is not LifecycleState.FAILED:
            again(child, 10.0)
    assert waits == [0.1, 0.2, 0.4, 0.8]
    assert child.restarts == 5
    assert child.reason == "failed 6 times without progress; the last cause: on_event: ValueError: x"
    assert only(actions, End) == End(failed=True, error=child.reason)


def test_a_death_during_back_off_is_claimed_by_the_life_that_follows() -> None:
    child = led(LifecycleState.BACKOFF)
    claim = only(child.handle(Tick(), child.deadline_s), Claim)
    assert claim == Claim(3, "exit code 1", True, HANDS)


@pytest.mark.parametrize("how", ["seen while alive", "seen in the pulse of the dead", "buried"])
def test_progress_resets_budget_and_back_off(how: str) -> None:
    child = running()
    for _ in range(50):
        if how == "seen while alive":
            child.handle(Vitals(commits=1), 0.0)
        commits = 1 if how == "seen in the pulse of the dead" else 0
        child.handle(Exited(1, HANDS, commits), 0.0)
        if child.state is LifecycleState.BACKOFF:
            child.handle(Tick(), child.deadline_s)
        child.handle(SaidHello(), 0.0)
        child.handle(Claimed(buried=how == "buried"), 0.0)
        child.handle(BecameReady(), 0.0)
        assert child.state is LifecycleState.RUNNING
    assert child.budget.streak <= 1


def test_kills_while_idle_cost_budget_too() -> None:
    child = running()
    while child.state is not LifecycleState.FAILED:
        child.handle(KILLED_OUTSIDE, 0.0)
        if child.state is not LifecycleState.FAILED:
            again(child)
    assert child.restarts == 5


def test_a_fence_costs_budget_so_that_it_cannot_go_on_for_ever() -> None:
    child = running()
    child.handle(Exited(EXIT_FENCED), 0.0)
    assert child.budget.streak == 1


def test_a_life_that_is_fenced_by_a_change_costs_nothing_and_the_next_one_begins_when_it_is_asked_for() -> None:
    for policy in (Policy("operator", "never"), Policy(max_restarts=1)):
        child = running(policy)
        child.budget.spend(0.0)
        assert child.handle(Exited(EXIT_FENCED, HANDS, is_replaced=True), 1.0) == [Touch()]
        assert child.handle(Tick(), 1.0 + REPLACED_S_MAX / 2) == []
        actions = child.handle(RestartAsked("has changed: a new life begins", 5.0, at_once=True), 2.0)
        assert actions == [Spawn(2), Claim(2, "has changed: a new life begins", False, HANDS)]
        assert (child.restarts, child.budget.streak) == (1, 0)


def test_a_life_that_is_fenced_by_a_change_is_followed_by_another_if_nobody_asks_for_it() -> None:
    child = running(Policy("operator", "never"))
    child.handle(Exited(EXIT_FENCED, HANDS, is_replaced=True), 1.0)
    assert only(child.handle(Tick(), 1.0 + REPLACED_S_MAX), Spawn) == Spawn(2)


def test_a_replica_that_a_change_has_fenced_and_ended_is_over() -> None:
    child = running(Policy("operator", "never"))
    child.handle(Exited(EXIT_FENCED, is_replaced=True), 1.0)
    assert child.handle(Abort(), 1.0) == [Touch()]
    assert child.state is LifecycleState.STOPPED


# ---- hangs


def test_a_child_that_is_not_ready_in_time_is_killed_and_the_reason_says_what_was_missing() -> None:
    silent: list[LifecycleEvent] = [Start(), Claimed()]
    for events, missing in ((silent, "never said hello"), (path_to(LifecycleState.RESTORING), "not ready")):
        child = Lifecycle("a", Policy(start_timeout_s=3.0))
        for event in events:
            child.handle(event, 1.0)
        assert child.deadline_s == 4.0
        assert child.handle(Tick(), 3.9) == []
        actions = child.handle(Tick(), 4.0)
        assert actions[-1] == Signal(SIGKILL)
        child.handle(Exited(-9), 4.0)
        assert missing in child.reason


def test_a_slow_store_is_not_the_fault_of_the_child() -> None:
    child = Lifecycle("a", Policy(start_timeout_s=3.0))
    child.handle(Start(), 0.0)
    child.handle(SaidHello(), 0.0)
    assert child.handle(Tick(), 1000.0) == []
    child.handle(Claimed(), 1000.0)
    assert child.deadline_s == 1003.0


def test_where_operators_share_a_process_a_handler_may_take_as_long_as_its_own_operator_says() -> None:
    policy = Policy(health_check_timeout_s=2.0)  # of the first of them
    assert running(policy).handle(Vitals(handling_s=2.5, member="sums", member_s_max=3.0), 0.0) == []
    assert running(policy).handle(Vitals(handling_s=1e9, member="sums"), 0.0) == [], "it has no timeout"
    told = running(Policy()).handle(Vitals(handling_s=3.5, member="sums", member_s_max=3.0), 0.0)
    assert told[-1] == Signal(SIGKILL)
    assert "one handler call of sums took longer than 3 s" in str(told[0])


def test_a_handler_without_a_health_check_timeout_may_take_for_ever() -> None:
    assert running().handle(Vitals(0, 1e9), 0.0) == []


def test_a_stopped_child_is_killed_after_a_moment_unless_it_goes_on_in_time() -> None:
    child = running()
    assert child.handle(Vitals(stopped=True), 0.0) == []
    assert child.handle(Vitals(), STOPPED_S_MAX) == []
    assert child.handle(Vitals(stopped=True), 10.0) == []
    assert child.handle(Vitals(stopped=True), 10.0 + STOPPED_S_MAX)[-1] == Signal(SIGKILL)


def test_who_holds_the_write_lock_for_a_moment_is_left_alone() -> None:
    assert running().handle(Vitals(lock_s=LOCK_S_MAX), 0.0) == []


def test_what_arrives_after_our_kill_changes_nothing() -> None:
    child = led(LifecycleState.KILLED)
    for event in (SaidHello(), Claimed(), BecameReady(), Vitals(0, 99.0), Tick(), Reported("import", "x"), Abort()):
        child.handle(event, 0.0)
        assert child.state is LifecycleState.KILLED


# ---- stop


def test_the_stop_ladder() -> None:
    child = running()
    assert child.handle(StopAsked(5.0), 10.0) == [SendStop(5.0)]
    assert child.handle(StopAsked(5.0), 11.0) == [], "asked twice"
    assert child.handle(Tick(), 14.9) == []
    assert child.handle(Tick(), 15.0) == [Signal(SIGTERM)]
    assert child.handle(Tick(), 15.0 + TERM_S) == [Signal(SIGKILL)]
    assert child.handle(Exited(-9), 17.0) == [Touch()]
    assert (child.state, child.reason) == (LifecycleState.STOPPED, "did not stop in time")


def test_an_operator_that_stops_keeps_its_outputs_open_for_a_resume() -> None:
    child = running()
    child.handle(StopAsked(5.0), 0.0)
    child.handle(SaidBye(False), 0.0)
    assert child.handle(Exited(0), 0.0) == [Touch()]
    assert (child.state, child.reason) == (LifecycleState.STOPPED, "")


def test_an_operator_that_ends_while_it_is_being_stopped_has_ended() -> None:
    child = running()
    child.handle(StopAsked(5.0), 0.0)
    child.handle(SaidBye(True), 0.0)
    assert child.handle(Exited(0), 0.0) == [End(failed=False)]
    assert child.state is LifecycleState.ENDED


def test_a_crash_while_stopping_is_no_failure_of_the_run() -> None:
    child = led(LifecycleState.STOPPING)
    child.handle(Exited(1, HANDS), 0.0)
    assert child.state is LifecycleState.STOPPED


def test_a_child_that_is_not_running_yet_gets_sigterm_at_once() -> None:
    for state in (LifecycleState.STARTING, LifecycleState.RESTORING):
        assert led(state).handle(StopAsked(5.0), 0.0) == [Signal(SIGTERM)]
    silent = Lifecycle("a", Policy("node", has_ports=False))
    silent.handle(Start(), 0.0)
    silent.handle(Claimed(), 0.0)
    assert silent.handle(StopAsked(5.0), 0.0) == [Signal(SIGTERM)], "nobody there to read the event"


def test_a_custom_node_without_inputs_has_a_short_grace_because_it_may_never_ask_for_an_event() -> None:
    child = running(Policy("node", has_inputs=False))
    assert child.handle(StopAsked(5.0), 0.0) == [SendStop(1.0)]
    assert child.handle(Tick(), 1.0) == [Signal(SIGTERM)]


def test_a_late_hello_of_a_stopping_child_is_refused() -> None:
    child = Lifecycle("a", Policy())
    child.handle(Start(), 0.0)
    child.handle(StopAsked(5.0), 0.0)
    assert child.handle(SaidHello(), 0.0) == [Refuse("the run is stopping")]


def test_draining_a_node_ends_it() -> None:
    child = running()
    child.handle(StopAsked(5.0, drain=True), 0.0)
    child.handle(SaidBye(False), 0.0)
    assert child.handle(Exited(0), 0.0) == [End(failed=False)]
    assert child.state is LifecycleState.ENDED


def test_the_second_signal_kills_at_once() -> None:
    for state in (LifecycleState.STARTING, LifecycleState.RESTORING, LifecycleState.RUNNING, LifecycleState.STOPPING):
        child = led(state)
        assert child.handle(Abort(), 0.0) == [Signal(SIGKILL)]
        child.handle(Exited(-9), 0.0)
        assert child.state is LifecycleState.STOPPED


def test_a_node_that_waits_for_its_next_life_stops_without_one() -> None:
    for event in (StopAsked(5.0), Abort()):
        child = led(LifecycleState.BACKOFF)
        child.handle(event, 0.0)
        assert child.state is LifecycleState.STOPPED


# ---- dynamic nodes


def test_a_dynamic_node_is_never_spawned_and_its_hello_makes_the_claim() -> None:
    child = Lifecycle("a", Policy("dynamic", "never"))
    assert child.handle(Start(), 0.0) == []
    assert child.handle(SaidHello(), 0.0) == [Claim(1)]
    assert child.handle(Claimed(), 0.0) == [SendWelcome()]
    child.handle(BecameReady(), 0.0)
    assert child.deadline_s == NEVER


def test_a_dynamic_node_that_is_gone_is_waited_for_whatever_its_policy() -> None:
    child = running(Policy("dynamic", "never"))
    actions = child.handle(Exited(None, HANDS), 0.0)
    assert actions[0] == Touch()
    assert child.state is LifecycleState.WAITING
    assert child.handle(SaidHello(), 0.0) == [Claim(2, "it is gone", False, HANDS)]


def test_a_dynamic_node_that_said_it_is_done_has_ended() -> None:
    child = running(Policy("dynamic", "never"))
    child.handle(SaidBye(True), 0.0)
    assert child.handle(Exited(None), 0.0) == [End(failed=False)]


def test_a_dynamic_node_gets_the_stop_event_and_no_signal() -> None:
    child = running(Policy("dynamic", "never"))
    assert child.handle(StopAsked(5.0), 0.0) == [SendStop(5.0)]
    assert child.handle(Tick(), 5.0) == [Touch()]
    assert (child.state, child.reason) == (LifecycleState.STOPPED, "it did not stop in time")


def test_only_a_dynamic_node_may_come_uninvited() -> None:
    with pytest.raises(IllegalEvent):
        led(LifecycleState.WAITING).handle(SaidHello(), 0.0)
