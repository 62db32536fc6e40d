"""What an operator on trial sees of its run: it can read, and nothing that it does has an effect."""

from __future__ import annotations

from noderuntime.ipc.wiring import Wiring
from noderuntime.node.session import NodeSession
from noderuntime.space import keys, outbox, records
from noderuntime.space.environment import Space
from noderuntime.space.ports import Ports
from noderuntime.state import State


class TrialSession(NodeSession):
    """A session without a life: no incarnation, no commits, no pulse and no bell. It has only what `OperatorContext`
    reads and what making an operator takes.
    """

    def __init__(self, space: Space, wiring: Wiring, kvs: State, external: State | None) -> None:
        self.wiring = wiring
        self.space = space
        self.kvs = kvs
        self.external = external
        with space.read() as txn:
            found = txn.get(keys.node(wiring.number))
            self._outbox_last = None if external is None else outbox.last_of(txn, wiring.number)
        # those of a life that would begin now
        kept = records.NodeRecord(0, records.LIVE, 0, []) if found is None else records.NodeRecord.parse(found)
        self.incarnation = kept.incarnation + 1
        ports = Ports(space, wiring, records.NodeRecord(0, records.LIVE, 0, []), 0, {wiring.number})
        self.outputs = ports.outputs
        self.inputs = {item.number: item for item in ports.inputs.values()}
        self.mailboxes = [item.mailbox for item in self.inputs.values() if not item.wiring.period_ns]

    @property
    def outbox_last(self) -> bytes | None:
        return self._outbox_last

    def forked(self) -> None:
        """There is nothing that a fork could disturb."""

