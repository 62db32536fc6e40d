"""When a run cannot go on: which nodes wait for nodes that failed, and which cycles have nothing left.

A node is *stuck* when

- it waits for room in the queue of a failed or stuck node, or in a space that is full of what such nodes keep; or
- it waits for messages with nothing queued, does nothing by itself (a timer, a Source, a program of the user's), and
  each of its inputs comes from an ended, failed or stuck node.

Stuck nodes may wait for each other in a cycle, so this is the largest set of which all that is true: all candidates,
less those that still wait for a node outside the set, until none is left to take out.

A run is *over* when a node has failed and every node that has not ended is failed or stuck. A cycle is *finished* when
no failure is involved: it is idle, and fed by ended nodes and itself alone. One of its nodes has to be told that its
inputs have ended; then the others end one after the other, each with what is still queued for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Doing(Enum):
    """What a node is doing at this moment."""

    ENDED = "ended"
    FAILED = "failed"
    WAITING = "waiting"  # for messages: it has nothing in hand
    FULL = "full"  # waits for room in the queues of its receivers
    CRAMPED = "cramped"  # waits for room in the space
    BUSY = "busy"  # anything else: it starts, handles, restarts, or is stopped


@dataclass(frozen=True, slots=True)
class Place:
    """A node as the judge sees it.

    `acts`: it may do something without being sent anything. `queued`: messages or notices wait for it. `senders`: the
    nodes that feed its inputs, timers left out. `full`: who has no room for what it sends; of a cramped node all others
    for which anything is queued.
    """

    doing: Doing
    acts: bool = False
    queued: bool = False
    senders: tuple[str, ...] = ()
    full: tuple[str, ...] = ()

    @property
    def is_idle(self) -> bool:
        return self.doing is Doing.WAITING and not self.acts and not self.queued


@dataclass(frozen=True, slots=True)
class Verdict:
    """`stuck`: the stuck nodes and whom each of them waits for. `over`: the run has to end. `opens`: the node of a
    finished cycle that has to be told that its inputs have ended; "" when there is none.
    """

    stuck: Mapping[str, tuple[str, ...]]
    over: bool
    opens: str


def judge(places: Mapping[str, Place]) -> Verdict:
    """Decide, for all nodes of a run at one moment, in the order of the file."""
    failed = {id for id, place in places.items() if place.doing is Doing.FAILED}
    ended = {id for id, place in places.items() if place.doing is Doing.ENDED}
    stuck = _largest(
        {id for id, place in places.items() if place.doing in (Doing.FULL, Doing.CRAMPED) or place.is_idle},
        lambda id, rest: _is_stuck(places[id], failed, ended, rest),
    )
    finished = _largest(
        {id for id, place in places.items() if place.is_idle},
        lambda id, rest: all(sender in ended or sender in rest for sender in places[id].senders),
    )
    waits = {
        id: tuple(dict.fromkeys(other for other in _waits_for(place) if other in failed or other in stuck))
        for id, place in places.items()
        if id in stuck
    }
    return Verdict(
        stuck=waits,
        over=bool(failed and stuck) and all(id in failed or id in ended or id in stuck for id in places),
        opens=next((id for id in places if id in finished and on_cycle(id, places, finished)), ""),
    )


def _waits_for(place: Place) -> tuple[str, ...]:
    return place.senders if place.doing is Doing.WAITING else place.full


def _is_stuck(place: Place, failed: Collection[str], ended: Collection[str], stuck: Collection[str]) -> bool:
    if place.doing is Doing.FULL:
        return any(receiver in failed or receiver in stuck for receiver in place.full)
    if place.doing is Doing.CRAMPED:
        return bool(place.full) and all(holder in failed or holder in stuck for holder in place.full)
    return bool(place.senders) and all(
        sender in ended or sender in failed or sender in stuck for sender in place.senders
    )


def _largest(candidates: set[str], holds: Callable[[str, set[str]], bool]) -> set[str]:
    """The largest part of `candidates` for each of which `holds(id, part)`."""
    while left_out := {id for id in candidates if not holds(id, candidates)}:
        candidates -= left_out
    return candidates


def on_cycle(id: str, places: Mapping[str, Place], within: Collection[str]) -> bool:
    """Whether a node feeds itself, through nodes of `within`."""
    return id in reachable(places[id].senders, places, within)


def reachable(start: Iterable[str], places: Mapping[str, Place], within: Collection[str]) -> set[str]:
    """Those of `start` that are in `within`, and all that feed them through nodes of `within`."""
    found: set[str] = set()
    todo = [id for id in start if id in within]
    while todo:
        id = todo.pop()
        if id not in found:
            found.add(id)
            todo += [sender for sender in places[id].senders if sender in within]
    return found


def endless(places: Mapping[str, Place]) -> set[str]:
    """Nodes whose inputs will not all end by themselves when Sources stop: they lie on a cycle, or get something from a
    failed node, directly or through others. While a run is drained their timers stand still, or it would never end.
    """
    open_ = {id for id, place in places.items() if place.doing is not Doing.ENDED}
    failed = {id for id in open_ if places[id].doing is Doing.FAILED}
    return {
        id
        for id in open_
        if on_cycle(id, places, open_) or reachable(places[id].senders, places, open_) & failed
    }


# ---- what people are told


def waits_text(place: Place, waits_for: tuple[str, ...], places: Mapping[str, Place]) -> str:
    """What a stuck node waits for, in words; "" when it is about to end."""
    if not waits_for:
        return ""
    named = ", ".join(f"{id} (failed)" if places[id].doing is Doing.FAILED else id for id in waits_for)
    match place.doing:
        case Doing.FULL:
            return f"waits for room in the queue of {named}"
        case Doing.CRAMPED:
            return f"waits for room in the space, which is full of messages for {named}"
        case _:
            return f"waits for messages of {named}"


def told(verdict: Verdict, places: Mapping[str, Place]) -> str:
    """Who waits for whom, and what keeps the run going, as one line."""
    waiting = "; ".join(
        f"{id} {waits_text(places[id], others, places)}" for id, others in verdict.stuck.items() if others
    )
    going = [
        id
        for id, place in places.items()
        if id not in verdict.stuck and place.doing not in (Doing.FAILED, Doing.ENDED)
    ]
    return waiting + (f". The run continues for: {', '.join(going)}" if going else "")
