"""The outputs and inputs of one node of a process, and its part of what the commits of the process write."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from noderuntime.ipc.wiring import Wiring
from noderuntime.space import keys, records
from noderuntime.space.ending import Links
from noderuntime.space.environment import Space
from noderuntime.space.routing import groups_of
from noderuntime.space.staging import Input, Output, Receiver
from noderuntime.space.transactions import ReadTxn
from noderuntime.space.writer import Writes


class Ports:
    """The outputs and inputs of one node of a process. Its counters are those of the process from `first` on."""

    def __init__(
        self, space: Space, wiring: Wiring, kept: records.NodeRecord, first: int, own: Collection[int]
    ) -> None:
        self.name = wiring.node
        self.status = kept.status
        self.counters = kept.counters + [0] * (counters_of(wiring) - len(kept.counters))
        self.outputs: dict[str, Output] = {}
        self.inputs: dict[str, Input] = {}
        self.leaving: dict[int, Input] = {}  # inputs that are no longer in the dataflow, by number
        self._space = space
        self._first = first
        self._own = own
        self._sent_before = wiring.replica << records.REPLICA_SHIFT
        with space.read() as txn:
            self._connect(txn, wiring)
        self.writes = Writes(wiring.number, self.links, first, first + len(self.counters), wiring.version)

    def _connect(self, txn: ReadTxn, wiring: Wiring) -> None:
        """Find or make the outputs and inputs of a wiring. Those that are known stay the same objects, since events
        that are staged refer to them.
        """
        for item in wiring.outputs:
            counter = records.output_counter(item.number)
            receivers = [Receiver(receiver) for receiver in item.receivers]
            groups = groups_of(txn, self._space, item.receivers)
            known = self.outputs.get(item.name)
            if known is not None:
                known.rewire(receivers, groups)
                continue
            sent = self.counters[counter] or self._sent_before
            output = Output(item.name, self._first + counter, receivers, sent, self._space.booted_ns, self._own, groups)
            self.outputs[item.name] = output
        there = {item.number: item for item in self.all_inputs()}
        self.fresh: list[Input] = []  # those that were not there before
        self.inputs.clear()
        self.leaving.clear()
        for entry in wiring.inputs:
            watched = entry.period_ns or entry.timeout_ns
            counter = self._first + records.input_counter(entry.number) if watched else -1
            input = there.get(entry.number)
            if input is None:
                input = Input(wiring.number, entry, counter)
                self.fresh.append(input)
            else:
                input.wiring, input.source, input.counter = entry, entry.source, counter
            if entry.leaving:
                self.leaving[entry.number] = input
            else:
                self.inputs[entry.name] = input
        self.links = Links(
            self.name,
            [
                (to.node, to.mailbox, to.queue_key)
                for output in self.outputs.values()
                for to in output.receivers
                if to.node != keys.TAPS  # which is told nothing of the lives of nodes
            ],
            [(item.wiring.sender, item.mailbox, item.queue_key) for item in self.all_inputs()],
            [number for number in wiring.replicas if number != wiring.number],
            [number for item in wiring.inputs for number in item.replicas],
        )

    def has_routes(self) -> bool:
        """Whether a receiver of its outputs has replicas."""
        return any(output.routes is not None for output in self.outputs.values())

    def start_over(self, counters: Sequence[int]) -> None:
        """What was staged, and not committed, is given up: `counters` are those of the process."""
        for output in self.outputs.values():
            output.sent = counters[output.counter] or self._sent_before

    def all_inputs(self) -> list[Input]:
        """The inputs, those that are leaving included."""
        return [*self.inputs.values(), *self.leaving.values()]

    def rewire(self, txn: ReadTxn, wiring: Wiring) -> int:
        """Take up another wiring of the only node of a process. Returns how many counters that adds."""
        for name in self.outputs.keys() - {item.name for item in wiring.outputs}:
            self.outputs[name].rewire(())  # what it still sends there only counts
        added = max(0, counters_of(wiring) - len(self.counters))
        self.counters += [0] * added
        self._connect(txn, wiring)
        self.writes.rewire(self.links, self._first + len(self.counters), wiring.version)
        return added

    def tap(self, txn: ReadTxn, wiring: Wiring) -> None:
        """Take up the taps of this wiring, where operators share a process, and who owns slots: their inputs stay as
        they are.
        """
        for item in wiring.outputs:
            groups = groups_of(txn, self._space, item.receivers)
            self.outputs[item.name].tap([Receiver(to) for to in item.receivers if to.node == keys.TAPS], groups)
        self.writes.rewire(self.links, self.writes.last, wiring.version)


def counters_of(wiring: Wiring) -> int:
    """How many counters the record of a node has at least."""
    ends = [records.output_counter(item.number) + 1 for item in wiring.outputs]
    ends += [records.input_counter(item.number) + 2 for item in wiring.inputs if item.period_ns or item.timeout_ns]
    return max(ends, default=0)
