"""Random schedules: a dataflow, faults at named points, and kills from outside, all of it out of one seed.

    python tests/support/schedules.py 2000            as many new schedules
    python tests/support/schedules.py 2000 --seed 17  those from seed 17 on
    python tests/support/schedules.py 1 --seed 17     this one again
    ... --shared                                      with operators that share processes

What one seed decides is the same each time; how the processes interleave is not. Kills at points hit the same line of
the same process again; kills from outside (a third of the schedules) come when they come.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.flows import Flow, random_flow, together
from support.stage import Fault, Stage

# points by who passes them; those that are passed once or twice in a life, and those passed for each event
OPERATOR_ONCE = ("begin", "send Hello", "sent Hello", "received Welcome", "open", "restore", "restored", "send Ready",
                 "sent Ready", "send Bye", "sent Bye")  # fmt: skip
OPERATOR_OFTEN = ("read", "take", "taken", "handle", "handled", "stage", "staged", "lock", "locked", "put", "delete",
                  "commit", "committed", "ring", "rung", "let go")  # fmt: skip
SHARED_OFTEN = ("handle inside", "handled inside", "pass on", "passed on")
SEGMENTS = ("flock", "flocked", "allocate", "allocated", "fill", "filled", "lease", "leased")
CUSTOM_ONCE = ("open", "send Hello", "sent Hello", "received Welcome", "send Ready", "send Bye")
CUSTOM_OFTEN = ("read", "take", "taken", "stage", "staged", "lock", "locked", "put", "commit", "committed", "ring",
                "rung")  # fmt: skip
STORE = ("begin", "open", "lock", "locked", "put", "commit", "committed", "request open", "answer open",
         "request claim", "answer claim", "request touch", "answer touch", "request end", "send Reply", "sent Reply",
         "housekeeping")  # fmt: skip
RUNTIME = ("look", "opened", "started", "do Spawn", "done Spawn", "do Claim", "done Claim", "do SendWelcome",
           "done SendWelcome", "event SaidHello", "event Claimed", "event BecameReady", "event Exited",
           "event SaidBye", "reap", "reaped", "ring", "send Request", "sent Request", "received Reply")  # fmt: skip
FORK_SERVER = ("ordered", "make", "made")


@dataclass(frozen=True, slots=True)
class Schedule:
    """`chaos`: processes are killed from outside too."""

    seed: int
    flow: Flow
    faults: list[Fault]
    chaos: bool
    ends_by_kill: bool


def schedule(seed: int, shared: bool = False) -> Schedule:
    """What a seed stands for. `shared`: some of the operators share processes."""
    rng = random.Random(seed)
    flow = random_flow(rng, rng.choice([60, 150, 300]))
    if shared:
        flow = together(flow, random.Random(f"shared {seed}"))
    faults: list[Fault] = []
    for id, vertex in flow.nodes.items():
        for _ in range(rng.choice([0, 1, 2, 4])):
            once, often = (OPERATOR_ONCE, OPERATOR_OFTEN) if vertex.is_operator else (CUSTOM_ONCE, CUSTOM_OFTEN)
            kind = rng.random()
            if kind < 0.2:
                point, hit = rng.choice(once), 1
            elif kind < 0.3:
                point, hit = rng.choice(SEGMENTS), rng.randint(1, 20)
            else:
                point, hit = rng.choice(often), rng.choice([1, 2, 3, rng.randint(1, 20), rng.randint(1, 120)])
            if vertex.process and kind > 0.7:
                point = rng.choice(SHARED_OFTEN)
            faults.append(fault(rng, flow.leader(id), point, hit))
    for who, points, most, chance in (
        ("store", STORE, 4, 0.4),
        ("forkserver", FORK_SERVER, 8, 0.15),
        ("runtime", RUNTIME, 12, 0.15),
        ("spare", ("become", "ordered"), 2, 0.1),
    ):
        if rng.random() < chance:
            for _ in range(rng.choice([1, 1, 2])):
                faults.append({"who": who, "point": rng.choice(points), "hit": rng.randint(1, most), "action": "kill"})
    return Schedule(seed, flow, faults, rng.random() < 0.33, rng.random() < 0.5)


def fault(rng: random.Random, who: str, point: str, hit: int) -> Fault:
    actions = ["kill"] * 8 + ["error"]
    if point in ("put", "delete", "commit"):
        actions += ["full"] * 2
    if rng.random() < 0.06:
        actions = ["stop"]
    return {"who": who, "point": point, "hit": hit, "action": rng.choice(actions)}


def play(seed: int, shared: bool = False) -> int:
    """Run a schedule; AssertionError when something is not exact. Returns how many of its faults happened."""
    plan = schedule(seed, shared)
    with Stage(plan.faults) as stage:
        stage.start(plan.flow.yaml(str(stage.root)))
        stage.complete(plan.flow, random.Random(seed + 1) if plan.chaos else None)
        stage.check(plan.flow)
        if plan.ends_by_kill:
            stage.kill_runtime()
            stage.check(plan.flow)
            stage.clean()
        else:
            stage.finish()
        return len(stage.fired())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1000)
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--shared", action="store_true", help="with operators that share processes")
    options = parser.parse_args()
    began, fired, bad = time.monotonic(), 0, []

    def one(seed: int) -> tuple[int, int, str]:
        try:
            return seed, play(seed, options.shared), ""
        except Exception:
            return seed, 0, traceback.format_exc()

    print(f"seeds {options.seed} to {options.seed + options.count - 1}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        seeds = range(options.seed, options.seed + options.count)
        for done, (seed, hits, trouble) in enumerate(pool.map(one, seeds), 1):
            fired += hits
            if trouble:
                bad.append(seed)
                print(f"{trouble}\nseed {seed} is not exact: python {__file__} 1 --seed {seed}", flush=True)
            if done % 20 == 0:
                print(f"{done} schedules, {fired} faults, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{options.count} schedules, {fired} faults at points, {len(bad)} not exact {bad or ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
