"""The order of messages between operators that share a process: which of them are handled inside, and when. Pure.

An event enters the process: a message of a mailbox, a tick, a line of a Source. What its handler sends to operators of
the same process is handled in the same transaction, first in, first out, each message after the handler that sent it
has returned. A message goes through its mailbox instead, and is then an entering event of its own, when

    (a) that mailbox is not empty: messages of one sender and input keep their order,
    (b) its input is `drop_oldest`, as one input of each cycle is, or its receiver has ended,
    (c) the sender handles its STOP event, or the event in hand is handled unfused (see below),
    (d) the event in hand has made INNER_MESSAGES_MAX messages, or as many bytes as one event may send.

Unfused: an event that is no message cannot become a dead letter. So when it has failed, the next life commits it alone,
and what it sent inside one message a commit. The bad message then is one of a mailbox, and is counted there.

While mailboxes inside have messages, the one farthest downstream is emptied first: then each message's consequences
are over before the next one's begin, and mailboxes inside, which have no limit, stay short.

The inputs and outputs can change while the process runs. An event, with what it makes inside, is handled with those of
the moment at which it enters. Then the receivers that were added join: they get what the next events send. Receivers
that were removed, and limits of queues, do not wait for that: the commit takes them up. What waits in the mailbox of an
input inside that is removed still comes before what waits outside.

Rejected: handling a message at the call that sends it. Handlers would be called inside handlers, and a fan-out would
deliver the last receiver's answer before the first one's question.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from noderuntime.api.events import Event

INNER_MESSAGES_MAX: Final = 1000

_Receiver = TypeVar("_Receiver")


class InnerInput(Generic[_Receiver]):
    """An input that an operator of the same process feeds. `receiver` is the operator that it belongs to. `alone` is
    the output that feeds it, to this input only. `depth`: over how many inputs inside it is reached at most.
    `is_timed`: it has a timeout.
    """

    __slots__ = ("alone", "depth", "drops", "input", "is_timed", "name", "receiver", "source", "waits")

    def __init__(self, receiver: _Receiver, name: str, source: str, drops: bool, input: Any = None) -> None:
        self.receiver = receiver
        self.name = name
        self.source = source
        self.input = input  # what its receiver knows it by
        self.is_timed = False
        self.depth = 0
        self.alone: Any = None
        self.drops = drops  # drop_oldest; or its receiver has ended, and its mailbox counts what is discarded
        self.waits = False  # something is in its mailbox, or will be once the event in hand is committed


def measure(fed: Sequence[tuple[_Receiver, InnerInput[_Receiver]]]) -> None:
    """Find the depth of inputs inside, each with its sender. Without those that drop: cycles go through them."""
    for _, link in fed:
        link.depth = 0
    deeper = True
    while deeper:
        deeper = False
        for sender, link in fed:
            depth = 1 + max((to.depth for _, to in fed if to.receiver is sender), default=0)
            if depth > link.depth:
                link.depth, deeper = depth, True


class Chain(Generic[_Receiver]):
    """The messages inside a process, from one entering event to the next.

    `queue` has each message with the input that it is for. `attempt` is that of the event in hand. `fused`: its
    messages may be handled inside. `open`: and no mailbox inside has anything, so that each of them will be.
    """

    __slots__ = ("_bytes_max", "attempt", "fused", "left", "left_bytes", "open", "queue", "waiting")

    def __init__(self, event_bytes_max: int) -> None:
        self._bytes_max = event_bytes_max
        self.queue: deque[tuple[InnerInput[_Receiver], Event]] = deque()
        self.waiting: list[InnerInput[_Receiver]] = []  # whose mailboxes come before what waits outside
        self.attempt = 1
        self.fused = True
        self.open = True
        self.left = INNER_MESSAGES_MAX
        self.left_bytes = event_bytes_max

    def enter(self, fused: bool, attempt: int = 1) -> None:
        """An event enters. What an event before it left behind when it failed is forgotten."""
        self.attempt = attempt
        self.fused = fused
        self.open = fused and not self.waiting
        self.left = INNER_MESSAGES_MAX
        self.left_bytes = self._bytes_max
        if self.queue:
            self.queue.clear()

    def takes(self, to: InnerInput[_Receiver]) -> bool:
        """Whether a message to this input is handled inside."""
        return self.fused and not to.waits and not to.drops

    def put(self, to: InnerInput[_Receiver], event: Event, size: int) -> None:
        """A message is to be handled inside; `size` are its bytes."""
        self.queue.append((to, event))
        self.left -= 1
        self.left_bytes -= size
        if self.left <= 0 or self.left_bytes <= 0:
            self.fused = self.open = False

    def passed_on(self, to: InnerInput[_Receiver]) -> None:
        """A message goes through the mailbox of this input: those behind it do, too, until that is empty."""
        if not to.waits and not to.drops:
            to.waits = True
            self.waiting.append(to)
            self.open = False

    def first(self) -> list[InnerInput[_Receiver]]:
        """Whose mailboxes are to be emptied now."""
        deepest = max((to.depth for to in self.waiting), default=0)
        return [to for to in self.waiting if to.depth == deepest]

    def emptied(self, to: InnerInput[_Receiver]) -> None:
        """Nothing is committed to the mailbox of this input that has not been handled."""
        to.waits = False
        self.waiting.remove(to)
        self.open = self.fused and not self.waiting
