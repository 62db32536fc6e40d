"""What state costs: 64 bytes saved with an event, shared values read and written, the latter two beside Redis.

Redis answers over its unix socket and keeps nothing on disk; ours is in the same shared memory as everything else, and
outlives any process of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.measure import Row, Section, at_least, faster, over_rounds, p50, p99, said, us
from bench.systems import alone, interleave, ours, result, scratch

ROUNDS = 3
COUNT = 900
CALLS = 4000
RUN_S = 60.0
SAVE_US_MAX = 10
READ_US_MAX = 3
GET_TIMES_MIN = 12.0
SET_TIMES_MIN = 4.0


def costs() -> dict[str, Any]:
    """Times in nanoseconds: of commits and calls at an event every 3 ms, and of calls in a row."""
    with scratch() as folder, ours("state.yml", folder, BENCH_COUNT=COUNT) as run:
        run.wait(RUN_S)
        found: dict[str, Any] = result(folder, "state")
        return found


def calls_of_a_node() -> dict[str, list[int]]:
    """Nanoseconds of each `node.kvs_read` and `node.kvs_write`, in a row."""
    with scratch() as folder, ours("kvs.yml", folder, BENCH_COUNT=CALLS) as run:
        run.wait(RUN_S)
        found: dict[str, list[int]] = result(folder, "kvs")
        return found


def calls_of_redis() -> dict[str, list[int]]:
    with scratch() as folder:
        found: dict[str, list[int]] = alone("redis_calls.py", folder, CALLS)
        return found


def measure(rounds: int) -> Section:
    found = interleave(
        rounds, {"ours": costs, "node": calls_of_a_node, "redis": calls_of_redis}, {"redis": "redis"}
    )
    mine, node, redis = found["ours"], found["node"], found.get("redis")

    def of(*path: str, figure: Callable[[list[int]], float] = p50) -> Callable[[dict[str, Any]], float]:
        def find(costs: dict[str, Any]) -> float:
            sample: Any = costs
            for name in path:
                sample = sample[name]
            return figure(sample)

        return find

    def figure(*path: str) -> str:
        return us(over_rounds(mine, of(*path)))

    def adds(kind: str) -> float:
        """What the call and the commit take more than those of an event that changes nothing."""
        return over_rounds(
            mine,
            lambda costs: sum(
                p50(costs[part][kind]) - p50(costs[part]["nothing"]) for part in ("commits", "calls")
            ),
        )  # fmt: skip

    saved = adds("save_state")
    read = over_rounds(mine, of("repeated", "kvs_read"))

    def beside_redis(what: str, sides: list[Any], path: tuple[str, ...], command: str, least: float,
                     headline: str = "") -> Row:  # fmt: skip
        ratio = None
        if redis:
            pairs = zip(sides, redis, strict=True)
            ratio = over_rounds([of(command)(there) / of(*path)(here) for here, there in pairs])
        return Row(what, us(over_rounds(sides, of(*path))), said(f"Redis {command.upper()}", redis, us, of(command)),
                   faster(ratio), f"at least {least:g}x", at_least(ratio, least), headline)  # fmt: skip

    read_name, write_name = "`kvs_read` of 64 B, p50", "immediate `kvs_write` of 64 B, p50"
    rows = [
        beside_redis(f"{read_name}, in an operator", mine, ("repeated", "kvs_read"), "get", GET_TIMES_MIN, read_name),
        beside_redis("the same in a custom node", node, ("kvs_read",), "get", GET_TIMES_MIN),
        Row("the same in an operator", us(read), "", "", f"at most {READ_US_MAX} µs", read <= READ_US_MAX * 1000),
        Row("its p99", us(over_rounds(mine, of("repeated", "kvs_read", figure=p99))),
            said("Redis GET", redis, us, of("get", figure=p99)), ""),
        Row("once every 3 ms, caches cold", figure("calls", "kvs_read"), "", ""),
        beside_redis(f"{write_name}, in a custom node", node, ("kvs_write",), "set", SET_TIMES_MIN, write_name),
        beside_redis("`ctx.kvs.set` of 64 B, in an operator", mine, ("repeated", "kvs.set"), "set", SET_TIMES_MIN),
        Row("its p99", us(over_rounds(mine, of("repeated", "kvs.set", figure=p99))),
            said("Redis SET", redis, us, of("set", figure=p99)), ""),
        Row("a commit of one event, every 3 ms", figure("commits", "nothing"), "", ""),
        Row("`save_state` of 64 B adds (call and commit)", us(saved), "", "", f"at most {SAVE_US_MAX} µs",
            saved <= SAVE_US_MAX * 1000, "`save_state` of 64 B adds to a commit"),
        Row("`ctx.kvs_write` of 64 B adds (call and commit)", us(adds("kvs_write")), "", ""),
    ]  # fmt: skip
    return Section("State", rows, found)
