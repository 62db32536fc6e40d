"""`--chaos`, the part that decides: when to kill whom, and what it came to.

The same seed draws the same pauses and the same order of preference at each kill. Whom it hits is the first in that
order who can be killed at that moment, so a repeated run differs only where the run itself does.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from noderuntime.dataflow.identifiers import node_of

PAUSE_SPREAD = (0.5, 1.5)  # of the interval that was asked for
FLOWS = ("taken", "queued", "dropped", "discarded", "dead")  # where a message that was sent can be


class Schedule:
    """When, and whom: draws from `seed`. `victims` in a fixed order; those that come later (`add`) behind them."""

    def __init__(self, seed: int, every_s: float, victims: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._every_s = every_s
        self._victims = list(victims)

    def add(self, victims: Sequence[str]) -> None:
        """These may be killed from now on, as well as those that are known already."""
        self._victims += (victim for victim in victims if victim not in self._victims)

    def pause_s(self) -> float:
        """Until the next kill."""
        return self._every_s * self._random.uniform(*PAUSE_SPREAD)

    def preference(self) -> list[str]:
        """All victims, the one to kill first; the next one when that is not possible now."""
        return self._random.sample(self._victims, len(self._victims))

    def pick(self, possible: Collection[str]) -> str | None:
        """The process to kill; None when none can be killed now. Draws in either case."""
        return next((victim for victim in self.preference() if victim in possible), None)


@dataclass(slots=True)
class Kill:
    """One kill. `back_s`: how long it took until the victim worked again; None: it, or the run, ended before."""

    victim: str
    at_s: float
    back_s: float | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """One output and one of its receivers. `source` is "node/output"."""

    source: str
    node: str
    input: str


@dataclass(frozen=True, slots=True)
class Balance:
    """Messages over one edge. `lost` were sent and are nowhere, `repeated` arrived more often than they were sent."""

    sent: int
    lost: int
    repeated: int


def balance(edge: Edge, before: Mapping[str, Any], after: Mapping[str, Any]) -> Balance:
    """What became of the messages over an edge between two looks at the store's figures (nodes by id)."""
    sent = [_sent(edge, figures) for figures in (before, after)]
    found = [_arrived(edge, figures) for figures in (before, after)]
    missing = (sent[1] - found[1]) - (sent[0] - found[0])
    return Balance(sent[1] - sent[0], max(missing, 0), max(-missing, 0))


def _sent(edge: Edge, figures: Mapping[str, Any]) -> int:
    node, _, output = edge.source.rpartition("/")
    return sum(found.get("outputs", {}).get(output, 0) for found in _replicas(node, figures))


def _arrived(edge: Edge, figures: Mapping[str, Any]) -> int:
    items = [found.get("inputs", {}).get(edge.input, {}) for found in _replicas(edge.node, figures)]
    return sum(item.get(name, 0) for item in items for name in FLOWS)


def _replicas(node: str, figures: Mapping[str, Any]) -> list[Any]:
    """The figures of a node, or of all its replicas."""
    return [found for id, found in figures.items() if node_of(id) == node]


@dataclass(slots=True)
class Report:
    """What a run under chaos came to. `victims`: who could be killed at the beginning; `again`: messages that custom
    nodes were handed a second time; `changed`: edges that a change of the dataflow has touched or brought, so that they
    are not in `balances`.
    """

    seed: int
    every_s: float
    victims: Sequence[str]
    kills: list[Kill] = field(default_factory=list)
    again: int = 0
    changed: int = 0
    balances: dict[Edge, Balance] | None = None  # None: the store could not be asked
    lasted_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost and nothing repeated, as far as that is known."""
        return all(not (item.lost or item.repeated) for item in (self.balances or {}).values())

    def lines(self) -> list[str]:
        """For people."""
        count = len(self.kills)
        first = f"chaos: {count} kill{'' if count == 1 else 's'} in {self.lasted_s:.1f} s"
        found = [f"{first}; once more: --chaos {self.every_s:g}s --seed {self.seed}"]
        if count:
            rows = [("victim", "kills", "back after p50", "max", "")]
            came_later = (kill.victim for kill in self.kills if kill.victim not in self.victims)
            for victim in dict.fromkeys([*self.victims, *came_later]):
                mine = [kill for kill in self.kills if kill.victim == victim]
                back = [kill.back_s for kill in mine if kill.back_s is not None]
                figures = (_ms(median(back)), _ms(max(back))) if back else ("-", "-")
                missing = len(mine) - len(back)
                note = f"{missing} not back before it or the run ended" if missing else ""
                rows.append((victim, str(len(mine)), *figures, note))
            found += [f"  {line}" for line in _aligned(rows)]
        else:
            found.append("  the run was over before anything could be killed")
        return [*found, *self._messages()]

    def _messages(self) -> list[str]:
        if self.balances is None:
            return ["  messages: the store could not be asked for its counts"]
        all_of = self.balances.values()
        sent, lost, repeated = (sum(getattr(item, name) for item in all_of) for name in ("sent", "lost", "repeated"))
        found = [f"  messages sent {sent}, lost {lost}, repeated {repeated}"]
        if self.changed:
            found.append(f"  not counted, because the dataflow was changed there: {self.changed} of its connections")
        if self.again:
            found.append(f"  handed to custom nodes once more, which get each message at least once: {self.again}")
        for edge, item in self.balances.items():
            if item.lost or item.repeated:
                where = f"{edge.source} -> {edge.node}.{edge.input}"
                found.append(f"  {where}: sent {item.sent}, lost {item.lost}, repeated {item.repeated}")
        return found

    def facts(self) -> dict[str, Any]:
        """For programs; times in seconds."""
        balances = self.balances or {}
        return {
            "seed": self.seed,
            "every": self.every_s,
            "lasted": round(self.lasted_s, 3),
            "kills": [
                {
                    "victim": kill.victim,
                    "at": round(kill.at_s, 3),
                    "back_after": None if kill.back_s is None else round(kill.back_s, 6),
                }
                for kill in self.kills
            ],
            "messages": [
                {
                    "source": edge.source, "node": edge.node, "input": edge.input, "sent": item.sent, "lost": item.lost,
                    "repeated": item.repeated,
                }
                for edge, item in balances.items()
            ],
            "handed_again": self.again,
        }  # fmt: skip


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column is aligned left, figures right; the last one, a note, is as it comes."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    found = []
    for first, *figures, note in rows:
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True)]
        found.append("  ".join([first.ljust(widths[0]), *cells, note]).rstrip())
    return found


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
