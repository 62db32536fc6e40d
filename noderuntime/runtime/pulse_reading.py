"""What the pulse of a process tells the runtime while it lives."""

from __future__ import annotations

from noderuntime.ipc.pulse import CALLS, COMMITS, HANDLED, HANDLING, INCARNATION, PHASE, SINCE_NS, Glance, PulsePage


class PulseReading:
    """The pulse of one node, or of the operators that share the process of the first one."""

    def __init__(self, page: PulsePage) -> None:
        self._page = page
        self._seen = -1  # how much had been handled when that was last looked at, and when it was first seen
        self._seen_s = 0.0

    def begin_life(self) -> None:
        """Forget what was seen of the last one."""
        self._seen = -1

    def is_of(self, incarnation: int) -> bool:
        """Whether the life of this incarnation has begun to write it."""
        return incarnation > 0 and self._page.words[INCARNATION] == incarnation

    def glance(self, now_s: float, shared: bool) -> Glance:
        """What the process does now. `shared`: it has several operators, whose calls are counted."""
        words = self._page.words
        handled = words[CALLS if shared else HANDLED]
        if handled != self._seen:
            self._seen, self._seen_s = handled, now_s
        phase = words[PHASE]
        # a group of events has one SINCE_NS: what was seen to be handled meanwhile began later
        since_s = max(words[SINCE_NS] / 1e9, self._seen_s)
        return Glance(phase, words[COMMITS], max(1e-9, now_s - since_s) if phase == HANDLING else 0.0)
