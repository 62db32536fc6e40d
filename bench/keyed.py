"""A keyed running sum, 100 keys: ours durable against kill -9 and exactly-once, bytewax's in memory in one worker.

Records per second, from the first one sent to the last sum that a receiver has. Ours are three processes: a Source, the
`stateful_map`, and the receiver of the sums; bytewax's is one, the fastest way to run it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from bench.measure import Row, Section, at_least, over_rounds, per_s, ratio_over_rounds, said, times
from bench.systems import Run, RunFailed, alone, interleave, ours, result, scratch

ROUNDS = 3
BATCH = 100
COUNT_EACH = 100_000
COUNT_BATCHES = 1_000_000
RUN_S = 120.0
TIMES_MIN = 1.0


def of_ours(file: str, count: int, batch: int, start: Callable[..., AbstractContextManager[Run]] = ours) -> float:
    """Records per second of one round."""
    with scratch() as folder, start(file, folder, BENCH_COUNT=count, BENCH_BATCH=batch) as run:
        run.wait(RUN_S)
        found: dict[str, Any] = result(folder, "tally")
        if found["count"] != count or not found["right"]:
            raise RunFailed(f"{file}: {found['count']} of {count} sums, right: {found['right']}")
        return 1e9 * count / float(found["last_ns"] - result(folder, "begun"))


def of_bytewax(count: int, batch: int) -> float:
    found = alone("bytewax_sums.py", count, batch, timeout_s=RUN_S)
    if not found["right"]:
        raise RunFailed("bytewax summed wrongly")
    return float(found["rate"])


def measure(rounds: int) -> Section:
    found = interleave(
        rounds,
        {
            "batches": partial(of_ours, "sums_batches.yml", COUNT_BATCHES, BATCH),
            "bytewax batches": partial(of_bytewax, COUNT_BATCHES, BATCH),
            "each": partial(of_ours, "sums_each.yml", COUNT_EACH, 1),
            "bytewax each": partial(of_bytewax, COUNT_EACH, 1),
        },
        {"bytewax batches": "bytewax", "bytewax each": "bytewax"},
    )
    rows = []
    for side, what in (("batches", f"batches of {BATCH} records"), ("each", "single records")):
        theirs = found.get(f"bytewax {side}")
        ratio = ratio_over_rounds(found[side], theirs)
        rows.append(Row(what, per_s(over_rounds(found[side])), said("bytewax in memory", theirs, per_s), times(ratio),
                        f"at least {TIMES_MIN:g}x", at_least(ratio, TIMES_MIN),
                        f"keyed running sum, {what}, durable against kill -9"))  # fmt: skip
    return Section("Keyed running sum, records per second", rows, found)
