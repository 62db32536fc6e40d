"""Places the boxes and lines of a graph that flows from left to right. Units are pixels.

The usual layered drawing (K. Sugiyama, S. Tagawa, M. Toda 1981), in its simplest form: turn back edges away, put
each box one column behind its last sender, order each column by the mean height of what it is connected to, then
move boxes to that height as far as their neighbours allow. A line that passes a column gets a place of its own in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

COLUMN_GAP = 120.0
ROW_GAP = 34.0
LANE_GAP = 16.0
SWEEPS = 12
PASSES_MAX = 20_000  # beyond that many passed columns, lines cross boxes instead of finding a way around them


@dataclass(slots=True)
class Box:
    """A box to place: its size comes in, `x` and `y` of its upper left corner come out."""

    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    column: int = 0


@dataclass(slots=True)
class Line:
    """A line from a point on the right edge of one box to a point on the left edge of another.

    `start_y` and `end_y` are measured from the tops of their boxes. Out come the `points` on its way, and `back`:
    it leads backwards, below everything.
    """

    start: int
    end: int
    start_y: float
    end_y: float
    back: bool = False
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(slots=True)
class _Slot:
    """Something that takes room in a column: a box, or a line that passes."""

    height: float
    y: float = 0.0
    wanted: float = 0.0
    before: list[tuple[_Slot, float]] = field(default_factory=list)  # neighbour, how much higher its end is
    after: list[tuple[_Slot, float]] = field(default_factory=list)


def layout(boxes: Sequence[Box], lines: Sequence[Line]) -> tuple[float, float]:
    """Places all boxes and lines; returns width and height of the drawing."""
    if not boxes:
        return 0.0, 0.0
    _turn_back_edges(boxes, lines)
    _columns(boxes, lines)
    slots = [_Slot(box.height) for box in boxes]
    columns: list[list[_Slot]] = [[] for _ in range(1 + max(box.column for box in boxes))]
    for box, slot in zip(boxes, slots, strict=True):
        columns[box.column].append(slot)
    ways = _connect(boxes, lines, slots, columns)
    _order_and_place(columns)
    widths = [0.0] * len(columns)
    for box in boxes:
        widths[box.column] = max(widths[box.column], box.width)
    lefts = [sum(widths[:index]) + COLUMN_GAP * index for index in range(len(columns))]
    top = min(slot.y for column in columns for slot in column)
    for column in columns:
        for slot in column:
            slot.y -= top
    for box, slot in zip(boxes, slots, strict=True):
        box.x, box.y = lefts[box.column], slot.y
    bottom = max(slot.y + slot.height for column in columns for slot in column)
    lanes = 0
    for line, way in zip(lines, ways, strict=True):
        start, end = boxes[line.start], boxes[line.end]
        line.points = [(start.x + start.width, start.y + line.start_y)]
        if line.back:
            lanes += 1
            lane_y = bottom + ROW_GAP / 2 + LANE_GAP * lanes
            line.points += [(start.x + start.width, lane_y), (end.x, lane_y)]
        elif start.width < widths[start.column]:
            line.points.append((lefts[start.column] + widths[start.column], start.y + line.start_y))
        for column_index, slot in way:
            line.points += [
                (lefts[column_index], slot.y),
                (lefts[column_index] + widths[column_index], slot.y),
            ]
        line.points.append((end.x, end.y + line.end_y))
    height = bottom + (ROW_GAP / 2 + LANE_GAP * (lanes + 1) if lanes else 0.0)
    return lefts[-1] + widths[-1], height


def _turn_back_edges(boxes: Sequence[Box], lines: Sequence[Line]) -> None:
    """Marks the lines that close cycles, by a walk in depth."""
    out: list[list[Line]] = [[] for _ in boxes]
    for line in lines:
        out[line.start].append(line)
    fresh, open_, done = 0, 1, 2
    state = [fresh] * len(boxes)
    for root in range(len(boxes)):
        if state[root] != fresh:
            continue
        state[root] = open_
        walk = [(root, iter(out[root]))]
        while walk:
            here, rest = walk[-1]
            step = next(rest, None)
            if step is None:
                state[here] = done
                walk.pop()
            elif state[step.end] == open_:
                step.back = True
            elif state[step.end] == fresh:
                state[step.end] = open_
                walk.append((step.end, iter(out[step.end])))


def _columns(boxes: Sequence[Box], lines: Sequence[Line]) -> None:
    """Each box one column behind the last of its senders."""
    forward: list[list[int]] = [[] for _ in boxes]
    waiting = [0] * len(boxes)
    for line in lines:
        if not line.back:
            forward[line.start].append(line.end)
            waiting[line.end] += 1
    ready = [index for index, count in enumerate(waiting) if not count]
    while ready:
        here = ready.pop()
        for end in forward[here]:
            boxes[end].column = max(boxes[end].column, boxes[here].column + 1)
            waiting[end] -= 1
            if not waiting[end]:
                ready.append(end)


def _connect(
    boxes: Sequence[Box], lines: Sequence[Line], slots: list[_Slot], columns: list[list[_Slot]]
) -> list[list[tuple[int, _Slot]]]:
    """Gives passing lines their slots; returns for each line the columns that it passes."""
    passes = sum(max(0, boxes[line.end].column - boxes[line.start].column - 1) for line in lines if not line.back)
    ways: list[list[tuple[int, _Slot]]] = []
    for line in lines:
        way: list[tuple[int, _Slot]] = []
        ways.append(way)
        if line.back:
            continue
        here, here_y = slots[line.start], line.start_y
        between = range(boxes[line.start].column + 1, boxes[line.end].column) if passes <= PASSES_MAX else ()
        for index in between:
            slot = _Slot(0.0)
            columns[index].append(slot)
            way.append((index, slot))
            here.after.append((slot, -here_y))
            slot.before.append((here, here_y))
            here, here_y = slot, 0.0
        here.after.append((slots[line.end], line.end_y - here_y))
        slots[line.end].before.append((here, here_y - line.end_y))
    return ways


def _order_and_place(columns: list[list[_Slot]]) -> None:
    for column in columns:
        _pack(column)
    for sweep in range(SWEEPS):
        right = sweep % 2 == 0
        reorder = sweep < SWEEPS - 4
        for column in columns if right else reversed(columns):
            for slot in column:
                around = slot.before if right else slot.after
                heights = [other.y + shift for other, shift in around]
                slot.wanted = sum(heights) / len(heights) if heights else slot.y
            if reorder:
                column.sort(key=lambda slot: slot.wanted + slot.height / 2)
            _pack(column)
    for column in columns:  # at the end each slot hears both sides
        for slot in column:
            heights = [other.y + shift for other, shift in (*slot.before, *slot.after)]
            slot.wanted = sum(heights) / len(heights) if heights else slot.y
        _pack(column)


def _pack(column: list[_Slot]) -> None:
    """The heights nearest to the wanted ones (least squares) that keep the order and the gaps.

    Pool adjacent violators: subtract what the gaps add up to, merge neighbours that are out of order into blocks
    that stand at their mean, add it again.
    """
    offsets, total = [], 0.0
    for slot in column:
        offsets.append(total)
        total += slot.height + ROW_GAP
    blocks: list[tuple[float, int]] = []  # mean, how many slots
    for slot, offset in zip(column, offsets, strict=True):
        mean, count = slot.wanted - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean = (mean * count + other * others) / (count + others)
            count += others
        blocks.append((mean, count))
    index = 0
    for mean, count in blocks:
        for _ in range(count):
            column[index].y = mean + offsets[index]
            index += 1
