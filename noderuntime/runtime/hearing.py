"""What a node's process says, turned into events of its lifecycle and lines of the log, and what it is told in turn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from noderuntime.ipc.boundary import ERROR_CHARACTERS_MAX, NAME_CHARACTERS_MAX, TRACE_CHARACTERS_MAX, cut
from noderuntime.ipc.protocol import (
    Bye,
    Failed,
    Log,
    LogOf,
    MemberEnded,
    Message,
    Ready,
    ReloadFailed,
    Rewired,
    StopAll,
)
from noderuntime.runtime import lifecycle_events as su
from noderuntime.runtime.lifecycle_events import LifecycleState
from noderuntime.runtime.logs import record_of
from noderuntime.runtime.printed import record_in
from noderuntime.runtime.welcome import welcome

if TYPE_CHECKING:
    from noderuntime.runtime.children import Child

WELCOMED: Final = frozenset({LifecycleState.RESTORING, LifecycleState.RUNNING})  # running: it has no ports


def hear_line(child: Child, stream: str, line: str) -> None:
    """A line that its process has printed, which in a dataflow of dora may be a log record."""
    log, spec = child.services.run_log, child.spec
    record = record_in(child.id, line) if child.services.options.dora is not None else None
    if (0 if record is None else record.level) < spec.log_level:
        if spec.forwards_lines:
            log.keep_line(child.id, stream, line)
    elif record is not None:
        log.record(record, line)
    else:
        log.line(child.id, stream, line)


def note_state(child: Child, before: su.LifecycleState, event: su.LifecycleEvent) -> None:
    """Keep, for `logs --runtime`, that its state has changed; for helpers of dora, that it prints no more."""
    state, log = child.machine.state, child.services.run_log
    log.keep(f"{child.id} is {state.value} ({type(event).__name__})")
    if child.services.options.dora is not None and state in su.DONE and before not in su.DONE:
        log.ended(child.id)


def greet(child: Child, life: int) -> None:
    """Welcome a life, unless it was over before the others that it starts together with had come."""
    if life != child.machine.life or child.machine.state not in WELCOMED:
        return
    assert child.claim is not None  # a life is welcomed after its claim is answered
    opened_ns = child.services.barrier.opened_ns(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    wiring = child.wiring.ticking_from(opened_ns) if child.spec.together else child.wiring
    child.told_wiring = wiring.version
    for message in welcome(child.spec.kind, child.claim, wiring):
        child.send(message)


def tell_wiring(child: Child) -> None:
    """Tell a process that its inputs or outputs have changed, once it is ready."""
    if child.machine.state is LifecycleState.RUNNING and child.told_wiring != child.wiring.version:
        child.told_wiring = child.wiring.version
        child.send(Rewired(child.wiring.version, child.wiring.ports()))


def hear(child: Child, identity: bytes, message: Message) -> None:
    """A message over a connection of this node's, its present one or one of an earlier life."""
    match message:
        case Log() if message.level < child.spec.log_level:
            pass
        case Log():
            child.services.run_log.record(record_of(child.id, message))
        case LogOf():
            plain = Log(message.time, message.level, message.text, message.fields)
            child.services.run_log.record(record_of(child.member(message.node).id, plain))
        case MemberEnded() if identity == child.identity:
            child.member(message.node).has_ended = True
        case ReloadFailed():
            child.reloads_failed += 1
            error, trace = cut(message.error, ERROR_CHARACTERS_MAX), cut(message.trace, TRACE_CHARACTERS_MAX)
            child.reload_error = trace or error
            child.services.run_log.crash(child.id, "reload", f"{error} (the old code continues)", trace)
        case Failed():
            where = cut(message.where, NAME_CHARACTERS_MAX)
            error, trace = cut(message.error, ERROR_CHARACTERS_MAX), cut(message.trace, TRACE_CHARACTERS_MAX)
            raised = child.member(message.node)
            child.services.run_log.crash(raised.id, where, error, trace)
            if child.others:
                where = f"{where} of {raised.id}"
            if identity == child.identity:
                report = su.Reported(where, error, trace, message.permanent)
                child.feed(report, trusted=False)
                child.check_last_words()
        case Bye() if identity == child.identity:
            child.feed(su.SaidBye(message.ended, cut(message.reason, ERROR_CHARACTERS_MAX)), trusted=False)
            child.check_last_words()
            if child.spec.kind == "dynamic":
                child.peer_gone()
        case Ready() if identity == child.identity and message.incarnation == child.incarnation:
            child.feed(su.BecameReady(), trusted=False)
            child.tell_who_ends()
            tell_wiring(child)
        case StopAll() if identity == child.identity:
            child.services.stop_all(child.id)
        case _:
            pass  # out of turn, or of a life that is over
