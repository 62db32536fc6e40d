#!/usr/bin/env bash
# bytewax 0.21.1: when its input ends, a flow gives out each open window as it is, and a recovery that goes on with
# later input opens the same window anew: a window comes out twice, each time with a part of its items. The state of
# stateful_map, in the same flow and the same recovery store, goes on where it was.
#
# Seen (Linux x86-64, Python 3.11), tumbling windows of 10 s, items at 1 s, 2 s; the input ends; then 3 s, 4 s, 12 s:
#   first run        window 0: [1, 2]        running sum 1, 3
#   second run       window 0: [3, 4], window 1: [12]        running sum 6, 10, 22
#   in one run       window 0: [1, 2, 3, 4], window 1: [12]  running sum 1, 3, 6, 10, 22
# A sink that takes the last value for a window keeps [3, 4]. Nothing is marked late, nothing is warned.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check bytewax==0.21.1
cd "$work"
venv/bin/python - <<'PY'
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, collect_window
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
CLOCK = EventClock(lambda item: START + timedelta(seconds=item), wait_for_system_duration=timedelta(seconds=60))
WINDOWS = TumblingWindower(length=timedelta(seconds=10), align_to=START)


def total(before: int | None, item: int) -> tuple[int, int]:
    return (before or 0) + item, (before or 0) + item


def runs(name: str, items: list, times: int) -> list[tuple[list, list]]:
    """What each run of one flow over one recovery store gives: the windows and the running sums."""
    store = Path(name)
    store.mkdir()
    init_db_dir(store, 1)
    windows, sums, late = [], [], []
    flow = Dataflow("flow")
    stream = op.input("in", flow, TestingSource(items, 1))
    window = collect_window("window", stream, CLOCK, WINDOWS)
    op.output("windows", window.down, TestingSink(windows))
    op.output("late", window.late, TestingSink(late))
    op.output("sums", op.stateful_map("sum", stream, total), TestingSink(sums))
    found = []
    for _ in range(times):
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(store))
        found.append(([value for _, value in windows], [value for _, value in sums]))
        print(name, found[-1])
        windows.clear(), sums.clear()
    assert late == []
    return found


def keyed(*items: int) -> list:
    return [("k", item) for item in items]


assert runs("two", [*keyed(1, 2), TestingSource.EOF(), *keyed(3, 4, 12)], 2) == [
    ([(0, [1, 2])], [1, 3]),
    ([(0, [3, 4]), (1, [12])], [6, 10, 22]),
]
assert runs("one", keyed(1, 2, 3, 4, 12), 1) == [([(0, [1, 2, 3, 4]), (1, [12])], [1, 3, 6, 10, 22])]
print("as described")
PY
