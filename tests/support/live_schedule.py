"""A seeded schedule that changes a run again and again, with kill -9 of anyone meanwhile; all follows from a seed.

What is looked at in the end: each operator has seen each of its sources without a gap and without a repetition, from
where it joined to where it left or to the end; custom nodes, to whom delivery is at least once, without a gap.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from support.harness import Running, wait_until
from support.live_cast import counts, enough, flow, handled, keeps, prepare, seen, takes
from support.stage import Stage

from noderuntime.cli.client import StoreClient
from noderuntime.dataflow import plain
from noderuntime.ipc.store_records import InForce, result

NODES_MAX = 5
SOURCES = ("counts", "other")


@dataclass(slots=True)
class Live:
    """A node that the schedule has put in: where its input comes from now, and came from before."""

    kind: str
    source: str
    before: list[str] = field(default_factory=list)
    changes: int = 0

    def file(self, id: str) -> dict[str, Any]:
        config = {"name": str(self.changes)} if self.changes else {}
        return (keeps if self.kind == "operator" else takes)(id, f"{self.source}/n", config=config)


class Schedule:
    """One run under one seed."""

    def __init__(self, seed: int, stage: Stage) -> None:
        self.chance = random.Random(seed)
        self.stage = stage
        self.nodes: dict[str, Live] = {"a": Live("operator", "counts")}
        self.made = 0
        self.first = "a"  # it is there from the beginning to the end, whatever it is called
        self.renamed: dict[str, str] = {}  # old -> new
        self.log: list[str] = [f"seed {seed}"]
        self.over = threading.Event()
        self.running: Running
        prepare(stage.folder)

    def text(self, nodes: dict[str, Live]) -> str:
        return flow(counts(), counts("other"), *(live.file(id) for id, live in nodes.items()))

    def run(self, steps: int) -> None:
        self.running = self.stage.start(self.text(self.nodes))
        self.running.wait_running()
        killer = threading.Thread(target=self._kill_now_and_then, args=(random.Random(self.chance.random()),))
        killer.start()
        try:
            for _ in range(steps):
                self._step()
        finally:
            self.over.set()
            killer.join()
        self._settled()
        enough(self.stage.folder)
        assert self.running.finish() == 0, self.log
        self._check()

    # ---- the changes

    def _step(self) -> None:
        chance = self.chance
        kind = chance.choice(["add", "add", "remove", "rewire", "change", "rename", "broken"])
        nodes = {id: Live(live.kind, live.source, list(live.before), live.changes) for id, live in self.nodes.items()}
        gone: list[str] = []
        names: dict[str, str] = {}
        others = [id for id in nodes if id != self.first]
        if kind == "add" and len(nodes) < NODES_MAX:
            self.made += 1
            sources = [*SOURCES, *(id for id, live in nodes.items() if live.kind == "operator")]
            nodes[f"k{self.made}"] = Live(chance.choice(["operator", "operator", "custom"]), chance.choice(sources))
        elif kind == "remove" and others:
            gone = self._with_those_behind(nodes, chance.choice(others))
            for id in gone:
                del nodes[id]
        elif kind == "rewire" and others:
            id = chance.choice(others)
            free = [source for source in SOURCES if source not in (nodes[id].source, *nodes[id].before)]
            if free:
                nodes[id].before.append(nodes[id].source)
                nodes[id].source = chance.choice(free)
        elif kind == "rename":
            self.made += 1
            names = {chance.choice(list(nodes)): f"k{self.made}"}
            nodes = {names.get(id, id): live for id, live in nodes.items()}
            for live in nodes.values():
                live.source = names.get(live.source, live.source)
        elif kind == "change":
            nodes[chance.choice(list(nodes))].changes += 1
        broken = kind == "broken"
        if not broken and self.text(nodes) == self.text(self.nodes):
            return
        kills = chance.random() < 0.25
        shown = ", ".join(f"{id} of {live.source} ({live.changes})" for id, live in nodes.items())
        self.log.append(f"{kind}: {shown}{' and the runtime is killed' if kills else ''}")
        self._apply("nodes: [" if broken else self.text(nodes), nodes, gone, names, broken, kills)

    def _with_those_behind(self, nodes: dict[str, Live], id: str) -> list[str]:
        found = [id]
        for each in found:
            found += [other for other, live in nodes.items() if live.source == each and other not in found]
        return found

    def _apply(
        self, text: str, nodes: dict[str, Live], gone: list[str], names: dict[str, str], broken: bool, kills: bool
    ) -> None:
        file = self.stage.folder.folder / "new.yml"
        file.write_text(text)
        drops = [word for id in gone if self.nodes[id].kind == "operator" for word in ("--drop", id)]
        renames = [word for old, new in names.items() for word in ("--rename", f"{old}={new}")]
        command = subprocess.Popen(
            [sys.executable, "-m", "noderuntime", "apply", *drops, *renames, "--timeout", "60", "new.yml"],
            env={**os.environ, "NODERUNTIME_HOME": str(self.stage.folder.home)},
            cwd=self.stage.folder.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if kills:
            self.over.wait(self.chance.random() * 1.5)
            os.kill(self.running.runtime_pid, signal.SIGKILL)
            command.communicate(timeout=120)
            self.running.finish()
            self.stage.folder.wait_gone()
            self.running = self.stage.start(resume=True)
            self.running.wait_for("started")
            if not broken and plain.from_text(self._in_force()["dataflow"]) != self._parsed(self.nodes):
                assert plain.from_text(self._in_force()["dataflow"]) == self._parsed(nodes), self.log
                self._is_now(nodes, names)
            return
        _, err = command.communicate(timeout=120)
        self.log.append(f"  code {command.returncode} {err.strip()[:200]}")
        assert command.returncode == (2 if broken else 0), self.log
        if not broken:
            self._is_now(nodes, names)

    def _is_now(self, nodes: dict[str, Live], names: dict[str, str]) -> None:
        self.nodes = nodes
        self.first = names.get(self.first, self.first)
        self.renamed.update(names)

    def _parsed(self, nodes: dict[str, Live]) -> Any:
        from noderuntime.dataflow.reader import parse

        return parse(self.text(nodes), env=os.environ)

    def _in_force(self) -> InForce:
        with StoreClient("flow", self.stage.folder.run_dir().store_socket) as store:
            return store.request("in_force", {}, result(InForce))

    # ---- the kills

    def _kill_now_and_then(self, chance: random.Random) -> None:
        while not self.over.wait(chance.uniform(0.1, 0.8)):
            with contextlib.suppress(Exception):
                self._kill_one(chance)

    def _kill_one(self, chance: random.Random) -> None:
        running = self.running
        victims = [int(row["pid"]) for row in running.status().values() if row["pid"] and row["state"] == "running"]
        victims += [running.helper(name) for name in ("nr-store", "nr-forkserver")]
        pid = chance.choice(victims)
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)

    # ---- the end

    def _settled(self) -> None:
        """All nodes are there and go on; what was removed is gone."""
        self.running.wait_running(*SOURCES, *self.nodes)
        wait_until(lambda: set(self.running.status()) == {*SOURCES, *self.nodes}, f"what leaves to be gone {self.log}")
        for id in self.nodes:
            before = handled(self.running, id)
            wait_until(lambda id=id, before=before: handled(self.running, id) > before, f"{id} goes on {self.log}")  # type: ignore[misc]

    def _check(self) -> None:
        ends: dict[str, set[int]] = {}
        for id, live in self.nodes.items():
            found = seen(self.running, id)
            for source, (first, last, count, good) in found.items():
                where = f"{id} of {source}: {first} to {last}, {count} {self.log}"
                assert good, where
                assert live.kind != "operator" or count == last - first + 1, where
            for old, new in self.renamed.items():
                if f"{old}/n" in found and f"{new}/n" in found:  # one connection under two names
                    end, begin = found[f"{old}/n"][1], found[f"{new}/n"][0]
                    assert begin == end + 1 if live.kind == "operator" else begin <= end + 1, (id, old, new, self.log)
            if live.source in SOURCES:
                ends.setdefault(live.source, set()).add(found[f"{live.source}/n"][1])
        assert all(len(end) == 1 for end in ends.values()), (ends, self.log)
        first, last, count, _ = seen(self.running, self.first)["counts/n"]
        assert (first, count) == (0, last + 1), self.log
        for id, live in self.nodes.items():
            if live.source not in SOURCES and self.nodes[live.source].source in SOURCES:
                behind = seen(self.running, id)[f"{live.source}/n"][1]
                ahead = [item[1] for item in seen(self.running, live.source).values()]
                assert behind in ahead, (id, self.log)
