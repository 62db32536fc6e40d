"""Why a process ended, and whether the messages that it had in hand are to blame."""

from __future__ import annotations

from dataclasses import dataclass

from noderuntime.ipc.protocol import EXIT_FENCED, EXIT_RELOAD
from noderuntime.runtime.lifecycle_events import Exited, Hands, Reported, SaidBye

SIGKILL, SIGTERM = 9, 15  # Linux's numbers, here because pure modules import nothing of the system
SIGNAL_NAMES = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
    24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Death:
    """Why a life ended. `counts`: towards max_attempts. `free`: asked for, costs no budget."""

    cause: str
    counts: bool
    hands: Hands = ()
    trace: str = ""
    free: bool = False
    permanent: bool = False


def death_of(event: Exited, kind: str, our_kill: Death | None, report: Reported | None, bye: SaidBye | None) -> Death:
    """The death of a life that should not have ended. `kind` of node; `our_kill`: why we killed it, if we did; `report`
    and `bye`: its last words, if it had any.
    """
    hands, status = event.hands, event.status
    if our_kill is not None:
        return Death(our_kill.cause, our_kill.counts, hands, free=our_kill.free)
    if report is not None:
        text = f"{report.where}: {report.error}"
        return Death(text, True, hands, report.trace, permanent=report.permanent)
    if status is None:
        return Death("it is gone", False, hands)
    if status == EXIT_RELOAD:
        return Death("reloaded", False, hands, free=True)
    if status == EXIT_FENCED:
        return Death("it was fenced", False, hands)
    if status < 0:
        return Death(SIGNAL_NAMES.get(-status, f"signal {-status}"), -status != SIGKILL, hands)
    if status == 0:
        # a custom node under `always` did nothing wrong; an operator must not leave without a word
        return Death("exit code 0", kind == "operator" and bye is None, hands)
    return Death(f"exit code {status}", True, hands)
