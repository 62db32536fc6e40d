"""What state costs: 64 bytes saved with an event, shared values read and written."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.measure import Row, Section, p50, p99, us
from bench.systems import interleave, ours, result, scratch, tell

COUNT = 900
RUN_S = 60.0
SAVE_US_MAX = 10
READ_US_MAX = 3


def costs() -> dict[str, Any]:
    """Times in nanoseconds: of commits and calls at an event every 3 ms, and of calls in a row."""
    with scratch() as folder, ours("state.yml", folder, BENCH_COUNT=COUNT) as run:
        run.wait(RUN_S)
        found: dict[str, Any] = result(folder, "state")
        return found


def measure(rounds: int) -> Section:
    found = interleave(rounds, {"ours": costs}, tell)["ours"]

    def figure(group: str, name: str) -> float:
        return median(p50(costs[group][name]) for costs in found)

    def adds(kind: str) -> float:
        """What the call and the commit take more than those of an event that changes nothing."""
        return median(
            p50(costs["commits"][kind]) - p50(costs["commits"]["nothing"])
            + p50(costs["calls"][kind]) - p50(costs["calls"]["nothing"])
            for costs in found
        )  # fmt: skip

    saved = adds("save_state")
    read = figure("repeated", "kvs_read")
    read_p99 = median(p99(costs["repeated"]["kvs_read"]) for costs in found)
    rows = [
        Row("a commit of one event, every 3 ms", us(figure("commits", "nothing")), "", ""),
        Row("`save_state` of 64 B adds (call and commit)", us(saved), "", "", f"at most {SAVE_US_MAX} µs",
            saved <= SAVE_US_MAX * 1000),
        Row("`kvs_write` of 64 B adds (call and commit)", us(adds("kvs_write")), "", ""),
        Row("`kvs_read` of 64 B, p50", us(read), "", "", f"at most {READ_US_MAX} µs", read <= READ_US_MAX * 1000),
        Row("`kvs_read` of 64 B, p99", us(read_p99), "", ""),
        Row("`kvs_read`, once every 3 ms, caches cold", us(figure("calls", "kvs_read")), "", ""),
        Row("`kvs.set` of 64 B, immediate, p50", us(figure("repeated", "kvs.set")), "", ""),
    ]  # fmt: skip
    return Section("State", rows, {"ours": found})
