"""Drives a run through its phases: turn after turn of the loop, also when a turn fails.

What our own code or a peer raises in a turn is told, and the loop continues. After FAILED_TURNS_MAX such turns in a
row the run gets nowhere, and ends; so it does at once when the store or the fork server cannot be kept running, or when
descriptors or memory ran out. All of these become `CannotContinue`, for phases.py to decide about.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from noderuntime.ipc.boundary import Boundary, all_of, describe
from noderuntime.runtime.flight_recorder import THE_RUN, FlightRecorder
from noderuntime.runtime.keepers import GaveUp
from noderuntime.runtime.logs import RunLog
from noderuntime.runtime.phases import CannotContinue, Phase, RunAction, RunEvent, RunPhase

FAILED_TURNS_MAX: Final = 100


class PhaseDriver:
    """See the head of this module. `do` carries out an action; `clock` gives monotonic seconds.

    `boundary` is the one of the runtime's loop. What led to its first failure is kept in the log for a replay.
    """

    def __init__(
        self,
        phase: RunPhase,
        recorder: FlightRecorder,
        log: RunLog,
        do: Callable[[RunAction], None],
        clock: Callable[[], float],
    ) -> None:
        self.phase = phase
        self.boundary = Boundary(self._tell_failure, passes=(GaveUp, OSError))
        self._recorder = recorder
        self._log = log
        self._do = do
        self._clock = clock
        self._failed_turns = 0
        recorder.follow(THE_RUN, phase)

    def run(self, begin: Callable[[], object], turn: Callable[[], object]) -> None:
        """Call `begin`, then `turn` until the run is over. An error that gets past this carries the last steps."""
        try:
            begin()
            while self.phase.state is not Phase.OVER:
                try:
                    self._turn(turn)
                except GaveUp as error:
                    self.feed(CannotContinue(str(error)))
                except OSError as error:  # descriptors or memory ran out where we cannot do without
                    self.feed(CannotContinue(f"the runtime cannot go on: {error.strerror or error}"))
        except Exception as error:
            error.add_note("\n".join(self._recorder.lines()))  # for the report of a bug
            raise

    def _turn(self, turn: Callable[[], object]) -> None:
        error = self.boundary.call("a turn of the runtime's loop", turn)
        self._failed_turns = 0 if error is None else self._failed_turns + 1
        if error is not None and self._failed_turns > FAILED_TURNS_MAX:
            self.feed(CannotContinue(f"the runtime cannot go on: {describe(error)}"))

    def feed(self, event: RunEvent) -> None:
        """Hand an event to the run's phase, and carry out its actions: all of them, even if some fail."""
        before = self.phase.state
        actions = self.phase.handle(event, self._clock())
        if self.phase.state is not before:
            self._log.keep(f"the run is {self.phase.state.value} ({type(event).__name__})")
        all_of(partial(self._do, action) for action in actions)

    def keep_steps(self) -> None:
        """Write the last steps of all machines into the log."""
        for line in self._recorder.lines():
            self._log.keep(line)

    def _tell_failure(self, text: str) -> None:
        self._log.warn(text)
        if self.boundary.caught == 1:
            self.keep_steps()
