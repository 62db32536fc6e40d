"""The last events and actions of a run, kept so that what happened in the field can be replayed. Pure.

`follow` makes a machine (a node's `Lifecycle`, or the run's `RunPhase`) report each step to the recorder. The last
STEPS_MAX steps of all machines are kept in a ring, and each machine as it was before the first of its steps there: a
step that leaves the ring is taken by that earlier machine. So `replay` gets the same actions from the same events,
however long the run was. The runtime writes `lines` into its log (`logs --runtime`) when something of its own fails,
and at the end of a run that failed; `parse` reads them.

    {"node": "sums", "machine": {"is": "Lifecycle", ...}}
    {"node": "sums", "at_s": 12.25, "event": {"is": "Exited", "status": -9, ...}, "actions": [{"is": "Spawn", ...}]}

`at_s` is the runtime's monotonic clock; `actions` is null where the machine raised, as it does for an event that cannot
happen. Vitals come ten times a second for each node: of those in a row that change nothing only the last is kept.

With `validating`, as in the tests, each step also has to keep `Machine.broken_invariants` empty.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Final

from noderuntime.runtime import deaths, lifecycle, lifecycle_events, machine, phases, policy, restart_budget
from noderuntime.runtime.lifecycle import Lifecycle
from noderuntime.runtime.lifecycle_events import LifecycleEvent, Vitals
from noderuntime.runtime.phases import RunEvent, RunPhase

STEPS_MAX: Final = 500
TRACE_CHARACTERS_MAX: Final = 1_000  # a node that crashes all the time must not fill memory and log with its traces
THE_RUN: Final = ""  # the node of the steps of the run's phase

Machine = Lifecycle | RunPhase
Event = LifecycleEvent | RunEvent
Actions = tuple[Any, ...] | None  # what a machine asked for; None when it raised


class BrokenInvariant(BaseException):
    """A step of a machine broke a promise that others rely on. Raised while validating only, to the end of the process:
    no boundary may catch it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one machine."""

    node: str
    at_s: float
    event: Event
    actions: Actions


class FlightRecorder:
    """See the head of this module."""

    def __init__(self, validating: bool = False, steps_max: int = STEPS_MAX) -> None:
        self.earlier: dict[str, Machine] = {}  # as they were before the first of their steps here
        self._ring: deque[Step] = deque()
        self._quiet: dict[str, Step] = {}  # the last step of a node, as long as it changes nothing
        self._validating = validating
        self._steps_max = steps_max

    @property
    def steps(self) -> list[Step]:
        """What is kept, oldest first."""
        return sorted([*self._ring, *self._quiet.values()], key=lambda step: step.at_s)

    def follow(self, node: str, machine: Machine) -> None:
        """Keep the steps of this machine from now on, unless they are kept already."""
        if machine.observe is not None:
            return
        while node in self.earlier:  # of another node that had this id
            node += "'"
        self.earlier[node] = copy.deepcopy(machine)
        machine.observe = partial(self._note, node, machine)

    def follow_new(self, machines: Mapping[str, Machine]) -> None:
        """Follow those of them that are not followed yet."""
        for node, known in machines.items():
            self.follow(node, known)

    def _note(self, node: str, machine: Machine, event: Event, at_s: float, actions: Sequence[Any] | None) -> None:
        taken = None if actions is None else tuple(map(_short, actions))
        step = Step(node, at_s, _short(event), taken)
        if isinstance(event, Vitals) and not event.stopped and taken == ():
            self._quiet[node] = step
        else:
            before = self._quiet.pop(node, None)
            self._ring.extend([step] if before is None else [before, step])
            while len(self._ring) > self._steps_max:
                _take(self.earlier, self._ring.popleft())
        if self._validating and actions is not None:
            broken = machine.broken_invariants(event, actions)
            if broken:
                raise BrokenInvariant(f"{node or 'the run'} after {event}: {'; '.join(broken)}")

    def lines(self) -> list[str]:
        """All that is kept, as lines of JSON: the earlier machines, then the steps, oldest first."""
        machines = [{"node": node, "machine": _plain(machine)} for node, machine in self.earlier.items()]
        steps = [
            {"node": step.node, "at_s": step.at_s, "event": _plain(step.event), "actions": _plain(step.actions)}
            for step in self.steps
        ]
        return [json.dumps(item) for item in (*machines, *steps)]


def _short(item: Any) -> Any:
    """An event or an action with the end of its trace, which is where a trace says what happened."""
    trace = getattr(item, "trace", "")
    return replace(item, trace=trace[-TRACE_CHARACTERS_MAX:]) if len(trace) > TRACE_CHARACTERS_MAX else item


def _take(machines: Mapping[str, Machine], step: Step) -> Actions:
    handle: Any = machines[step.node].handle  # the events of a node's steps are those of its machine
    try:
        return tuple(handle(step.event, step.at_s))
    except Exception:
        return None


def replay(earlier: Mapping[str, Machine], steps: Iterable[Step]) -> list[tuple[Step, Actions]]:
    """Feed the steps to copies of the earlier machines: each step, and the actions that it leads to now."""
    machines = copy.deepcopy(dict(earlier))
    return [(step, _take(machines, step)) for step in steps]


# ---- as text, and back

_TYPES: Final[dict[str, type]] = {
    name: found
    for module in (deaths, lifecycle, lifecycle_events, machine, phases, policy, restart_budget)
    for name, found in vars(module).items()
    if isinstance(found, type) and (is_dataclass(found) or issubclass(found, Enum))
}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return {"is": type(value).__name__, "value": value.value}
    if is_dataclass(value):
        shown = {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.repr}
        return {"is": type(value).__name__, **shown}
    if isinstance(value, list):
        return {"is": "list", "items": [_plain(item) for item in value]}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return tuple(_value(item) for item in plain)
    if not isinstance(plain, dict):
        return plain
    if plain["is"] == "list":
        return [_value(item) for item in plain["items"]]
    kind: Any = _TYPES[plain["is"]]
    if issubclass(kind, Enum):
        return kind(plain["value"])
    given = {field.name: _value(plain[field.name]) for field in fields(kind) if field.name in plain}
    made = kind(**{field.name: given.pop(field.name) for field in fields(kind) if field.init and field.name in given})
    for name, value in given.items():
        setattr(made, name, value)
    return made


def parse(lines: Iterable[str]) -> tuple[dict[str, Machine], list[Step]]:
    """What `lines` wrote last: the earlier machines by node, and the steps. Other lines of a log are passed over."""
    earlier: dict[str, Machine] = {}
    steps: list[Step] = []
    for line in lines:
        if not line.startswith('{"node": '):
            continue
        item = json.loads(line)
        if "machine" not in item:
            steps.append(Step(item["node"], item["at_s"], _value(item["event"]), _value(item["actions"])))
            continue
        if steps:  # it was written before, too
            earlier, steps = {}, []
        earlier[item["node"]] = _value(item["machine"])
    return earlier, steps
