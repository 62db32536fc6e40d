"""The results that a run must have: every state and every output, recomputed from the logs that the operators kept.

`check` raises AssertionError with what is not exact. It knows nothing of processes, kills or lives.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from support.cast import ENTRY, TICK, source_value, step
from support.flows import Flow, Vertex


@dataclass(slots=True)
class Found:
    """What a run has left in its space: by node private states, by (node, input) taken, dropped and queued messages, by
    (node, output) how many were sent; and what the custom nodes have written down."""

    states: dict[str, dict[str, bytes]]
    taken: dict[tuple[str, str], int]
    dropped: dict[tuple[str, str], int]
    queued: dict[tuple[str, str], int]
    discarded: dict[tuple[str, str], int]
    sent: dict[tuple[str, str], int]
    counts: dict[str, int]  # shared KVS: events by node, "": all
    written: dict[str, list[tuple[str, int, int, int, int]]] = field(default_factory=dict)


Entry = tuple[int, int, int, int]


def entries_of(state: dict[str, bytes]) -> list[Entry]:
    data = b"".join(state[key] for key in sorted(state) if key.startswith("log"))
    return list(ENTRY.iter_unpack(data))


def check(flow: Flow, found: Found) -> dict[str, list[int]]:
    """Compare all of it. Returns the outputs, by "node/output"."""
    streams: dict[str, list[int]] = {}
    for id, vertex in flow.nodes.items():
        for output in vertex.outputs:
            streams[f"{id}/{output}"] = []
    logs = {id: entries_of(found.states[id]) for id, vertex in flow.nodes.items() if vertex.role == "worker"}
    _sources(flow, found, streams, logs)
    totals = _replay(flow, streams, logs)
    for id, total in totals.items():
        assert int(found.states[id].get("total", b"0")) == total, f"{id}: its state is not what its events make of it"
        counted = found.counts.get(id, 0)
        assert counted == len(logs[id]), f"{id}: its shared count is {counted}, not {len(logs[id])}"
    everything = sum(len(log) for log in logs.values())
    counted = found.counts.get("", 0)
    assert counted == everything, f"the count that all write is {counted}, not {everything}"
    for id, vertex in flow.nodes.items():
        for output in vertex.outputs:
            sent, made = found.sent[id, output], len(streams[f"{id}/{output}"])
            assert sent == made or vertex.role == "counting", f"{id}/{output}: {sent} messages counted, {made} made"
        for name, link in vertex.inputs.items():
            if not link.is_timer:
                _input(id, vertex, name, found, logs, streams)
    return streams


def _sources(flow: Flow, found: Found, streams: dict[str, list[int]], logs: dict[str, list[Entry]]) -> None:
    """What sources sent: computed for operators; for custom nodes learned from a receiver, and checked."""
    for id, vertex in flow.nodes.items():
        if vertex.role == "source":
            count = vertex.config["count"]
            values = [source_value(vertex.config["seed"], number) for number in range(1, count + 1)]
            for output in vertex.outputs:
                streams[f"{id}/{output}"] = values
        elif vertex.role == "counting":
            for output in vertex.outputs:
                stream = streams[f"{id}/{output}"]
                stream.extend(_learned(flow, f"{id}/{output}", logs))
                _is_made_of_beginnings(id, vertex, stream)
                assert found.sent[id, output] == len(stream), f"{id}/{output}: a message was lost"


def _learned(flow: Flow, source: str, logs: dict[str, list[Entry]]) -> list[int]:
    for id, vertex in flow.nodes.items():
        for index, link in enumerate(vertex.inputs.values()):
            if link.source == source and id in logs:
                return [value for input, _, value, _ in logs[id] if input == index]
    return []


def _is_made_of_beginnings(id: str, vertex: Vertex, stream: list[int]) -> None:
    """A custom node that starts anew in each life: several beginnings of its sequence, the last one whole."""
    whole = [source_value(vertex.config["seed"], number) for number in range(1, vertex.config["count"] + 1)]
    at = 0
    for value in stream:
        at = at + 1 if at < len(whole) and value == whole[at] else 1
        assert value == whole[at - 1], f"{id}: {value} is nothing that it could have sent there"
    assert at == len(whole), f"{id}: only {at} of {len(whole)} came through in its last life"


def _replay(flow: Flow, streams: dict[str, list[int]], logs: dict[str, list[Entry]]) -> dict[str, int]:
    """Run all operators again, each along its log, as far as what they need is there: cycles go round."""
    left = {id: deque(log) for id, log in logs.items()}
    totals = dict.fromkeys(logs, 0)
    last = {(id, input): 0 for id in logs for input in [*range(len(flow.nodes[id].inputs)), TICK]}
    moved = True
    while moved:
        moved = False
        for id, log in left.items():
            vertex = flow.nodes[id]
            links = list(vertex.inputs.items())
            while log:
                input, number, value, dice = log[0]
                before = last[id, input]
                if input == TICK:
                    assert number > before, f"{id}: the tick {number} came after {before}"
                else:
                    name, link = links[input]
                    expected = number > before if link.drop else number == before + 1
                    assert expected, f"{id}.{name}: message {number} came after {before}"
                    stream = streams[link.source]
                    if number > len(stream):
                        break
                    sent = stream[number - 1]
                    assert sent == value, f"{id}.{name}#{number}: {value}, but sent was {sent}"
                last[id, input] = number
                log.popleft()
                moved = True
                totals[id], made = step(vertex.config["kind"], vertex.outputs, totals[id], input, value, dice)
                for output, payload in made:
                    streams[f"{id}/{output}"].append(payload)
    for id, log in left.items():
        assert not log, f"{id} handled {log[0]}, which nobody sent"
    return totals


def _input(
    id: str, vertex: Vertex, name: str, found: Found, logs: dict[str, list[Entry]], streams: dict[str, list[int]]
) -> None:
    """One input: everything that was sent was taken once, or dropped and counted."""
    link, at = vertex.inputs[name], (id, name)
    stream = streams[link.source]
    assert found.queued[at] == 0, f"{id}.{name}: {found.queued[at]} messages are still queued"
    taken, dropped, discarded = found.taken[at], found.dropped[at], found.discarded[at]
    assert taken + dropped + discarded == len(stream), (
        f"{id}.{name}: {taken} taken, {dropped} dropped, {discarded} discarded of {len(stream)}"
    )
    if not link.drop or link.size >= 100_000:
        assert found.dropped[at] == found.discarded[at] == 0, f"{id}.{name}: {found.dropped[at]} dropped"
    if vertex.role == "worker":
        index = list(vertex.inputs).index(name)
        handled = sum(1 for entry in logs[id] if entry[0] == index)
        assert handled == found.taken[at], f"{id}.{name}: {handled} handled, but {found.taken[at]} taken"
    elif vertex.role == "writing":
        lines = [line for line in found.written.get(id, []) if line[0] == name]
        seen: dict[int, int] = {}
        newest = 0
        for _, number, value, attempt, _ in lines:
            assert value == stream[number - 1], f"{id}.{name}#{number}: {value}, but sent was {stream[number - 1]}"
            assert number <= newest + 1, f"{id}.{name}: message {number} came after {newest}"
            assert attempt >= seen.get(number, 1), f"{id}.{name}#{number}: attempt {attempt} after {seen[number]}"
            seen[number] = attempt
            newest = max(newest, number)
        assert newest == len(stream), f"{id}.{name}: {newest} of {len(stream)} arrived"
