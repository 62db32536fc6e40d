"""What the events of a group change together, summed up before the write lock is taken. Floor 2."""

from __future__ import annotations

from collections.abc import Sequence

from noderuntime.space.records import NOTICE_MIN, message_bytes
from noderuntime.space.segments import Segment
from noderuntime.space.shared import SharedWrite
from noderuntime.space.staged import Input, Output, Staged
from noderuntime.space.watching import Cursor


class Sends:
    """The messages of one output, in order: (index of the first copy, record). The other copies' indexes follow it."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.size = 0  # what one receiver's queue counts for them, in bytes


class Acks:
    """The messages of one input that were handled, in order: (key, record)."""

    __slots__ = ("counted", "messages", "size")

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.counted = 0  # without notices, which no queue counts
        self.size = 0  # bytes of those that count


class Batch:
    """The sum of `events`. `indexes` is how many copies of messages there are; they are numbered from 0 on."""

    __slots__ = ("acks", "attempts", "cells", "cursor", "ends", "events", "indexes", "private", "segments", "sends",
                 "shared", "stops_all")  # fmt: skip

    def __init__(self, events: Sequence[Staged]) -> None:
        self.events = len(events)
        self.sends: dict[Output, Sends] = {}
        self.segments: list[tuple[Output, Segment]] = []
        self.acks: dict[Input, Acks] = {}
        self.attempts: list[bytes] = []  # keys of messages that have an attempts record
        self.private: dict[bytes, bytes | None] = {}
        self.shared: list[tuple[int, list[SharedWrite]]] = []  # each with its event's place in the batch
        self.cells: dict[int, int] = {}
        self.cursor: Cursor | None = None
        self.ends = self.stops_all = False
        index = 0
        output = input = None  # of the message before: most events send and take by the same one
        for at, staged in enumerate(events):
            if staged.outputs is not None:
                for to, record, number, segment in staged.outputs:
                    if to is not output:
                        output, copies, cell = to, to.copies, to.cell
                        sends = self.sends.get(to) or self.sends.setdefault(to, Sends())
                    sends.messages.append((index, record))
                    index += copies
                    self.cells[cell] = number
                    if segment is None:
                        sends.size += len(record)
                    else:
                        sends.size += message_bytes(record)
                        self.segments.append((to, segment))
            if staged.ack is not None:
                key, taken, record = staged.ack
                if taken is not input:
                    input = taken
                    acks = self.acks.get(taken) or self.acks.setdefault(taken, Acks())
                acks.messages.append((key, record))
                if record[0] < NOTICE_MIN:
                    acks.counted += 1
                    acks.size += message_bytes(record) if record[1] else len(record)
            if staged.private is not None:
                self.private.update(staged.private)
            if staged.rare is not None:
                self._add_rare(staged, at)
        self.indexes = index

    def _add_rare(self, staged: Staged, at: int) -> None:
        rare = staged.rare
        assert rare is not None
        if rare.attempts and staged.ack is not None:
            self.attempts.append(staged.ack[0])
        if rare.shared:
            self.shared.append((at, rare.shared))
        if rare.cursor is not None:
            self.cursor = rare.cursor
        if rare.cells is not None:
            self.cells.update(rare.cells)
        self.ends |= rare.ends
        self.stops_all |= rare.stops_all
