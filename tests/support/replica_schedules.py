"""Random schedules for replicas: a keyed dataflow with replicas, faults at named points, kills from outside, and other
numbers of replicas at each resume, all of it out of one seed.

    python tests/support/replica_schedules.py 100 --seed 17     those from seed 17 on
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
import traceback
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.replica_cast import key_of
from support.schedules import FORK_SERVER, OPERATOR_OFTEN, OPERATOR_ONCE, RUNTIME, STORE, fault
from support.stage import Fault, Stage

REPLICATED = ("sums", "counts", "free")


@dataclass(frozen=True, slots=True)
class Schedule:
    """`replicas`: of each replicated node at the first start; `chaos`: processes are killed from outside too."""

    seed: int
    count: int
    batch: int
    pause_ms: int
    size: int
    replicas: dict[str, int]
    chaos: bool
    faults: list[Fault] = field(default_factory=list)

    def yaml(self, replicas: dict[str, int]) -> str:
        """The dataflow file. JSON is YAML."""
        common = {"restart_policy": "on-failure", "max_restarts": 0, "restart_delay": "5ms", "max_attempts": 0,
                  "max_restart_delay": "50ms"}  # fmt: skip

        def link(source: str) -> dict[str, Any]:
            return {"source": source, "queue_size": self.size}

        def node(id: str, name: str, outputs: list[str], inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
            operator = {"python": f"replica_cast.py:{name}", "inputs": inputs, "outputs": outputs}
            return {"id": id, "operator": operator, **common, **more}

        settings = {"count": self.count, "batch": self.batch, "pause_ms": self.pause_ms}
        nodes = [
            node("numbers", "Numbers", ["out"], {}, config=settings),
            node("sums", "sums", ["out"], {"in": link("numbers/out")}, partition_by="value.key"),
            node("counts", "Counts", ["out", "rang"], {"in": link("sums/out"), "tick": "timer/millis/20"},
                 partition_by="value.other"),
            node("free", "Free", ["out"], {"in": link("sums/out")}),
            node("sink", "Sink", [], {"sum": link("sums/out"), "count": link("counts/out"), "rang": link("counts/rang"),
                                      "free": link("free/out")}),
        ]  # fmt: skip
        for item in nodes:
            item["replicas"] = replicas.get(item["id"], 1)
        return json.dumps({"state": {"size": "48MB"}, "snapshots": {"to": "none"}, "nodes": nodes}, indent=1)


def schedule(seed: int) -> Schedule:
    rng = random.Random(seed)
    replicas = {node: rng.choice([1, 2, 3, 4]) for node in REPLICATED}
    plan = Schedule(
        seed, rng.choice([80, 200, 400]), rng.choice([1, 1, 3, 20]), rng.choice([0, 0, 1]),
        rng.choice([2, 5, 50, 1000]), replicas, rng.random() < 0.4,
    )  # fmt: skip
    for node, count in [*replicas.items(), ("numbers", 1), ("sink", 1)]:
        for replica in range(count):
            for _ in range(rng.choice([0, 0, 1, 2])):
                once = rng.random() < 0.2
                point = rng.choice(OPERATOR_ONCE if once else OPERATOR_OFTEN)
                hit = 1 if once else rng.choice([1, 2, rng.randint(1, 20), rng.randint(1, 80)])
                plan.faults.append(fault(rng, f"{node}[{replica}]" if replica else node, point, hit))
    for who, points, most, chance in (
        ("store", STORE, 4, 0.4), ("forkserver", FORK_SERVER, 8, 0.15), ("runtime", RUNTIME, 12, 0.4),
    ):  # fmt: skip
        if rng.random() < chance:
            plan.faults.append(
                {"who": who, "point": rng.choice(points), "hit": rng.randint(1, most), "action": "kill"}
            )
    return plan


class _Rescaling(Stage):
    """Each resume has other numbers of replicas."""

    def __init__(self, plan: Schedule) -> None:
        super().__init__(plan.faults)
        shutil.copy(Path(__file__).parent / "replica_cast.py", self.root)
        self._plan = plan
        self._rng = random.Random(plan.seed + 2)

    def start(self, dataflow: str = "", **options: Any) -> Any:
        if options.get("resume"):
            dataflow = self._plan.yaml({node: self._rng.choice([1, 2, 3, 5]) for node in REPLICATED})
        return super().start(dataflow, **options)

    def play(self) -> list[Any]:
        """Run to the end; what the sink has seen."""
        self.start(self._plan.yaml(self._plan.replicas))
        rng = random.Random(self._plan.seed + 1) if self._plan.chaos else None
        next_kill_s, kills = time.monotonic() + 0.5, 20
        deadline_s = time.monotonic() + 90.0
        while True:
            assert self.running is not None
            assert time.monotonic() < deadline_s, f"not at its end: {self.ask()}; {self.told()}"
            code = self.running.process.poll()
            if code == 0:
                self.running.finish()
                seen: list[Any] = json.loads((self.root / "result.json").read_text())
                return seen
            if code is not None:
                self._resume(code)
                continue
            if rng is not None and kills and time.monotonic() > next_kill_s:
                kills -= self.kill_somebody(rng)
                next_kill_s = time.monotonic() + rng.expovariate(1 / 0.08)
            time.sleep(0.01)


def check(count: int, seen: list[Any]) -> None:
    """Each message came once, per key in order, with the right sums."""
    assert len({(input, uid) for input, uid, _ in seen}) == len(seen), "a message came twice"
    by_input = defaultdict(list)
    for input, _, value in seen:
        by_input[input].append(value)
    for value in (item for input in ("sum", "count", "free") for item in by_input[input]):
        assert value["key"] == key_of(value["n"])
    expected: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number in range(count):
        mine = expected[repr(key_of(number))]
        mine.append((number, number + (mine[-1][1] if mine else 0)))
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for value in by_input["sum"]:
        found[repr(value["key"])].append((value["n"], value["total"]))
    assert found == expected
    assert sorted(value["n"] for value in by_input["free"]) == list(range(count))
    counted: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for value in by_input["count"]:
        counted[value["other"]].append((value["count"], value["n"]))
    for other in range(4):
        total = len(range(other, count, 4))
        assert [number for number, _ in counted[other]] == list(range(1, total + 1))
        assert sorted(number for _, number in counted[other]) == list(range(other, count, 4))
        rings = [rang for key, rang in by_input["rang"] if key == other]
        assert rings == sorted(set(rings)) and (not rings or rings[-1] <= total)


def play(seed: int) -> int:
    """Run a schedule; AssertionError when something is not exact. Returns how many of its faults happened."""
    plan = schedule(seed)
    with _Rescaling(plan) as stage:
        seen = stage.play()
        check(plan.count, seen)
        return len(stage.fired())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1000)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args()
    began, fired, bad = time.monotonic(), 0, []

    def one(seed: int) -> tuple[int, int, str]:
        try:
            return seed, play(seed), ""
        except Exception:
            return seed, 0, traceback.format_exc()

    with ThreadPoolExecutor(options.jobs) as pool:
        seeds = range(options.seed, options.seed + options.count)
        for done, (seed, hits, trouble) in enumerate(pool.map(one, seeds), 1):
            fired += hits
            if trouble:
                bad.append(seed)
                print(f"{trouble}\nseed {seed} is not exact: python {__file__} 1 --seed {seed}", flush=True)
            print(f"{done} schedules, {fired} faults, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{options.count} schedules, {fired} faults at points, {len(bad)} not exact {bad or ''}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
