"""The changes of a group of events, summed up for one transaction before the write lock is taken. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from noderuntime.space.mailbox import Message, Removal
from noderuntime.space.packs import Parcel, parcels
from noderuntime.space.records import message_bytes
from noderuntime.space.segments import Segment
from noderuntime.space.staging import Input, Output, Staged


class Sending:
    """What a batch sends to one output: how many messages, the bytes that a queue counts for them, their records.

    A message has an index for each of its receivers: that of its first copy, and those that follow. The records hold
    the index for the first receiver.
    """

    __slots__ = ("count", "indexes", "lone", "messages", "records", "size")

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self.messages: list[bytes] = []
        self.lone = False  # whether a message has a segment

    def finish(self) -> None:
        """The last message was added."""
        self.count = len(self.messages)
        size = sum(map(len, self.messages))
        self.records: list[Parcel] = parcels(self.indexes, self.messages, size, self.lone)
        self.size = sum(map(message_bytes, self.messages)) if self.lone else size


class Batch:
    """The changes of a group of events, summed up before the write lock is taken: the records for each output, the
    messages of each input in order, the last value of each key and counter.

    `indexes` is the number of copies of messages; they are numbered from 0.
    """

    def __init__(self, events: Sequence[Staged]) -> None:
        self.sends: dict[Output, Sending] = {}
        taken_from: dict[Input, list[Message]] = {}
        self.segments: list[tuple[Output, Segment]] = []
        self.private: dict[bytes, bytes | None] = {}
        self.counters: dict[int, int] = {}
        self.rare: list[tuple[int, Staged]] = []  # events with rare changes, and their places
        inside: list[Input] = []
        self.loops = False  # something of it goes to a node of this process
        index = 0
        sending = Sending()
        output = input = None  # of the previous message: most events of a group use the same ones
        for at, staged in enumerate(events):
            if staged.outputs is not None:
                for to, record, number, segment in staged.outputs:
                    self.counters[to.counter] = number
                    if to is not output:
                        output = to
                        sending = self.sends.get(to) or self.sends.setdefault(to, Sending())
                        indexes, messages = sending.indexes, sending.messages
                        self.loops |= to.loops
                    indexes.append(index)
                    messages.append(record)
                    index += to.copies
                    if segment is not None:
                        sending.lone = True
                        self.segments.append((to, segment))
            if staged.ack is not None:
                key, taken, record = staged.ack
                if taken is not input:
                    input = taken
                    acks = taken_from.get(taken) or taken_from.setdefault(taken, [])
                acks.append((key, record))
            if staged.numbers is not None:
                self.counters.update(staged.numbers)
            if staged.inside is not None:
                inside += staged.inside
            if staged.private is not None:
                self.private.update(staged.private)
            if staged.rare is not None:
                self.rare.append((at, staged))
        self.inside = Counter(inside)  # how many messages each input took that were never in its mailbox
        self.indexes = index
        for sending in self.sends.values():
            sending.finish()
        self.acks = {taken: Removal(acks) for taken, acks in taken_from.items()}


def sum_up(group: Sequence[Staged]) -> Batch | None:
    """The sum of a group; None for what a lone message on its way brings: an event that sends one message at most."""
    if len(group) == 1 and (group[0].outputs is None or len(group[0].outputs) == 1):
        return None
    return Batch(group) if group else None
