"""The inputs of a shared process, and which of them its own operators feed. Both can change while it runs."""

from __future__ import annotations

from collections.abc import Sequence

from noderuntime.node.chain import Chain, InnerInput, measure
from noderuntime.node.chain_member import Member
from noderuntime.space.records import LIVE
from noderuntime.space.staging import Input


class ChainLinks:
    """`inputs`: all, by mailbox. `inner`: those that operators of the process feed; one that is leaving is among them
    until it is empty, although nothing feeds it any more. Both dicts stay the same objects.
    """

    def __init__(self, members: Sequence[Member], chain: Chain[Member]) -> None:
        self.inputs: dict[bytes, tuple[Member, Input]] = {}
        self.inner: dict[bytes, InnerInput[Member]] = {}
        self._members = members
        self._chain = chain

    def connect(self, statuses: Sequence[int]) -> None:
        """Find the inputs of now, and connect the outputs of the operators to them. Known ones stay the same objects.

        `statuses`: of the operators, as they are committed.
        """
        senders = {member.session.wiring.number: member for member in self._members}
        before = self.inner.copy()
        self.inputs.clear()
        self.inner.clear()
        fed: list[tuple[Member, InnerInput[Member]]] = []
        for member, status in zip(self._members, statuses, strict=True):
            member.ended = status != LIVE
            for item in member.session.inputs.values():
                self.inputs[item.mailbox] = member, item
                sender = senders.get(item.wiring.sender)
                if sender is None:
                    continue
                link = before.pop(item.mailbox, None) or InnerInput(member, item.name, item.source, False, item)
                self.inner[item.mailbox] = link
                link.source = item.source  # whose sender may have another id now
                link.drops = item.wiring.drop_oldest or member.ended
                link.is_timed = item.counter >= 0
                if link.waits and link.drops:
                    self._chain.emptied(link)
                if not item.wiring.drop_oldest and not item.wiring.leaving:
                    fed.append((sender, link))
        for link in before.values():
            if link.waits:
                self._chain.emptied(link)
        for member in self._members:
            member.connect(self.inner)
        measure(fed)
