"""Reads the messages of several inputs in the order in which they were sent, each of them once.

What was read of one input, and waits for older messages of another, is kept in order instead of being read again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from noderuntime.space.environment import Space
from noderuntime.space.keys import MAILBOX_PREFIX_BYTES
from noderuntime.space.mailbox import Message, by_place, oldest


class Ahead:
    """The messages of a node that takes each of them once, in the order of `next_messages`, and does not drop any."""

    def __init__(self, space: Space, mailboxes: Sequence[bytes]) -> None:
        self._space = space
        self._mailboxes = mailboxes
        self._kept: list[list[Message]] = [[] for _ in mailboxes]
        self._last = [b""] * len(mailboxes)  # the key of the last message that was read of each input

    def to(self, mailboxes: Sequence[bytes]) -> Ahead:
        """The same for other inputs: where one of these was read already, it is not read again from its beginning."""
        found = Ahead(self._space, mailboxes)
        for number, mailbox in enumerate(self._mailboxes):
            if mailbox in mailboxes:
                at = mailboxes.index(mailbox)
                found._kept[at], found._last[at] = self._kept[number], self._last[number]
        return found

    def read(self, limit: int) -> list[Message]:
        """The next messages, as far as their order is known: about `limit`, or some more; none only if none wait.

        Of an input that may hold more than was read, the messages after its last one are unknown. So what the others
        have after that place has to wait. All that is committed later has later places.
        """
        if len(self._mailboxes) == 1 and not self._kept[0]:
            with self._space.read() as txn:
                found, _ = oldest(txn, self._mailboxes[0], limit, (), self._last[0])
            if found:
                self._last[0] = found[-1][0]
            return found
        horizon = b""  # the earliest place after which something is unknown; b"": everything was read
        kept = self._kept
        with self._space.read() as txn:
            for number, mailbox in enumerate(self._mailboxes):
                is_all = False
                if not kept[number]:
                    kept[number], is_all = oldest(txn, mailbox, limit, (), self._last[number])
                if not kept[number]:
                    continue
                self._last[number] = kept[number][-1][0]
                if not is_all:
                    last = self._last[number][MAILBOX_PREFIX_BYTES:]
                    if not horizon or last < horizon:
                        horizon = last
        found = []
        for number, messages in enumerate(kept):
            if not horizon or not messages or by_place(messages[-1]) <= horizon:
                found += messages
                kept[number] = []
            elif by_place(messages[0]) <= horizon:
                end = bisect_right(messages, horizon, key=by_place)
                found += messages[:end]
                kept[number] = messages[end:]
        found.sort(key=by_place)
        return found
