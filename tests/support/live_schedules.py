"""Random schedules that change a run while anybody is killed: all of it out of one seed.

    python tests/support/live_schedules.py 2000            as many new schedules
    python tests/support/live_schedules.py 2000 --seed 17  those from seed 17 on
    python tests/support/live_schedules.py 1 --seed 17     this one again

A schedule is a dataflow (live_flow.py) and some steps: the run is changed by `apply`, which is refused or fails, too;
nodes are restarted, stopped and started; a snapshot is taken; the runtime is killed, in the middle of a change too, and
the run resumed, with the dataflow that was in force or another file. Meanwhile processes are killed at named points and
from outside, and taps come and go. At the end live_oracle.py looks at everything.

What one seed decides is the same each time; how the processes interleave is not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import live_flow, live_oracle
from support.harness import is_alive
from support.live_flow import Change, Flow, Part
from support.looker import Looker
from support.schedules import CUSTOM_OFTEN, CUSTOM_ONCE, FORK_SERVER, OPERATOR_OFTEN, OPERATOR_ONCE, RUNTIME, STORE
from support.schedules import fault as one_fault
from support.stage import Fault, Stage

from noderuntime.cli.client import StoreClient, take_snapshot
from noderuntime.dataflow import plain
from noderuntime.dataflow.identifiers import node_of, replica_id
from noderuntime.dataflow.reader import parse
from noderuntime.dataflow.replicas import expanded
from noderuntime.ipc import process, runs
from noderuntime.ipc.change_records import InForce
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Answer, Ask, Edge
from noderuntime.ipc.store_records import result

STEPS = (
    *["change"] * 12, "scale", "scale", "broken", "refused", "restart", "halt", "halt", "start", "snapshot", "kill",
    "kill", "other_file",
)  # fmt: skip
REWIRED = ("rewire", "follow")
APPLY = (
    "apply asked", "apply begun", "apply checked", "apply tries", "apply numbers", "apply switch", "apply switching",
    "apply switched", "apply done", "apply settled", "apply settled it",
)  # fmt: skip
REQUESTS = ("change_losses", "change_prepare", "change_switch", "change_settle", "in_force")
STORE_APPLY = tuple(f"{when} {what}" for what in REQUESTS for when in ("request", "answer"))
TAPS = ("begin", "tap heard", "tap", "locked", "commit", "committed", "tapped", "tap send", "tap take", "tap taken")
KINDS = ("add", "add", "add", "remove", "remove", "rewire", "rewire", "queue", "input", "change", "rename", "several",
         "replicas", "replicas")
WAIT_S = 60.0
POLL_S = 0.03  # seldom: what the run does meanwhile should not be to answer


class Gone(Exception):
    """The runtime is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed decides before the start. `kill_every_s`: from outside, 0 for never; `taps`: how many look."""

    seed: int
    flow: Flow
    steps: list[str]
    faults: list[Fault]
    kill_every_s: float
    taps: int
    snapshots: dict[str, Any]


def plan_of(seed: int) -> Plan:
    rng = random.Random(seed)
    flow = live_flow.first(rng)
    steps = [rng.choice(STEPS) for _ in range(rng.randint(2, 5))]
    faults: list[Fault] = []
    ids = [*flow, *flow, *(f"n{number}" for number in range(1, len(steps) + 1))]
    for _ in range(rng.choice([0, 1, 2, 3, 5])):
        faults.append(_fault(rng, flow, rng.choice(ids)))
    for who, points, most, chance in (
        ("store", STORE, 4, 0.15), ("store", STORE_APPLY, 3, 0.2), ("forkserver", FORK_SERVER, 10, 0.1),
        ("runtime", RUNTIME, 12, 0.1), ("runtime", APPLY, 2, 0.2), ("taps", TAPS, 2, 0.2),
    ):  # fmt: skip
        if rng.random() < chance:
            faults.append({"who": who, "point": rng.choice(points), "hit": rng.randint(1, most), "action": "kill"})
    snapshots: dict[str, Any] = {"to": "none"}
    if "snapshot" in steps:
        snapshots = {"to": "./snapshots", "every": rng.choice(["200ms", "1h"]), "keep": 1000}
    return Plan(seed, flow, steps, faults, rng.choice([0.0, 0.0, 0.3, 1.0]), rng.choice([0, 0, 1, 2]), snapshots)


def _fault(rng: random.Random, flow: Flow, id: str) -> Fault:
    """One for a node, or a replica of it."""
    custom = id in flow and flow[id].kind == "takes"
    once, often = (CUSTOM_ONCE, CUSTOM_OFTEN) if custom else (OPERATOR_ONCE, OPERATOR_OFTEN)
    if id in flow and flow[id].replicas > 1 and rng.random() < 0.5:
        id = f"{id}[{rng.randrange(1, flow[id].replicas)}]"
    who = "p0" if id == "p1" else id  # the process has the name of its first operator
    choice = rng.random()
    if choice < 0.2:
        return one_fault(rng, who, rng.choice(once), 1)
    if choice < 0.5:
        return one_fault(rng, who, rng.choice(REWIRED), 1)
    return one_fault(rng, who, rng.choice(often), rng.choice([1, 2, 5, rng.randint(1, 200)]))


def _right(topic: str, number: int, value: Any) -> bool:
    """Whether a tap may see this: Sources count from 0."""
    return not topic.startswith("s") or bool(value["n"] == number - 1)


def _wait_until(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s, f"waited in vain for: {what}"
        time.sleep(POLL_S)


def _processes(node: str, replicas: int) -> list[str]:
    return [replica_id(node, replica) for replica in range(replicas)]


class Schedule:
    """One run under one seed."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.stage = stage
        self.plan = plan
        self.rng = random.Random(plan.seed + 1)
        self.flow = plan.flow
        self.history = [plan.flow]  # all that files have said
        self.log = [f"seed {plan.seed}: {plan.steps}, kills every {plan.kill_every_s} s, {plan.taps} taps"]
        self.made = 0  # nodes that were added
        self.halted: set[str] = set()
        self.killed: set[int] = set()
        self.pids: dict[str, int] = {}
        self.renewed: list[str] = []  # nodes that may have a new process, each once
        self.fired: set[int] = set()
        self.snapshots = False  # whether there are some with the dataflow file that the run has still
        self.is_back = False  # the run goes on from a snapshot
        shutil.copy(Path(live_flow.__file__).with_name("live_nodes.py"), stage.root)

    def play(self) -> None:
        plan = self.plan
        over = threading.Event()
        lookers = [Looker(plan.seed * 10 + at, over, 200, self._wanted, _right) for at in range(plan.taps)]
        threads: list[threading.Thread] = [*lookers]
        if plan.kill_every_s:
            threads.append(threading.Thread(target=self._kill_now_and_then, args=(over,)))
        self.stage.start(live_flow.text(self.flow, plan.snapshots))
        self._carry_out(lambda: _wait_until(self._status, "the run to begin"))
        for thread in threads:
            thread.start()
        try:
            for step in plan.steps:
                self._carry_out(getattr(self, f"_{step}"))
                time.sleep(self.rng.random() * 0.1)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        wrong = [text for looker in lookers for text in looker.wrong]
        assert not wrong, wrong
        snapshots = self._there() if self.snapshots else []
        self._carry_out(self._to_the_end)
        if snapshots:
            self._back_to(self.rng.choice(snapshots))
        self.stage.finish()

    def _wanted(self) -> Sequence[str] | str:
        chance = random.Random()
        return chance.choice(["*", [f"{chance.choice(list(self.flow))}/out"], ["s0/out", "a0/out"]])

    # ---- beginning, and going on

    def _resume(self, **options: Any) -> None:
        """After the death of the runtime. The dataflow that was in force goes on, or the one that was being applied."""
        while True:
            code = self.process.wait(WAIT_S)
            self.log.append(f"  the runtime has died ({code}), and the run is resumed {options}")
            self.stage._resume(code, **options)
            self.halted.clear()
            self.pids.clear()
            self.renewed.clear()
            with contextlib.suppress(Gone):
                _wait_until(self._status, "the run to begin")
                # the replicas of `scale` hold until a resume, which makes what the file says of them
                _wait_until(lambda: self._in_force() is not None, "the number of replicas of the file")
                self.flow = self._in_force() or self.flow
                return

    def _in_force(self) -> Flow | None:
        """The dataflow that the run has; None while it has numbers of replicas that are not those of the file."""
        found: InForce | None = None
        while found is None:
            try:
                with StoreClient("flow", self.stage.folder.run_dir().store_socket) as store:
                    found = store.request("in_force", {}, result(InForce))
            except Exception:
                if self.process.poll() is not None:
                    raise Gone from None
                time.sleep(0.02)
        there = plain.from_text(found["dataflow"])
        for flow in reversed(self.history):
            wanted = parse(live_flow.text(flow, self.plan.snapshots), env=os.environ)
            if there.nodes in (wanted.nodes, expanded(wanted).nodes):
                holds = all(flow[node].replicas == count for node, count in found["scaled"].items())
                return flow if holds else None
        raise AssertionError(f"the dataflow in force is none that there was: {found}")

    def _carry_out(self, step: Callable[[], None]) -> None:
        """A step; if the runtime dies meanwhile, the run is resumed, and the last step begins again."""
        while True:
            try:
                step()
                self._look_at_processes()
                return
            except Gone:
                self._resume()
                if step != self._to_the_end:
                    return

    @property
    def process(self) -> Any:
        assert self.stage.running is not None
        return self.stage.running.process

    def _ask(self, what: str, **arguments: Any) -> Answer:
        """The answer of the runtime. Raises Gone."""
        until_s = time.monotonic() + WAIT_S
        socket = self.stage.folder.run_dir().runtime_socket
        while True:
            with contextlib.suppress(OSError), Dealer(socket, Edge.RUNTIME_TO_COMMAND) as dealer:
                dealer.send(Ask(VERSION, what, arguments))
                while time.monotonic() < until_s and self.process.poll() is None:
                    answer = dealer.receive(0.1)
                    if isinstance(answer, Answer):
                        return answer
                dealer.close(0)
            if self.process.poll() is not None:
                raise Gone
            assert time.monotonic() < until_s, f"the runtime does not answer {what}"
            time.sleep(0.01)

    def _status(self) -> dict[str, dict[str, Any]]:
        """All processes, replicas for themselves, by id."""
        nodes: Any = self._ask("status").result["nodes"]
        return {row["id"]: row for row in nodes}

    def _handled(self) -> dict[str, int]:
        """How many events each node has handled."""
        found: dict[str, int] = {}
        for id, row in self._status().items():
            found[node_of(id)] = found.get(node_of(id), 0) + row["handled"]
        return found

    def _look_at_processes(self) -> None:
        """A node has another process than before only for a reason."""
        fired = self.stage.fired()
        self.renewed += [self.plan.faults[index]["who"] for index in sorted(fired - self.fired)]
        self.fired = fired
        explained: list[str] = []
        of_now = {row for id, part in self.flow.items() for row in _processes(id, part.replicas)}
        self.pids = {id: pid for id, pid in self.pids.items() if id in of_now}  # a replica that went may come back
        for id, row in self._status().items():
            assert row["state"] != "failed", f"{id} has failed: {row['reason']}"
            before, now = self.pids.get(id, 0), row["pid"]
            if now and now != before:
                self.pids[id] = now
            if not (now and before) or now == before or before in self.killed or node_of(id) not in self.flow:
                continue
            leader = "p0" if id == "p1" else id
            reasons = [who for who in (id, leader, node_of(id)) if who in self.renewed]
            assert reasons, f"{id} has another process than before, for no reason: {before}, now {row}"
            explained += reasons[:1] if id == leader else []
        for who in explained:
            self.renewed.remove(who)

    # ---- changes

    def _change(self) -> None:
        made = self._made(KINDS)
        if made is not None:
            self._apply(made)

    def _made(self, kinds: Sequence[str]) -> Change | None:
        """A change; what is added may have the id of a node that is gone."""
        self.made += 1
        fresh = f"n{self.made}"
        made = live_flow.change(self.rng, self.flow, fresh, kinds)
        chance = self.rng.random() * 2
        if made is None or made.kind != "add" or chance > 1:
            return made
        there = {*self.flow, *map(node_of, self._status()), "p0", "p1"}  # the process is called p0
        gone = sorted({id for flow in self.history for id in flow} - there)
        id = gone[int(chance * len(gone))] if gone else fresh
        return replace(made, flow={**self.flow, id: replace(made.flow[fresh], again=bool(gone))})

    def _apply(self, made: Change) -> None:
        shown = ", ".join(f"{id} of {[link.source for link in part.links.values()]}" for id, part in made.flow.items())
        self.log.append(f"{made.kind}{' --discard' if made.discard else ''}: {shown}; gone {made.gone}")
        self.history.append(made.flow)
        faults = self._faults()
        done = self._applied(
            live_flow.text(made.flow, self.plan.snapshots), discard=made.discard, rename=made.renamed,
            drop=[id for id in made.gone if self.flow[id].keeps_state],
        )  # fmt: skip
        self.renewed += self._rows(*made.restarted)
        if self._was_killed(done, faults) or self._has_to_drain(done):
            return
        assert done["code"] == 0, done
        restarts = {node_of(item["node"]) for item in done["plan"] if item["restarts"]}
        mates = {id for id, part in made.flow.items() if part.process}
        assert restarts <= {*made.restarted, *mates}, (made, done)
        self.renewed += self._rows(*(restarts & mates))
        self.halted = {made.renamed.get(id, id) for id in self.halted} & set(made.flow)
        self.flow = made.flow

    def _was_killed(self, done: Mapping[str, Any], faults: int) -> bool:
        """Whether a change was given up because the victim was a process that was tried."""
        return done["code"] == 1 and "is not ready" in done["error"] and self._faults() > faults

    def _faults(self) -> int:
        """How many there were so far."""
        return len(self.killed) + len(self.stage.fired())

    def _applied(self, text: str, **options: Any) -> Mapping[str, Any]:
        """What has come of it."""
        file = self.stage.root / "new.yml"
        file.write_text(text)
        return self._done("apply", file=str(file), **options)

    def _done(self, what: str, **arguments: Any) -> Mapping[str, Any]:
        """What has come of a change. One that has to wait for another, or for what still drains, is asked for again."""
        until_s = time.monotonic() + WAIT_S
        while True:
            done = self._tried(what, **arguments)
            if "another change of this run is under way" not in done["error"] and not self._has_to_drain(done):
                return done
            if self.halted and self._has_to_drain(done):  # which it may not do before what was stopped goes on
                return done
            assert time.monotonic() < until_s, done
            time.sleep(POLL_S)

    def _has_to_drain(self, done: Mapping[str, Any]) -> bool:
        return done["code"] == 2 and "Try again later" in done["error"]

    def _tried(self, what: str, **arguments: Any) -> Mapping[str, Any]:
        answer = self._ask(what, timeout=WAIT_S, **arguments)
        assert not answer.error, answer.error
        done: Mapping[str, Any] = answer.result
        if not done["over"]:
            self._meanwhile()
        while not done["over"]:
            time.sleep(POLL_S)
            done = self._ask("applied", ticket=done["ticket"]).result
        self.log.append(f"  code {done['code']} {done['error'][:300]}")
        return done

    def _meanwhile(self) -> None:
        """Something else happens in the middle of a change."""
        kind = self.rng.choice(["", "", "", "restart", "kill", "snapshot"])
        running = [id for id in self.flow if id not in self.halted]
        if kind == "restart" and running:
            id = self.rng.choice(running)
            rows = self._rows(id, *(["p0", "p1"] if self.flow[id].process else []))
            if not self._ask("restart", node=id).error:
                self.renewed += rows
        elif kind == "kill":
            with contextlib.suppress(OSError):
                self._kill_one(self.rng)
        elif kind == "snapshot" and self.plan.snapshots["to"] != "none":
            self._snapshot()

    def _scale(self) -> None:
        """Other replicas; a resume goes back to what the file says."""
        made = self._made(("replicas",))
        if made is None:
            return
        (id,) = [id for id in made.flow if made.flow[id] != self.flow[id]]
        self.log.append(f"scale {id} {made.flow[id].replicas}")
        faults = self._faults()
        done = self._done("scale", node=id, replicas=made.flow[id].replicas)
        if self._was_killed(done, faults) or self._has_to_drain(done):
            return
        assert done["code"] == 0, done
        self.flow = made.flow

    def _broken(self) -> None:
        """A file that is none, one that does not fit together, an operator that cannot be made: nothing happens."""
        kind = self.rng.choice(["file", "source", "operator"])
        self.log.append(f"broken: {kind}")
        text = live_flow.text(self.flow, self.plan.snapshots)
        if kind == "file":
            text = "nodes: ["
        elif kind == "source":
            text = text.replace('/out"', '/in"')
        else:
            ids = [id for id, part in self.flow.items() if part.kind in ("keeps", "keyed") and id not in self.halted]
            if not ids:
                return
            id = self.rng.choice(ids)
            part = replace(self.flow[id], config={**self.flow[id].config, "broken": True})
            text = live_flow.text({**self.flow, id: part}, self.plan.snapshots)
        assert self._applied(text)["code"] == (1 if kind == "operator" else 2), self.log

    def _refused(self) -> None:
        """A removal that would lose state, without --drop."""
        # that a node has handled something does not say so: it may not be committed yet, or be without state
        ids = live_oracle.with_state(self.stage.folder.run_dir().space, self.flow)
        if not ids:
            return
        gone = live_flow.behind(self.flow, self.rng.choice(ids))
        mates = [id for id, part in self.flow.items() if part.process]
        gone = live_flow.behind(self.flow, *gone, *(mates if set(gone) & set(mates) else []))
        self.log.append(f"refused: without {gone}")
        left = {id: part for id, part in self.flow.items() if id not in gone}
        assert self._applied(live_flow.text(left, self.plan.snapshots))["code"] == 2, self.log

    # ---- one node

    def _restart(self) -> None:
        self._one("restart", [id for id in self.flow if id not in self.halted])

    def _halt(self) -> None:
        self._one("halt", [id for id in self.flow if id not in self.halted])

    def _start(self) -> None:
        self._one("start", list(self.halted))

    def _one(self, what: str, ids: list[str]) -> None:
        if not ids:
            return
        id = self.rng.choice(ids)
        both = [other for other, part in self.flow.items() if part.process and part.process == self.flow[id].process]
        self.log.append(f"{what} {id}")
        rows = self._rows(*both, id)
        self.renewed += rows
        answer = self._ask(what, node=id)
        while "try again in a moment" in answer.error:  # it is between two lives
            time.sleep(POLL_S)
            answer = self._ask(what, node=id)
        assert not answer.error or " already" in answer.error, answer.error
        if what == "halt":
            self.halted |= {*both, id}
            wanted = [row for other in {*both, id} for row in _processes(other, self.flow[other].replicas)]
            _wait_until(lambda: {self._status()[row]["state"] for row in wanted} == {"stopped"}, f"{id} to be stopped")
        else:
            self.halted -= {*both, id}

    def _rows(self, *nodes: str) -> list[str]:
        """The processes of these nodes, by id."""
        return [id for id in self._status() if node_of(id) in nodes]

    # ---- the run as a whole

    def _snapshot(self) -> None:
        self.log.append("snapshot")
        with contextlib.suppress(Exception), StoreClient("flow", self.stage.folder.run_dir().store_socket) as store:
            take_snapshot(store, "asked")
            self.snapshots = True

    def _there(self) -> list[int]:
        """The snapshots of now."""
        return sorted(int(path.stem) for path in (self.stage.root / "snapshots" / "flow").glob("*.json"))

    def _kill(self) -> None:
        """The runtime, sometimes in the middle of a change."""
        self.log.append("kill the runtime")
        delay_s = self.rng.choice([0.0, 0.0, 0.05, 0.2, 0.5])
        timer = threading.Timer(delay_s, self._kill_runtime)
        timer.start()
        try:
            if delay_s:
                self._change()
        finally:
            timer.join()
        self.process.wait(WAIT_S)
        raise Gone

    def _kill_runtime(self) -> None:
        file = runs.RunFile.read(self.stage.folder.run_dir())
        if file is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(file.pid, signal.SIGKILL)

    def _other_file(self) -> None:
        """The runtime is killed, and the run resumed with another dataflow file."""
        made = self._made(KINDS)
        if made is None or self._status().keys() != {"keeper", *self.flow}:
            return  # what still leaves goes on leaving only with the same file
        self.log.append(f"resumed with another file, {made.kind}: {list(made.flow)}; gone {made.gone}, {made.renamed}")
        self._kill_runtime()
        self.process.wait(WAIT_S)
        self.history.append(made.flow)
        self.snapshots = False
        drop = [id for id in made.gone if self.flow[id].keeps_state]
        self.stage.folder.file.write_text(live_flow.text(made.flow, self.plan.snapshots))
        self._resume(drop=drop, rename=made.renamed)
        assert self.flow is made.flow, self.log

    def _kill_now_and_then(self, over: threading.Event) -> None:
        chance = random.Random(self.plan.seed + 2)
        while not over.wait(chance.expovariate(1 / self.plan.kill_every_s)):
            with contextlib.suppress(OSError):
                self._kill_one(chance)

    def _kill_one(self, chance: random.Random) -> None:
        """SIGKILL to a child of the runtime, whichever."""
        file = runs.RunFile.read(self.stage.folder.run_dir())
        if file is None or not is_alive(file.pid):
            return
        children = sorted(process.children_of(file.pid))
        if len(children) < 3:  # it has not begun; a fork server that never gets to its work ends the run
            return
        pid = chance.choice(children)
        if Path(f"/proc/{pid}/comm").read_text() == "nr-forkserver\n" and chance.random() < 0.8:
            return
        handle = os.pidfd_open(pid)
        try:
            stat = process.read_stat(pid)
            if stat is not None and stat.parent == file.pid:
                self.killed.add(pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)

    # ---- the end

    def _to_the_end(self) -> None:
        """Everything goes on; then the Sources end, the others too, and all is looked at."""
        for id in [*self.halted]:
            if id in self.halted:
                self.halted.discard(id)
                self._ask("start", node=id)
        wanted = {"keeper", *self.flow}
        _wait_until(lambda: {node_of(id) for id in self._status()} == wanted, "what leaves to be gone")
        if not (self.stage.root / "enough").exists():
            before = self._handled()
            for id in self.flow:
                _wait_until(lambda id=id: self._handled()[id] > before[id], f"{id} to go on")  # type: ignore[misc]
        (self.stage.root / "enough").touch()

        def ended() -> bool:
            states = {row["state"] for id, row in self._status().items() if id != "keeper"}
            assert "failed" not in states, self._status()
            return states == {"ended"}

        _wait_until(ended, "all nodes to end")
        self._check()

    def _check(self) -> None:
        folder = self.stage.root

        def right() -> bool:
            found = live_oracle.look(self.stage.folder.run_dir().space, folder, self.flow)
            found.whole_files = not self.is_back
            live_oracle.check(self.flow, found)
            return True

        until_s = time.monotonic() + 3.0  # the store closes mailboxes, and removes taps, a little after the last end
        while time.monotonic() < until_s:
            with contextlib.suppress(AssertionError):
                right()
                return
            time.sleep(0.05)
        right()

    def _back_to(self, number: int) -> None:
        """All is lost but the snapshots, and the run goes on from one of them."""
        self.log.append(f"back to snapshot {number}")
        self._kill_runtime()
        self.process.wait(WAIT_S)
        for name in ("enough", *(f"{part.name}.txt" for part in self.flow.values())):
            (self.stage.root / name).unlink(missing_ok=True)
        self._resume(from_snapshot=number)
        self.is_back = True
        self.flow = {id: _without_files(part) for id, part in self.flow.items()}
        self._carry_out(self._to_the_end)


def _without_files(part: Part) -> Part:
    """What a custom node has written down before is not there."""
    whole = part.kind != "takes"
    return replace(part, links={name: replace(link, whole=link.whole and whole) for name, link in part.links.items()})


class Tally(NamedTuple):
    """How much happened: steps, faults at points, kills from outside, and deaths of the runtime."""

    steps: int = 0
    faults: int = 0
    kills: int = 0
    resumes: int = 0

    def __str__(self) -> str:
        steps = f"{self.steps} steps, {self.faults} faults at points, {self.kills} kills from outside"
        return f"{steps}, {self.resumes} deaths of the runtime"


def play(seed: int) -> Tally:
    """Run a schedule; AssertionError when something is not exact."""
    plan = plan_of(seed)
    with Stage(plan.faults) as stage, home(stage):
        schedule = Schedule(stage, plan)
        try:
            schedule.play()
        except BaseException as error:
            error.add_note("\n".join(schedule.log))
            raise
        return Tally(len(plan.steps), len(stage.fired()), len(schedule.killed), stage.resumes)


@contextlib.contextmanager
def home(stage: Stage) -> Iterator[None]:
    """Taps of this process find the run."""
    before = os.environ.get("NODERUNTIME_HOME")
    os.environ["NODERUNTIME_HOME"] = str(stage.folder.home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["NODERUNTIME_HOME"]
        else:
            os.environ["NODERUNTIME_HOME"] = before


def one(seed: int) -> tuple[int, Tally, str]:
    try:
        return seed, play(seed), ""
    except Exception:
        return seed, Tally(), traceback.format_exc()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1000)
    parser.add_argument("--jobs", type=int, default=3, help="how many at a time")
    options = parser.parse_args()
    began, total, bad = time.monotonic(), Tally(), []
    print(f"seeds {options.seed} to {options.seed + options.count - 1}", flush=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        seeds = range(options.seed, options.seed + options.count)
        for done, (seed, found, trouble) in enumerate(pool.map(one, seeds), 1):
            total = Tally(*map(sum, zip(total, found, strict=True)))
            if trouble:
                bad.append(seed)
                print(f"{trouble}\nseed {seed} is not exact: python {__file__} 1 --seed {seed}", flush=True)
            if done % 20 == 0:
                print(f"{done} schedules, {total}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{options.count} schedules, {total}, {len(bad)} not exact {bad or ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
