"""Where the messages of one output of a shared process go: to inputs inside, and to the mailboxes of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noderuntime.node.chain import InnerInput
from noderuntime.space.staging import Output


class Route:
    """Where the messages of one output go: `inner` are its inputs in this process, in the order of the file.

    `is_inner`: all of its inputs are, and none of them drops anything.
    """

    __slots__ = ("counter", "inner", "is_inner", "output", "variants")

    def __init__(self, output: Output, inner: Sequence[InnerInput[Any]]) -> None:
        self.output = output
        self.counter = output.counter
        self.inner = list(inner)
        self.variants: dict[int, Output] = {}  # the output without the inputs that are taken inside, which are bits
        self.look()

    def look(self) -> None:
        """Find whether its messages stay inside: operators have ended, or the output has other receivers."""
        is_all = len(self.inner) == self.output.copies and bool(self.inner)
        self.is_inner = is_all and not any(link.drops for link in self.inner)

    def without(self, taken: int) -> Output:
        """The output, to be committed to all receivers but the `taken` ones (a bit for each of `inner`).

        One of these goes to no receiver inside. So when a transaction has several for one receiver outside, it has a
        message for a mailbox inside, and is written message by message: packs of two of them would overlap.
        """
        found = self.variants.get(taken)
        if found is None:
            gone = {link.input.mailbox for bit, link in enumerate(self.inner) if taken >> bit & 1}
            found = self.variants[taken] = self.output.without(gone)
        return found
