"""Timer ticks and input timeouts of a node: which are due now, and when the next one is.

Each process makes those of its own node. Counters of the node record (see noderuntime.space.records) hold how far it
has come; they are committed with the event of the tick or timeout, so no life repeats or loses one. Several missed
ticks become one. All times are those of CLOCK_BOOTTIME.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from noderuntime.api.events import Event, notice, tick_event
from noderuntime.node.session import NodeSession
from noderuntime.space.staging import Input

Counters = dict[int, int]  # of the node record: number -> value

_NEVER_NS = 1 << 62


class Timers:
    """The timers of one node in one life, and its inputs with a timeout."""

    def __init__(self, session: NodeSession) -> None:
        self._session = session
        self._counters = session.commits.counters.copy()  # including staged changes
        self._is_quiet = False
        self._find()

    def _find(self) -> None:
        items = [] if self._is_quiet else self._session.inputs.values()
        self._ticking = [item for item in items if item.wiring.period_ns]
        self._watched = [item for item in self._session.inputs.values() if item.wiring.timeout_ns]

    def follow(self) -> None:
        """The session has taken up another wiring."""
        counters = self._session.commits.counters
        known = {item.number for item in (*self._ticking, *self._watched)}
        self._counters += counters[len(self._counters) :]
        self._find()
        for item in (*self._ticking, *self._watched):
            if item.number not in known:
                self._counters[item.counter : item.counter + 2] = counters[item.counter : item.counter + 2]

    def start_over(self) -> None:
        """What was staged and not committed was given up."""
        self._counters = self._session.commits.counters.copy()

    def __bool__(self) -> bool:
        return bool(self._ticking or self._watched)

    def quieten(self) -> None:
        """Make no more ticks: the run is drained. Timeouts of inputs continue."""
        self._is_quiet = True
        self._find()

    def due(self, in_hand: Collection[bytes] = ()) -> Iterator[tuple[Event, Counters]]:
        """Each tick and timeout that is due, once, and the counters to commit with it, which are noted here already.

        An input with waiting messages is not silent; messages in `in_hand` do not count as waiting.
        """
        if self._ticking:
            wall_ns, boot_ns = self._session.space.clock
            for item in self._ticking:
                period_ns = item.wiring.period_ns
                since_ns = self._first_ns(period_ns)
                number = (now_ns() - since_ns) // period_ns
                if number != self._counters[item.counter]:  # less: the period was changed before a resume
                    tick = tick_event(item.name, item.source, wall_ns + since_ns - boot_ns + number * period_ns)
                    yield tick, self._note({item.counter: number})
        for item in self._watched:
            if self._left_ns(item) <= 0 and not self._session.has_messages(item, in_hand):
                yield notice("INPUT_CLOSED", item.name), self._note({item.counter + 1: 1})

    def is_due(self, in_hand: Collection[bytes] = ()) -> bool:
        """Whether `due` would give anything now."""
        if self._ticking:
            for item in self._ticking:
                period_ns = item.wiring.period_ns
                if (now_ns() - self._first_ns(period_ns)) // period_ns != self._counters[item.counter]:
                    return True
        waits = self._session.has_messages
        return any(self._left_ns(item) <= 0 and not waits(item, in_hand) for item in self._watched)

    def _first_ns(self, period_ns: int) -> int:
        """When ticks of this period are counted from: the first one comes a period later. Of a node whose wiring says
        when its ticks begin, that is the moment; else it is the beginning of the space's clock.
        """
        from_ns = self._session.wiring.ticks_from_ns
        return from_ns - period_ns if from_ns else self._session.space.clock[1]

    def recovery(self, input: Input) -> Counters | None:
        """A message of `input` has come: the counters for INPUT_RECOVERED, if the input had timed out."""
        return self._note({input.counter + 1: 0}) if self._counters[input.counter + 1] else None

    def arrival(self, input: Input) -> Counters:
        """The counters to commit with a message of `input`."""
        self._session.cut_off.discard(input.number)
        return self._note({input.counter: now_ns(), input.counter + 1: 0})

    def pause_s(self, longest_s: float) -> float:
        """How long until the next one is due, at most `longest_s`."""
        pause_ns = int(longest_s * 1e9)
        if self._ticking:
            periods = [item.wiring.period_ns for item in self._ticking]
            pause_ns = min(pause_ns, *((self._first_ns(each) - now_ns()) % each for each in periods))
        for item in self._watched:
            pause_ns = min(pause_ns, max(0, self._left_ns(item)))
        return pause_ns / 1e9

    def _left_ns(self, item: Input) -> int:
        """The time until `item` times out; very long if no message has come yet, or it has timed out already."""
        last_ns, timed_out = self._counters[item.counter], self._counters[item.counter + 1]
        session = self._session
        if not last_ns or timed_out or item.number in session.closed or item.number in session.cut_off:
            return _NEVER_NS
        return last_ns + item.wiring.timeout_ns - now_ns()

    def _note(self, counters: Counters) -> Counters:
        for counter, value in counters.items():
            self._counters[counter] = value
        return counters


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
