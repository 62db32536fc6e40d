"""What a tap costs the sender: commits of one process into a space, without taps, with one that is read, and with one
that nobody reads. `python -m bench.taps [SECONDS]`; pairs in one run, medians of rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from noderuntime.ipc.rundir import RunDir
from noderuntime.ipc.wiring import InputWiring, OutputWiring, ReceiverWiring, Wiring
from noderuntime.space import keys, lives, records, taps
from noderuntime.space.commit import Commits
from noderuntime.space.environment import Space, create
from noderuntime.space.mailbox import Removal, next_messages, queue_of, remove
from noderuntime.space.staging import Staged

NODES: list[dict[str, Any]] = [
    {"id": "a", "kind": "node", "inputs": [], "outputs": ["out"]},
    {"id": "b", "kind": "node", "inputs": [["in", "a/out"]], "outputs": []},
]
ROUNDS = 15


class Place:
    """Where payloads of this size never go."""

    def __init__(self, space: Space) -> None:
        self.message_bytes_max = space.message_bytes_max
        self.event_bytes_max = space.event_bytes_max


def sender(space: Space) -> Commits:
    with space.write() as txn:
        record = lives.node_record(txn, 0)
        record.incarnation = 1
        txn.put(keys.node(0), record.pack())
    receiver = ReceiverWiring(1, 0, 1 << 30, 1 << 40, False)
    timer = InputWiring("in", 0, "timer/secs/1", -1, 1, 1, True, period_ns=1)
    return Commits(space, Wiring("bench", "a", 0, "node", (timer,), (OutputWiring("out", 0, (receiver,)),)), 1)


def drain(space: Space, node: int) -> None:
    """What the receiver does, outside of the measured time."""
    mailbox, key = keys.mailbox(node, 0), keys.queue(node, 0)
    while found := next_messages(space, [mailbox], 5000):
        with space.write() as txn:
            queue = queue_of(txn, key)
            freed, freed_bytes = remove(txn, mailbox, queue, Removal(found))
            queue[records.QUEUED] -= freed
            queue[records.BYTES] -= freed_bytes
            txn.put(key, records.pack_queue(queue))


def burst(commits: Commits, place: Any, events: int, group: int, value: bytes) -> float:
    """Microseconds a message, of the quarter of the commits that was fastest: other programs want the cores, too."""
    output = commits.outputs["out"]
    spent = []
    for _ in range(events // group):
        staged = [Staged() for _ in range(group)]
        for event in staged:
            output.stage(event, value, None, place)
        began = time.perf_counter()
        done = commits.commit(staged, commits.space.now_ns())
        spent.append(time.perf_counter() - began)
        assert done == group
    return sorted(spent)[len(spent) // 4] / group * 1e6


def main() -> int:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        space = create(RunDir(Path(folder)).space, 1 << 30, "bench")
        with space.write() as txn:
            lives.register(txn, NODES)
        commits, place = sender(space), Place(space)
        cases = [(1, 64), (1, 4096), (64, 64), (64, 1024), (64, 4096)]
        print("us a message        without   tap, read   tap, full   (read - without)")
        for group, size in cases:
            value = bytes(size)
            found: dict[str, list[float]] = {"without": [], "read": [], "full": []}
            for _ in range(ROUNDS):
                for how, times in found.items():
                    with space.write() as txn:
                        topic = taps.topics(txn)["a/out"]
                        if how == "without":
                            taps.clear(txn)
                        else:
                            taps.change(txn, [topic], (), {})
                    if how == "full":
                        burst(commits, place, max(64, 9_000_000 // (size + 24) // 64 * 64), 64, value)
                    drain(space, 1)
                    if how == "read":
                        drain(space, keys.TAPS)
                    burst(commits, place, group, group, value)  # takes the wiring up
                    times.append(burst(commits, place, 64 * (8 if group == 1 else 30), group, value))
            middle = {how: statistics.median(times) for how, times in found.items()}
            more = middle["read"] - middle["without"]
            row = "".join(f"{middle[how]:11.2f}" for how in found)
            print(f"{group:3} x {size:5} B  {row}   {more:+10.2f}")
        space.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
