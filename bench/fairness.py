"""Nobody starves: the hop of a light operator by itself, while both cores are busy, and beside those that commit.

The light one sends 64 bytes every 3 ms. Beside it runs nothing; as many busy loops as there are cores; an operator
that commits groups at full speed (a Source that saves and sends); one that commits single writes at full speed. The
floor, a bare unix datagram, beside the same busy loops says what of it the kernel's scheduler makes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

from bench.hop import one_way
from bench.measure import Row, Section, at_most, over_rounds, p50, p99, p999, ratio_over_rounds, times, us
from bench.systems import BENCH, interleave, ours, result, scratch

ROUNDS = 3
COUNT = 1000
WARMUP = 100
RUN_S = 120.0
ALONE_TIMES_MAX = 3.0

DATAFLOW = """\
nodes:
  - id: send
    operator:
      python: {here}/measured.py:Beat
      inputs: {{tick: timer/millis/3}}
      outputs: [out]
  - id: receive
    operator:
      python: {here}/measured.py:Latency
      inputs: {{value: send/out}}
"""
HEAVY = """\
  - id: heavy
    operator:
      python: {here}/busy.py:{heavy}
      outputs: [out]
"""


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """As many endless loops as there are cores."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def hop(beside: str, busy: bool = False) -> list[float]:
    """Latencies in nanoseconds of one round; `beside` is a class of ours/busy.py, or nothing."""
    with scratch() as folder:
        text = (DATAFLOW + (HEAVY if beside else "")).format(here=BENCH / "ours", heavy=beside)
        file = folder / "fairness.yml"
        file.write_text(text)
        (folder / "go").touch()
        with busy_cores() if busy else contextlib.nullcontext():
            with ours(file, folder, BENCH_COUNT=COUNT + WARMUP) as run:
                latency = folder / "latency.json"
                run.wait_for("the light one", latency.exists, RUN_S, 0.05)
                run.end()
            found: list[float] = result(folder, "latency")
        return found[WARMUP:]


def floor_busy() -> list[float]:
    with busy_cores():
        return one_way("datagram")


SIDES: dict[str, tuple[str, Callable[[], list[float]]]] = {
    "alone": ("alone", partial(hop, "")),
    "grouped": ("beside a Source that commits groups at full speed", partial(hop, "Grouped")),
    "single": ("beside an operator that commits single writes at full speed", partial(hop, "Single")),
    "busy": ("both cores busy with endless loops", partial(hop, "", True)),
    "floor": ("", partial(one_way, "datagram")),
    "floor busy": ("", floor_busy),
}
FLOORS = {"alone": "floor", "busy": "floor busy"}
MUST = ("grouped", "single")


def measure(rounds: int) -> Section:
    found = interleave(rounds, {name: side for name, (_, side) in SIDES.items()})
    rows = []
    for name, (what, _) in SIDES.items():
        if not what:
            continue
        sample = found[name]
        floor = found.get(FLOORS.get(name, ""))
        for label, figure in (("p50", p50), ("p99", p99), ("p99.9, all rounds together", p999)):
            whole = figure is p999
            mine = p999(list(chain(*sample))) if whole else over_rounds(sample, figure)
            peer = ""
            if floor:
                theirs = p999(list(chain(*floor))) if whole else over_rounds(floor, figure)
                peer = f"unix datagram {us(theirs)}"
            over = None
            if name != "alone" and whole:
                over = mine / p999(list(chain(*found["alone"])))
            elif name != "alone":
                over = ratio_over_rounds(sample, found["alone"], figure)
            ratio = "" if over is None else f"{times(over)} what it is alone"
            must = name in MUST and figure is p99
            shown = figure is p99 or (whole and name == "busy")
            headline = f"a light operator's hop, {what}, {label.partition(',')[0]}" if shown else ""
            rows.append(Row(f"{what}: {label}", us(mine), peer, ratio,
                            f"at most {ALONE_TIMES_MAX:g}x" if must else "",
                            at_most(over, ALONE_TIMES_MAX) if must else None, headline))  # fmt: skip
    return Section("A light operator's hop, 64 B, 3 ms between sends", rows, found)
