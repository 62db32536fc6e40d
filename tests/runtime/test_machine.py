"""machine.py: what each machine made of it has in common. A lamp is the example."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import pytest

from noderuntime.runtime.machine import NEVER, IllegalEvent, Machine, Table


class Light(Enum):
    OFF = "off"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Pressed:
    twice: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    pass


LampEvent = Pressed | Broken


@dataclass(slots=True)
class Lamp(Machine[Light, LampEvent, str]):
    name: str
    state: Light = field(default=Light.OFF, kw_only=True)

    def table(self) -> Table[Lamp, Light, LampEvent, str]:
        return LAMP

    def press(self, event: LampEvent, now_s: float) -> list[str]:
        if not (isinstance(event, Pressed) and event.twice):
            self.state = Light.OFF if self.state is Light.ON else Light.ON
        return [f"{self.name} is {self.state.value}"]


LAMP: Table[Lamp, Light, LampEvent, str] = Table()
LAMP.row(Light.OFF, Pressed, Lamp.press, Light.ON)
LAMP.row(Light.ON, Pressed, Lamp.press, Light.OFF, Light.ON)


def test_an_event_changes_the_state_and_leads_to_actions() -> None:
    lamp = Lamp("hall")
    assert lamp.handle(Pressed(), 5.0) == ["hall is on"]
    assert lamp.state is Light.ON and lamp.since_s == 5.0 and lamp.deadline_s == NEVER


def test_a_step_that_stays_in_its_state_does_not_begin_it_again() -> None:
    lamp = Lamp("hall")
    lamp.handle(Pressed(), 5.0)
    lamp.handle(Pressed(twice=True), 6.0)
    assert lamp.state is Light.ON and lamp.since_s == 5.0


def test_an_event_without_a_row_is_refused_and_changes_nothing() -> None:
    lamp = Lamp("hall")
    before = repr(lamp)
    with pytest.raises(IllegalEvent, match="Broken cannot happen while off"):
        lamp.handle(Broken(), 1.0)
    assert repr(lamp) == before


def test_a_state_that_the_row_does_not_name_is_a_fault_of_the_table() -> None:
    with pytest.raises(AssertionError, match=r"off \+ Pressed.*: off is not in the table"):
        Lamp("hall").handle(Pressed(twice=True), 1.0)


def test_each_step_is_observed_those_that_raised_too() -> None:
    seen: list[object] = []
    lamp = Lamp("hall")
    lamp.observe = lambda *step: seen.append(step)
    lamp.handle(Pressed(), 1.0)
    with pytest.raises(IllegalEvent):
        lamp.handle(Broken(), 2.0)
    assert seen == [(Pressed(), 1.0, ["hall is on"]), (Broken(), 2.0, None)]


def test_a_machine_without_promises_of_its_own_breaks_none() -> None:
    assert Lamp("hall").broken_invariants(Pressed(), []) == []
