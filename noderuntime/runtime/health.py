"""When a live process is killed for what it does, or does not do. Pure.

A process that is stopped (SIGSTOP), or stays inside the space, may hold what all others need: the write lock, or old
pages that cannot be used again. A handler call that takes too long is the node's own fault. Waiting for input or for
room is none of these.
"""

from __future__ import annotations

from noderuntime.runtime.deaths import Death
from noderuntime.runtime.lifecycle_events import Vitals

STOPPED_S_MAX = 0.5
LOCK_S_MAX = 3.0
PIN_S_MAX = 1.0


def reason_to_kill(vitals: Vitals, stopped_s: float, handling_s_max: float | None) -> Death | None:
    """Why a process with these vitals has to be killed; None if it is well.

    `stopped_s`: for how long it has been stopped. `handling_s_max`: how long a handler call may take; None: any time.
    Only the last reason counts against the messages in hand.
    """
    if vitals.stopped and vitals.lock_s > 0:
        return Death("was stopped while it held the write lock", False)
    if vitals.lock_s > LOCK_S_MAX:
        return Death(f"held the write lock for more than {LOCK_S_MAX:g} s", False)
    if stopped_s >= STOPPED_S_MAX:
        return Death("was stopped (SIGSTOP)", False)
    if vitals.pinned_s > PIN_S_MAX:
        why = f"kept a read transaction (a `kvs.snapshot()`, say) open for more than {PIN_S_MAX:g} s"
        return Death(why, False)
    if handling_s_max is not None and vitals.handling_s > handling_s_max:
        whose = f" of {vitals.member}" if vitals.member else ""
        return Death(f"hung: one handler call{whose} took longer than {handling_s_max:g} s", True)
    return None
