"""The outputs and inputs of one node of a process, and its part of what the commits of the process write."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from noderuntime.ipc.wiring import Wiring
from noderuntime.space import keys, records
from noderuntime.space.ending import Links
from noderuntime.space.environment import Space
from noderuntime.space.routing import groups_of
from noderuntime.space.staging import Input, Output, Receiver, ReplicaGroup
from noderuntime.space.transactions import ReadTxn
from noderuntime.space.writer import Writes


class Ports:
    """The outputs and inputs of one node of a process. `cells`: the places of its counters among those of the process,
    which are from `first` on, and behind all others when a change has added them. `own`: the nodes of the process.
    """

    def __init__(
        self, space: Space, wiring: Wiring, kept: records.NodeRecord, first: int, own: Collection[int]
    ) -> None:
        self.name = wiring.node
        self.status = kept.status
        self.counters = kept.counters + [0] * (counters_of(wiring) - len(kept.counters))
        self.cells = list(range(first, first + len(self.counters)))
        self.outputs: dict[str, Output] = {}
        self.inputs: dict[str, Input] = {}
        self.leaving: dict[int, Input] = {}  # inputs that are no longer in the dataflow, by number
        self.counters_of: dict[int, int] = {}  # the first counter of each input, by number; -1: it has none
        self._space = space
        self._own = own
        self._joining: dict[str, tuple[list[Receiver], dict[str, ReplicaGroup]]] = {}  # after `join`
        self._sent_before = wiring.replica << records.REPLICA_SHIFT
        with space.read() as txn:
            self._connect(txn, wiring, at_once=True)
        self.writes = Writes(wiring.number, self.links, first, first + len(self.counters), wiring.version)

    def _connect(self, txn: ReadTxn, wiring: Wiring, at_once: bool) -> None:
        """Find or make the outputs and inputs of a wiring. Those that are known stay the same objects, since events
        that are staged refer to them. `at_once`: receivers that were added need not wait for `join`.
        """
        reached: list[Receiver] = []
        for item in wiring.outputs:
            counter = records.output_counter(item.number)
            receivers = [Receiver(receiver) for receiver in item.receivers]
            reached += receivers
            groups = groups_of(txn, self._space, item.receivers)
            known = self.outputs.get(item.name)
            if known is not None and at_once:
                known.rewire(receivers, groups)
                continue
            if known is not None:
                known.narrow(receivers, groups)
                self._joining[item.name] = receivers, groups
                continue
            sent = self.counters[counter] or self._sent_before
            cell = self.cells[counter]
            output = Output(item.name, cell, receivers, sent, self._space.booted_ns, self._own, groups)
            self.outputs[item.name] = output
        there = {item.number: item for item in self.all_inputs()}
        self.fresh: list[int] = []  # the first counter of each input that had none before
        self.inputs.clear()
        self.leaving.clear()
        for entry in wiring.inputs:
            counter = self.cells[records.input_counter(entry.number)] if entry.period_ns or entry.timeout_ns else -1
            input = there.get(entry.number)
            had = -1 if input is None else self.counters_of[entry.number]
            if input is None:
                input = Input(wiring.number, entry, counter)
            else:
                input.wiring, input.source = entry, entry.source
            if had < 0 <= counter:
                self.fresh.append(counter)
            self.counters_of[entry.number] = counter
            if entry.leaving:
                self.leaving[entry.number] = input
            else:
                self.inputs[entry.name] = input
        self.links = Links(
            self.name,
            # those that have yet to join are told of its end, too; taps are told nothing of the lives of nodes
            [(to.node, to.mailbox, to.queue_key) for to in reached if to.node != keys.TAPS],
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

    def rewire(self, txn: ReadTxn, wiring: Wiring, end: int) -> int:
        """Take up another wiring. Returns how many counters that adds to those of the process, which are `end` now."""
        is_shared = len(self._own) > 1
        for name in self.outputs.keys() - {item.name for item in wiring.outputs}:
            self._joining.pop(name, None)
            self.outputs[name].narrow((), {})  # what it still sends there only counts
        added = max(0, counters_of(wiring) - len(self.cells))
        self.counters += [0] * added
        self.cells += range(end, end + added)
        self._connect(txn, wiring, at_once=not is_shared)
        self.writes.rewire(self.links, self.cells[self.writes.last - self.writes.first :], wiring.version)
        return added

    def join(self) -> None:
        """Receivers that were added get what is sent from now on. Not while anything is staged."""
        joining, self._joining = self._joining, {}
        for name, (receivers, groups) in joining.items():
            self.outputs[name].parts.clear()
            self.outputs[name].rewire(receivers, groups)


def counters_of(wiring: Wiring) -> int:
    """How many counters the record of a node has at least."""
    ends = [records.output_counter(item.number) + 1 for item in wiring.outputs]
    ends += [records.input_counter(item.number) + 2 for item in wiring.inputs if item.period_ns or item.timeout_ns]
    return max(ends, default=0)
