"""One hop: 64-byte values, 3 ms between sends, ours with its exactly-once commit, against the floor and dora."""

from __future__ import annotations

from functools import partial

from bench import floor
from bench.measure import Rounds, Row, Section, over_rounds, p50, p99, ratio_over_rounds, times, us
from bench.systems import dora, interleave, ours, result, scratch, tell

PAUSE_S = 0.003
COUNT = floor.COUNT
WARMUP = floor.WARMUP
RUN_S = 60.0
FLOOR_TIMES_MAX = 2.5
DORA_TIMES_MIN = 5.0


def through_ours(file: str) -> list[float]:
    """Latencies in nanoseconds of one round."""
    with scratch() as folder, ours(file, folder, BENCH_COUNT=COUNT + WARMUP, BENCH_PAUSE_S=PAUSE_S) as run:
        run.wait(RUN_S)
        found: list[float] = result(folder, "latency")
        return found[WARMUP:]


def through_dora() -> list[float]:
    """Latencies in nanoseconds of one round, Python node to Python node."""
    with scratch() as folder, dora("hop.yml", folder, BENCH_COUNT=COUNT + WARMUP, BENCH_PAUSE_S=PAUSE_S) as run:
        run.wait(RUN_S)
        found: list[float] = result(folder, "latency")
        return found[WARMUP:]


def rows_of(found: Rounds, side: str, what: str) -> list[Row]:
    """Ours against the floor and against dora."""
    mine = found[side]
    over_floor = ratio_over_rounds(mine, found["floor"], p50)
    under_dora = ratio_over_rounds(found["dora"], mine, p50)
    figures = {name: over_rounds(found[name], p50) for name in found}
    return [
        Row(f"{what}, p50", us(figures[side]), f"floor {us(figures['floor'])}", times(over_floor),
            f"at most {FLOOR_TIMES_MAX}x", over_floor <= FLOOR_TIMES_MAX),
        Row("", "", f"dora {us(figures['dora'])}", f"{times(under_dora)} faster",
            f"at least {DORA_TIMES_MIN:.0f}x", under_dora >= DORA_TIMES_MIN),
        Row(f"{what}, p99", us(over_rounds(mine, p99)), f"floor {us(over_rounds(found['floor'], p99))}",
            times(ratio_over_rounds(mine, found["floor"], p99))),
        Row("", "", f"dora {us(over_rounds(found['dora'], p99))}",
            f"{times(ratio_over_rounds(found['dora'], mine, p99))} faster"),
    ]  # fmt: skip


def measure(rounds: int) -> Section:
    found = interleave(
        rounds,
        {
            "floor": partial(floor.one_way, "datagram"),
            "operators": partial(through_ours, "hop_operators.yml"),
            "nodes": partial(through_ours, "hop_nodes.yml"),
            "dora": through_dora,
        },
        tell,
    )
    rows = rows_of(found, "operators", "operator to operator") + rows_of(found, "nodes", "node to node")
    return Section("One hop, 64 B, 3 ms between sends", rows, found)


if __name__ == "__main__":
    from bench.__main__ import alone

    alone(measure)
