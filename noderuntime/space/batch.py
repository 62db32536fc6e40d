"""What the events of a group change together, summed up before the write lock is taken."""

from __future__ import annotations

from collections.abc import Sequence

from noderuntime.space.mailbox import Message
from noderuntime.space.segments import Segment
from noderuntime.space.staging import Input, Output, Staged

Send = tuple[int, bytes]  # the index of a message's first copy, which those of its others follow; its record


class Batch:
    """The sum of `events`: messages and keys of each output and input in order, the last value of each key and counter.

    `indexes` is how many copies of messages there are; they are numbered from 0 on.
    """

    def __init__(self, events: Sequence[Staged]) -> None:
        self.sends: dict[Output, list[Send]] = {}
        self.segments: list[tuple[Output, Segment]] = []
        self.acks: dict[Input, list[Message]] = {}
        self.private: dict[bytes, bytes | None] = {}
        self.counters: dict[int, int] = {}
        self.rare: list[tuple[int, Staged]] = []  # events that change more, and their places
        index = 0
        output = input = None  # of the message before: most events send and take by the same one
        for at, staged in enumerate(events):
            if staged.outputs is not None:
                for to, record, number, segment in staged.outputs:
                    if to is not output:
                        output = to
                        sends = self.sends.get(to) or self.sends.setdefault(to, [])
                    sends.append((index, record))
                    index += to.copies
                    self.counters[to.counter] = number
                    if segment is not None:
                        self.segments.append((to, segment))
            if staged.ack is not None:
                key, taken, record = staged.ack
                if taken is not input:
                    input = taken
                    acks = self.acks.get(taken) or self.acks.setdefault(taken, [])
                acks.append((key, record))
            if staged.private is not None:
                self.private.update(staged.private)
            if staged.rare is not None:
                self.rare.append((at, staged))
        self.indexes = index
