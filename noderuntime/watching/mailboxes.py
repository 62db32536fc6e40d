"""The tap server's side of the space: it taps outputs, and takes what they send out of their mailboxes.

The space is opened when the first output is tapped. What is taken is committed before it is passed on, so no message is
passed on twice by one server; what another one had taken and not passed on shows as a gap in the numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from noderuntime.dataflow import plain
from noderuntime.ipc.rundir import RunDir
from noderuntime.space import keys, lives, records, taps
from noderuntime.space.environment import Space, open_space
from noderuntime.space.in_force import in_force
from noderuntime.space.mailbox import Message, by_place
from noderuntime.space.segments import read_segment, referenced_bytes
from noderuntime.space.taps import Topic
from noderuntime.space.transactions import ReadTxn
from noderuntime.watching import frames
from noderuntime.watching.frames import BODY_BYTES_MAX, Frame

AT_ONCE: Final = 1000  # messages of one output in one transaction


@dataclass(slots=True)
class Tapped:
    """An output that is tapped: its mailbox, and the number of the last message that was taken from it."""

    topic: Topic
    input: int
    last: int


class Mailboxes:
    """All outputs that are tapped, by name."""

    def __init__(self, run_dir: RunDir) -> None:
        self._segments = run_dir.segments
        self._space: Space = open_space(run_dir.space)
        self._registry = b""
        self._topics: dict[str, Topic] = {}
        self.tapped: dict[str, Tapped] = {}

    def topics(self) -> dict[str, Topic]:
        """The outputs of the run as it is now: its dataflow may be changed while it runs."""
        with self._space.read() as txn:
            registry = txn.get(keys.fact("registry")) or b""
            if registry != self._registry:
                self._registry = registry
                self._topics = taps.topics(txn)
        return self._topics

    def follow(self, wanted: Collection[str]) -> dict[str, int]:
        """Tap these topics and no others. Returns those that are new, and the number of the last message of each.

        Raises StoreError when there is no room in the space, and leaves everything as it was.
        """
        known = self.topics()
        come = [known[name] for name in wanted if name in known and name not in self.tapped]
        stale = [item for name, item in self.tapped.items() if name not in wanted or known.get(name) != item.topic]
        come += [known[item.topic.name] for item in stale if item.topic.name in wanted and item.topic.name in known]
        come = [topic for topic in come if not self._rename(stale, topic)]
        if not come and not stale:
            return {}
        with self._space.write() as txn:
            gone = [(item.topic.node, item.topic.output) for item in stale]
            made = taps.change(txn, come, gone, _together(txn))
        for item in stale:
            del self.tapped[item.topic.name]
        for topic in come:
            input, count = made[topic.name]
            self.tapped[topic.name] = Tapped(topic, input, count)
        return {topic.name: made[topic.name][1] for topic in come}

    def _rename(self, stale: list[Tapped], topic: Topic) -> bool:
        """Whether a topic is one of the `stale` ones, under the name that its node has now: then its tap goes on."""
        for item in stale:
            if (item.topic.node, item.topic.output) == (topic.node, topic.output):
                stale.remove(item)
                del self.tapped[item.topic.name]
                self.tapped[topic.name] = Tapped(topic, item.input, item.last)
                return True
        return False

    def take(self) -> tuple[list[tuple[str, Frame]], bool]:
        """Take what waits. Returns the messages with the names of their topics, in the order in which they were sent,
        and whether there may be more.
        """
        found: list[tuple[Tapped, list[Message]]] = []
        with self._space.read() as txn:
            for item in self.tapped.values():
                messages = taps.waiting(txn, item.input, AT_ONCE)
                if messages:
                    found.append((item, messages))
        if not found:
            return [], False
        bodies = [[self._body(record) for _, record in messages] for _, messages in found]
        with self._space.write() as txn:
            good = [taps.take(txn, item.input, messages) for item, messages in found]
        taken: list[tuple[bytes, str, Frame]] = []
        for (item, messages), copies, are_whole in zip(found, bodies, good, strict=True):
            name = item.topic.name
            for message, body, is_whole in zip(messages, copies, are_whole, strict=True):
                if is_whole:
                    made, item.last = _frame(item.topic.shown, message[1], body)
                    taken.append((by_place(message), name, made))
        taken.sort(key=itemgetter(0))
        return [(name, made) for _, name, made in taken], any(len(messages) >= AT_ONCE for _, messages in found)

    def _body(self, record: bytes) -> bytes:
        """A copy of the body of a message that lies in a segment; b"" for one that is too large, or not there."""
        if record[1] != records.SEGMENT or referenced_bytes(records.reference_of(record)) > BODY_BYTES_MAX:
            return b""
        return read_segment(self._segments, records.reference_of(record))

    def counts(self) -> dict[str, int]:
        """The number of the last message that each tapped output has sent by now."""
        with self._space.read() as txn:
            return {name: taps.sent(txn, item.topic) for name, item in self.tapped.items()}

    def close(self) -> None:
        self._space.close()


def _frame(topic: str, record: bytes, outside: bytes) -> tuple[Frame, int]:
    """What a tap is told of a message, and the number of that."""
    kind, where, head_bytes, metadata_bytes, number, sent_ns = records.MESSAGE.unpack_from(record)
    at = records.MESSAGE_BYTES + metadata_bytes
    metadata, head = record[records.MESSAGE_BYTES : at], record[at : at + head_bytes]
    if where == records.SEGMENT:
        body, size = outside, referenced_bytes(records.reference_of(record))
    else:
        body = record[at + head_bytes :]
        size = len(body)
    if len(body) > BODY_BYTES_MAX:
        body = b""
    return frames.frame(["event", topic, number, kind, head, metadata, sent_ns, size], body), number


def _together(txn: ReadTxn) -> dict[int, list[int]]:
    """The nodes that share a process in the dataflow in force, by each of them."""
    record = in_force(txn)
    numbers = {id: entry.number for id, entry in lives.load(txn).items()}
    groups: dict[str, list[int]] = {}
    for id, process in _processes(record):
        if process and id in numbers:
            groups.setdefault(process, []).append(numbers[id])
    return {number: group for group in groups.values() for number in group}


def _processes(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each node with the name of the process that it shares."""
    for text in (record.get("dataflow"), record.get("leaving")):
        if text:
            for spec in plain.from_text(text).nodes:
                yield spec.id, spec.process
