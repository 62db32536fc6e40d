"""One run for minutes, and everything at once: all commands (two at a time, some of them killed), kill -9 and SIGSTOP
of its processes, disks that fill up, logs that are taken away, and a client that sends absurdities.

    python tests/support/stress.py --minutes 10            out of a new seed
    python tests/support/stress.py --minutes 10 --seed 17  what each of them does, in its order, once more

At the end the results are exact, the run has ended by itself with code 0, and nothing is left. What each actor does and
in which order is decided by the seed; how they interleave is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import zmq  # noqa: E402
from support import absurd  # noqa: E402
from support.harness import MARK, heed_sigint, processes_of, wait_until  # noqa: E402

from noderuntime.ipc import process  # noqa: E402
from noderuntime.ipc.protocol import VERSION, Ask, Bye, Failed, Hello, Log, Ready, Reply, Request, StopAll  # noqa: E402

MB = 1 << 20
HOME_BYTES, SNAPSHOTS_BYTES = 96 * MB, 128 * MB
OPERATORS = ("by_key", "totals", "rows", "lines", "numbers", "blobs")
NODES = (*OPERATORS, "checks")
OK, FAILED, USAGE, NO_SUCH_RUN, INTERRUPTED = 0, 1, 2, 3, 130
ANSWERS_WITHIN_S = 60.0
REPLAYED_MAX = 30
ENDS_WITHIN_S = 120.0

FLOW = """\
state: STATE
snapshots: {every: 2s, to: ./snapshots, keep: 3}
nodes:
  - id: numbers
    operator: {python: "stress_cast.py:Numbers", outputs: [n]}
    config: {a_second: 200}
    <<: &restarts {restart_policy: on-failure, max_restarts: 0, restart_delay: 5ms, max_restart_delay: 50ms}
  - id: blobs
    operator: {python: "stress_cast.py:Blobs", outputs: [blob]}
    config: {a_second: 10}
    <<: *restarts
  - id: by_key
    operator: {python: "stress_cast.py:ByKey", inputs: {n: {source: numbers/n, queue_size: QUEUE}}, outputs: [sum]}
    <<: *restarts
  - id: totals
    operator: {python: "stress_cast.py:Totals", outputs: [n]}
    inputs: {n: {source: numbers/n, queue_size: QUEUE}, blob: blobs/blob}
    max_attempts: 2
    <<: *restarts
  - id: rows
    operator: {module: noderuntime.operators.sqlite_sink, inputs: {sum: by_key/sum}}
    config: {path: rows.db}
    <<: *restarts
  - id: lines
    operator: {module: noderuntime.operators.file_sink, inputs: {n: totals/n}}
    config: {path: lines.txt}
    <<: *restarts
  - id: checks
    path: stress_cast.py
    args: checks
    inputs: {n: totals/n, sum: by_key/sum}
    <<: *restarts
"""
SMALL = """\
nodes:
  - id: hello
    path: hello.py
"""


@dataclass(slots=True)
class Command:
    """A command line, the codes that it may end with, and what its output has to be.

    `check` gets its stdout, when it ends with 0, and raises AssertionError. `for_s`: it is interrupted after that long.
    `when_full`: it may fail while a disk is full. `when_logs_are_gone`: or while there is no folder for logs.
    `excuse`: it may fail with these words, a regular expression.
    """

    words: Sequence[str]
    codes: Sequence[int] = (OK,)
    check: Callable[[str], None] = lambda out: None
    for_s: float = 0.0
    when_full: bool = False
    when_logs_are_gone: bool = False
    excuse: str = ""
    may_be_killed: bool = True
    given: bytes = b""


class Trouble:
    """A thing that holds for a while (a disk is full), and since when: what happened meanwhile may have met it."""

    def __init__(self) -> None:
        self._now = 0
        self._ended_s = -1e9

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        self._now += 1
        try:
            yield
        finally:
            self._ended_s = time.monotonic()
            self._now -= 1

    def met(self, since_s: float) -> bool:
        """Whether it was there at any time since then, or so shortly before that its effects may last."""
        return self._now > 0 or self._ended_s > since_s - 3.0


@dataclass(slots=True)
class Figures:
    """What was done to the run."""

    commands: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    numbers: int = 0

    def text(self) -> str:
        acts = ", ".join(f"{count} {name}" for name, count in sorted(self.acts.items()))
        codes = ", ".join(f"{count} with {code}" for code, count in sorted(self.codes.items()))
        return f"{self.numbers} numbers; {self.commands.total()} commands ({codes}); {acts}"


class Stress:
    """One run, what is done to it, and the faults that were found."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed, self.seconds = seed, seconds
        chance = random.Random(f"{seed}/run")
        kind = chance.choice(["kind: memory", "history: 100", "kind: sqlite, path: home/kvs.db"])
        self.flow = FLOW.replace("STATE", f"{{size: 32MB, {kind}}}").replace("QUEUE", str(chance.choice([3, 50, 1000])))
        self.kills_a_second = chance.choice([0.5, 1.5, 4.0])
        self.options = [
            *chance.choice([[], ["--chaos", "3s", "--seed", str(seed)]]),
            *chance.choice([[], ["--watch"]]),
            *chance.choice([[], ["--quiet"], ["--log-format", "json"]]),
        ]
        self.before = set(os.listdir("/dev/shm"))
        self.root = Path(tempfile.mkdtemp(prefix="nr-stress-", dir="/dev/shm"))
        self.home, self.tmp = self.root / "home", self.root / "tmp"
        self.snapshots = self.root / "snapshots"
        self.mounted: list[Path] = []
        for folder in (self.home, self.tmp, self.snapshots):
            folder.mkdir(mode=0o700)
        self._mount(self.home, HOME_BYTES)
        self._mount(self.snapshots, SNAPSHOTS_BYTES)
        shutil.copy(HERE / "stress_cast.py", self.root)
        (self.root / "flow.yml").write_text(self.flow)
        (self.root / "small.yml").write_text(SMALL)
        (self.root / "wrong.yml").write_text(self.flow.replace("by_key/sum", "by_kei/sum"))
        (self.root / "hello.py").write_text("from noderuntime import Node\nwith Node():\n    print('hello')\n")
        self.env = {
            **os.environ, "NODERUNTIME_HOME": str(self.home), MARK: str(self.home), "TMPDIR": str(self.tmp),
            "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parent.parent),
        }  # fmt: skip
        self.over = threading.Event()
        self.faults: list[str] = []
        self.figures = Figures()
        self.full, self.logs_gone = Trouble(), Trouble()
        self.dropped: set[int] = set()
        self.perhaps_dropped: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None

    def _mount(self, folder: Path, size: int) -> None:
        """A small tmpfs there; where none may be mounted, the folder has the room of its parent."""
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
        if os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
            self.mounted.append(folder)

    # ---- the run

    def start(self) -> None:
        line = [sys.executable, "-m", "noderuntime", "run", "flow.yml", *self.options]
        with open(self.root / "out.txt", "wb") as out, open(self.root / "err.txt", "wb") as err:
            self.process = process = subprocess.Popen(
                line, cwd=self.root, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        wait_until(lambda: self.max_line() > 0 or process.poll() is not None, "the first results")
        self.runtime_pid = int(json.loads((self.home / "runs/flow/run.json").read_text())["pid"])

    def max_line(self) -> int:
        """The last number that has come to its end, or about that."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            data = (self.root / "lines.txt").read_bytes()[-200:]
            return max(int(line) for line in data.split(b"\n")[1:-1])
        return 0

    def said(self) -> str:
        return (self.root / "err.txt").read_text(errors="replace")

    def fault(self, what: str) -> None:
        self.faults.append(what)
        print(what, file=sys.stderr, flush=True)

    def play(self) -> Figures:
        """All of it. Raises AssertionError with the faults."""
        try:
            self.start()
            actors = [self._commands, self._commands, self._kills, self._disks, self._logs, self._absurdities]
            threads = [
                threading.Thread(target=self._act, args=(actor, random.Random(f"{self.seed}/{place}")), daemon=True)
                for place, actor in enumerate(actors)
            ]
            for thread in threads:
                thread.start()
            assert self.process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(self.seconds)
                self.fault(f"the run ended with {code} in the middle:\n{self.said()[-3000:]}")
            self.over.set()
            for thread in threads:
                thread.join(ANSWERS_WITHIN_S + 30)
                if thread.is_alive():
                    self.fault(f"{thread.name} does not come to its end")
            if self.process.poll() is None:
                self._finish()
                self._check()
        finally:
            self.over.set()
            self._clean()
        assert not self.faults, f"seed {self.seed}: {len(self.faults)} faults\n" + "\n----\n".join(self.faults)
        return self.figures

    def _act(self, actor: Callable[[random.Random], None], chance: random.Random) -> None:
        while not self.over.is_set():
            try:
                actor(chance)
            except AssertionError as error:
                self.fault(str(error))
            except Exception as error:
                self.fault(f"{actor.__name__}: {error!r}")
                raise

    def _finish(self) -> None:
        """Let all that is left be handled, and the run end by itself."""
        (self.root / "healed").touch()
        (sent,) = [node["messages"] for node in self._nodes() if node["id"] == "numbers"]
        try:
            wait_until(lambda: self.max_line() > sent, f"number {sent} to arrive", ENDS_WITHIN_S)
        except AssertionError as error:
            self.fault(f"{error}; {self._nodes()}")
        self.run(Command(["dead-letters", "replay", "--run", "flow", "totals", "--json"]))
        letters = json.loads(self.run(Command(["dead-letters", "ls", "--run", "flow", "--json"])))
        if letters:
            self.fault(f"they are not replayed: {letters}")
        (self.root / "end").touch()
        assert self.process is not None
        try:
            code = self.process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.fault(f"the run does not end: {self._nodes()}\n{self.said()[-3000:]}")
            return
        if code != OK:
            self.fault(f"the run ended with {code}:\n{self.said()[-3000:]}")

    def _nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run(Command(["ps", "flow", "--json"])) or "{}").get("nodes", [])
        return found

    # ---- what has come out

    def _check(self) -> None:
        """Every number once, everywhere."""
        for kept in (self.home / "runs").glob("stress-*"):  # a full disk ended it; it said so, and keeps its state
            self.run(Command(["clean", kept.name]))
        said = self.said()
        for wrong in ("this is a bug", "/noderuntime/", "Exception ignored", "IllegalEvent"):
            if wrong in said:
                self.fault(f"the run said {wrong!r}:\n{said[max(0, said.index(wrong) - 1500) :][:3000]}")
        told = said + (self.root / "out.txt").read_text(errors="replace")
        if "--chaos" in self.options and not re.search(r"lost 0, repeated 0|\"lost\": 0, \"repeated\": 0", told):
            self.fault(f"chaos found what was lost or repeated:\n{told[-3000:]}")
        count = self.figures.numbers = int((self.root / "numbers.count").read_text())
        blobs = int((self.root / "blobs.count").read_text())
        lines = [int(line) for line in (self.root / "lines.txt").read_text().split()]
        missing = set(range(1, count + 1)) - set(lines)
        self._same("lines, each once", len(lines), len(set(lines)))
        self._same("numbers that nobody sent", set(lines) - set(range(1, count + 1)), set())
        if not self.dropped <= missing <= self.dropped | self.perhaps_dropped:
            self.fault(f"missing are {missing}, dropped {self.dropped}, perhaps {self.perhaps_dropped}")
        total = sum(lines)
        self._same("totals' state", self._state("totals", "total"), str(total))
        self._same("blobs", self._state("totals", "blobs"), str(blobs))
        self._same("shared sum", self._state("shared", "totals/sum"), str(total))
        self._same("shared count", self._state("shared", "totals/count"), str(len(lines)))
        database = sqlite3.connect(self.root / "rows.db")
        rows = [json.loads(text) for (text,) in database.execute("SELECT value FROM messages ORDER BY place")]
        database.close()
        sums: Counter[int] = Counter()
        expected = []
        for number in range(1, count + 1):
            sums[number % 7] += number
            expected.append([number % 7, number, sums[number % 7]])
        if rows != expected:
            differing = next((pair for pair in zip(rows, expected, strict=False) if pair[0] != pair[1]), None)
            self.fault(f"{len(rows)} rows instead of {count}; the first that differs: {differing}")
        seen: dict[str, dict[int, int]] = {"n": {}, "sum": {}}
        for line in (self.root / "checks.txt").read_text().splitlines():
            with contextlib.suppress(ValueError):  # torn by a kill in the middle of a write
                name, at, value = line.split()
                if seen[name].setdefault(int(at), int(value)) != int(value):
                    self.fault(f"checks.{name}#{at} has two values: {value}, {seen[name][int(at)]}")
        self._same("checks.sum", sorted(seen["sum"].items()), [(at, at) for at in range(1, count + 1)])
        self._same("checks.n", [value for _, value in sorted(seen["n"].items())], lines)
        found = self.run(Command(["snapshot", "verify", "--run", "flow", "--json"]))
        self._same("damaged snapshots", [item for item in json.loads(found) if not item["good"]], [])

    def _state(self, scope: str, key: str) -> str:
        return self.run(Command(["state", "get", "--run", "flow", scope, key])).strip()

    def _same(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            self.fault(f"{what}: {str(found)[:500]} instead of {str(expected)[:500]}")

    def _clean(self) -> None:
        """Nothing may be left; then remove what is ours."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            wait_until(lambda: not processes_of(self.home), "the processes of the run to end")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not processes_of(self.home), "the processes of the run to end")
        for pid in processes_of(self.home):
            self.fault(f"a process is left: {pid} {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
            os.kill(pid, signal.SIGKILL)
        runs = self.home / "runs"
        left = [str(path) for path in (*runs.rglob("*"), *self.tmp.rglob("*"))] if runs.exists() else []
        left += [str(path) for path in self.home.rglob("*") if path.is_socket() or "errors" in path.parts]
        left += [str(path) for path in self.snapshots.rglob("*") if path.name.endswith((".new", ".tmp"))]
        if left and not any("in the middle" in fault for fault in self.faults):
            self.fault(f"files are left: {left[:20]}")
        for folder in self.mounted:
            undone = subprocess.run(["umount", str(folder)], capture_output=True, text=True)
            if undone.returncode:
                self.fault(f"somebody still uses {folder}: {undone.stderr}")
                subprocess.run(["umount", "-l", str(folder)], check=True)
        if self.faults and os.environ.get("STRESS_KEEP"):
            return
        shutil.rmtree(self.root)

    # ---- commands

    def _commands(self, chance: random.Random) -> None:
        me = f"stress/{threading.get_native_id()}"
        self.run(self.command(chance, me), chance)
        self.over.wait(chance.expovariate(4))

    def run(self, command: Command, chance: random.Random | None = None) -> str:
        """Carry one out, and check it. Returns its stdout."""
        began_s = time.monotonic()
        killed = chance is not None and command.may_be_killed and chance.random() < 0.04
        for_s = chance.uniform(0, 0.6) if killed and chance is not None else command.for_s
        words = [sys.executable, "-m", "noderuntime", *command.words]
        child = subprocess.Popen(
            words, cwd=self.root, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        name = " ".join(command.words[: 2 if command.words[0] in ("state", "snapshot", "dead-letters") else 1])
        try:
            try:
                out, err = child.communicate(command.given, timeout=for_s or ANSWERS_WITHIN_S)
            except subprocess.TimeoutExpired:
                if for_s:
                    child.send_signal(signal.SIGKILL if killed else signal.SIGINT)
                    out, err = child.communicate(timeout=10.0)
                else:
                    raise
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            nodes = "" if command.words[0] == "ps" else f"\n{self._nodes()}"
            raise AssertionError(f"`{name}` does not end: {command.words}\n{out!r}\n{err!r}{nodes}") from None
        code, told, complained = child.returncode, out.decode(errors="backslashreplace"), err.decode()
        self.figures.commands[name] += 1
        self.figures.codes[code] += 1
        if killed and code == -signal.SIGKILL:
            return told
        allowed = {*command.codes}
        if command.for_s:  # it may still have been no more than a Python that begins
            allowed |= {INTERRUPTED, -signal.SIGINT} if not complained else {INTERRUPTED}
        if command.excuse and re.search(command.excuse, complained):
            allowed.add(FAILED)
        full = command.when_full and self.full.met(began_s)
        if full or (command.when_logs_are_gone and self.logs_gone.met(began_s)):
            allowed |= {FAILED, NO_SUCH_RUN}
        took_s = time.monotonic() - began_s
        what = f"`{' '.join(command.words)}` -> {code} after {took_s:.1f} s\n{told[-800:]}{complained[-1500:]}"
        assert code in allowed, what
        assert "this is a bug" not in complained and "/noderuntime/" not in complained, what
        if code in (FAILED, USAGE, NO_SUCH_RUN) and command.words[:2] != ["snapshot", "verify"]:
            # a run that has begun says why it ends in its own log
            assert "error: " in complained or (full and "no room is left" in complained), what
        if code == OK and "--json" in command.words and not command.for_s:
            try:
                for line in told.splitlines():
                    json.loads(line)
            except ValueError:
                raise AssertionError(what) from None
        if code != OK:
            return told
        try:
            command.check(told)
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            raise AssertionError(f"{error!r}: {what}") from None
        return told

    def command(self, chance: random.Random, me: str) -> Command:
        """Any of them."""
        kinds = [
            self._ps, self._logs_command, self._state_command, self._state_command, self._set_and_get, self._diff,
            self._snapshot, self._letters, self._letters, self._reload, self._look, self._mistake,
        ]  # fmt: skip
        return chance.choice(kinds)(chance, me)

    def _ps(self, chance: random.Random, me: str) -> Command:
        def shows(out: str) -> None:
            nodes = {node["id"]: node for node in json.loads(out)["nodes"]}
            assert set(nodes) == set(NODES)
            assert not [id for id, node in nodes.items() if node["state"] in ("failed", "ended", "stopped")]

        def lists(out: str) -> None:
            assert [run["state"] for run in json.loads(out) if run["name"] == "flow"] == ["running"]

        return chance.choice(
            [
                Command(["ps"]),
                Command(["ps", "flow"]),
                Command(["ps", "-a"]),
                Command(["ps", "--json"], check=lists),
                Command(["ps", "-a", "--json"], check=lists),
                Command(["ps", "flow", "--json"], check=shows),
            ]
        )

    def _logs_command(self, chance: random.Random, me: str) -> Command:
        words = ["logs", "--run", "flow"]
        if chance.random() < 0.4:
            words.append(chance.choice(NODES))
        elif chance.random() < 0.3:
            words.append("--runtime")
        words += chance.choice([[], ["--tail", "5"], ["--tail", "0"], ["--since", "2s"], ["--timestamps"], ["--json"]])
        if chance.random() < 0.3:
            return Command([*words, "-f"], for_s=chance.uniform(0.5, 3), when_logs_are_gone=True)
        return Command(words, when_logs_are_gone=True)

    def _state_command(self, chance: random.Random, me: str) -> Command:
        state = ["state", "get", "--run", "flow"]
        form = chance.choice([[], ["--raw"], ["--json"], ["--msgpack"]])
        return chance.choice(
            [
                Command(["state", "ls", "--run", "flow", "shared"]),
                Command(["state", "ls", "--run", "flow", "shared", "totals/", "--json"]),
                Command(["state", "ls", "--run", "flow", chance.choice(OPERATORS), "--json"]),
                Command([*state, "shared", "totals/sum", *form]),
                Command([*state, "totals", "total"]),
                Command(["state", "watch", "--run", "flow", "shared", "totals/", "--count", "3"]),
                Command(["state", "watch", "--run", "flow", "shared", "--json"], for_s=chance.uniform(0.5, 3)),
                Command(["state", "set", "--run", "flow", "totals", "note", "x"], [USAGE]),
                Command(["state", "set", "--run", "flow", "totals", "note", "x", "--force"], when_full=True),
            ]
        )

    def _set_and_get(self, chance: random.Random, me: str) -> Command:
        """What was set is there; then the command that removes it again."""
        key, value = f"{me}/{chance.randrange(3)}", f"value {chance.random()}"
        form = chance.choice(["--text", "--json"])
        given = json.dumps(value) if form == "--json" else value
        where = ["--run", "flow", "shared", key]
        began_s = time.monotonic()
        try:
            self.run(Command(["state", "set", *where, given, form]))
        except AssertionError:
            if not self.full.met(began_s):
                raise
            return Command(["state", "get", *where], [OK, FAILED])
        found = self.run(Command(["state", "get", *where, "--raw"])) if form == "--text" else \
            json.loads(self.run(Command(["state", "get", *where, "--json"])))["value"]
        assert found == value, f"{key} is {found!r} and not {value!r}, as {form}"
        return Command(["state", "rm", *where], may_be_killed=False, when_full=True)

    def _diff(self, chance: random.Random, me: str) -> Command:
        where = ["state", "diff", "--run", "flow", "shared"]
        version = self.run(Command(where)).strip()

        def newer(out: str) -> None:
            found = json.loads(out)
            assert found["version"] and all("stress" in key or "totals" in key for key in found["changed"]), found

        return Command([*where, version, "--json"], check=newer, excuse="history")

    def _snapshot(self, chance: random.Random, me: str) -> Command:
        def good(out: str) -> None:
            assert all(item["good"] for item in json.loads(out))

        return chance.choice(
            [
                Command(["snapshot", "take", "--run", "flow", "--json"], when_full=True),
                Command(["snapshot", "take", "--run", "flow"], when_full=True),
                Command(["snapshot", "ls", "--run", "flow"]),
                Command(["snapshot", "ls", "--run", "flow", "--json"]),
                Command(["snapshot", "verify", "--run", "flow", "--json"], check=good),
            ]
        )

    def _letters(self, chance: random.Random, me: str) -> Command:
        """Of the poisonous messages some are replayed, in vain, and some dropped, which is remembered."""
        at = ["--run", "flow", "totals"]
        kind = chance.choice(["ls", "show", "replay", "drop", "all", "foreign"])
        if kind == "foreign":
            return Command(["dead-letters", chance.choice(["drop", "ls"]), "--run", "flow", "by_key", "--json"])
        letters = json.loads(self.run(Command(["dead-letters", "ls", *at, "--json"])) or "[]")
        if kind == "all":
            # each costs two lives: hundreds at once keep the operator busy for longer than a command may take
            operation = chance.choice(["replay", "show"]) if len(letters) <= REPLAYED_MAX else "show"
            return Command(["dead-letters", operation, *at, "--json"])
        if not letters or kind == "ls":
            return Command(["dead-letters", "ls", *at])
        uid = chance.choice(letters)["uid"]
        number = int(uid.rpartition("#")[2])
        if kind == "drop":
            self.perhaps_dropped.add(number)

        def result(out: str) -> None:
            if kind == "drop" and json.loads(out)["dropped"]:
                self.dropped.add(number)
            elif kind == "show":
                for letter in json.loads(out):
                    assert "is poison" in letter["error"], letter

        return Command(["dead-letters", kind, *at, uid, "--json"], check=result, excuse="has no dead letter")

    def _reload(self, chance: random.Random, me: str) -> Command:
        if chance.random() < 0.2:
            return Command(["reload", "--run", "flow", "checks"], [FAILED])
        node = chance.choice(["by_key", "totals", "rows", "lines"])
        excuse = "only a running or failed operator can be reloaded|is poison|imports, but then SIG"
        return Command(["reload", "--run", "flow", node], excuse=excuse)

    def _look(self, chance: random.Random, me: str) -> Command:
        page = str(self.root / f"{me.replace('/', '-')}.html")
        return chance.choice(
            [
                Command(["validate", "flow.yml"]),
                Command(["validate", "flow.yml", "--json"]),
                Command(["graph", "flow.yml"]),
                Command(["graph", "flow.yml", "--json"]),
                Command(["graph", "flow.yml", "--html", page], may_be_killed=False),
                Command(["run", "small.yml", "--name", me.replace("/", "-"), "--quiet", "--fresh"],
                        may_be_killed=False, when_full=True, when_logs_are_gone=True),
            ]
        )  # fmt: skip

    def _mistake(self, chance: random.Random, me: str) -> Command:
        """What is refused, with a code that says why."""
        run = ["--run", "flow"]
        return chance.choice(
            [
                Command(["run", "flow.yml"], [USAGE]),
                Command(["run", "flow.yml", "--resume"], [USAGE]),
                Command(["run", "flow.yml", "--fresh"], [USAGE]),
                Command(["validate", "wrong.yml", "--json"], [USAGE]),
                Command(["ps", "flo"], [NO_SUCH_RUN]),
                Command(["stop", "flo"], [NO_SUCH_RUN]),
                Command(["clean", "flow"], [FAILED]),
                Command(["logs", *run, "total"], [USAGE, FAILED, NO_SUCH_RUN]),
                Command(["logs", *run, "--tail", "x"], [USAGE]),
                Command(["state", "get", *run, "shared", "nothing"], [FAILED]),
                Command(["state", "ls", *run, "nobody"], [FAILED]),
                Command(["state", "set", *run, "shared", "totals/sum", "no number"], [USAGE]),
                Command(["state", "diff", *run, "shared", "nonsense"], [FAILED]),
                Command(["snapshot", "verify", *run, "999999"], [FAILED]),
                Command(["dead-letters", "replay", *run, "nobody"], [FAILED]),
                Command(["reload", *run, "nobody"], [FAILED]),
            ]
        )

    # ---- kills

    def _kills(self, chance: random.Random) -> None:
        """SIGKILL or SIGSTOP to somebody; the runtime itself is only stopped for a moment."""
        self.over.wait(chance.expovariate(self.kills_a_second))
        kind = chance.random()
        victims = sorted(process.children_of(self.runtime_pid))
        if kind < 0.04:
            os.kill(self.runtime_pid, signal.SIGSTOP)
            self.over.wait(chance.uniform(0.05, 1.0))
            os.kill(self.runtime_pid, signal.SIGCONT)
            self.figures.acts["stops of the runtime"] += 1
            return
        if len(victims) < 5 or self.over.is_set():
            return
        victim, number = chance.choice(victims), signal.SIGKILL if kind < 0.85 else signal.SIGSTOP
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(victim)
            try:
                stat = process.read_stat(victim)
                name = Path(f"/proc/{victim}/comm").read_text().strip()
                if stat is not None and stat.parent == self.runtime_pid:
                    signal.pidfd_send_signal(fd, number)
                    who = {"nr-store": "the store", "nr-forkserver": "the fork server"}.get(name, "nodes")
                    self.figures.acts[f"{'kills' if number == signal.SIGKILL else 'stops'} of {who}"] += 1
            finally:
                os.close(fd)

    # ---- disks and logs

    def _disks(self, chance: random.Random) -> None:
        """The disk of the snapshots, or that of the space and the logs, is full for a while."""
        self.over.wait(chance.uniform(3, 8))
        folder = chance.choice([self.snapshots, self.home])
        for_s = chance.uniform(0.2, 3.0)
        if self.over.is_set() or (folder not in self.mounted and folder is not self.snapshots):
            return
        with self.full.present():
            if folder in self.mounted:
                ballast = folder / "ballast"
                fill(ballast)
                self.over.wait(for_s)
                fill(ballast)
                self.over.wait(for_s)
                ballast.unlink()
            elif os.getuid():
                folder.chmod(0o500)
                self.over.wait(for_s)
                folder.chmod(0o700)
        self.figures.acts[f"times that the disk of {folder.name} was full"] += 1

    def _logs(self, chance: random.Random) -> None:
        """The folder of the logs is tidied away, or cannot be written, for a while."""
        self.over.wait(chance.uniform(3, 8))
        for_s = chance.uniform(0.2, 3.0)
        folder = self.home / "state/flow/logs"
        if self.over.is_set() or not folder.exists():
            return
        with self.logs_gone.present():
            if chance.random() < 0.5:
                shutil.rmtree(folder, ignore_errors=True)
                self.over.wait(for_s)
                self.figures.acts["times that the logs were removed"] += 1
            else:
                aside = folder.with_name("aside")
                folder.rename(aside)
                folder.write_bytes(b"")  # no folder: not even root can write into it
                shutil.rmtree(aside)
                self.over.wait(for_s)
                folder.unlink()
                self.figures.acts["times that the logs could not be written"] += 1

    # ---- a hostile client

    def _absurdities(self, chance: random.Random) -> None:
        """Frames, bytes and connections that nobody expects, to both sockets of the run."""
        name = chance.choice(["runtime.sock", "store.sock"])
        path = self.home / "runs/flow" / name
        kind = chance.random()
        with contextlib.suppress(OSError):
            if kind < 0.2:
                raw = socket.socket(socket.AF_UNIX)
                with raw:
                    raw.settimeout(1.0)
                    raw.connect(str(path))
                    raw.sendall(chance.randbytes(chance.choice([1, 64, 10_000])))
                self.figures.acts["connections of no ZeroMQ"] += 1
                return
        context = zmq.Context()
        peer = context.socket(zmq.DEALER)
        peer.setsockopt(zmq.SNDTIMEO, 1000)
        try:
            peer.connect(f"ipc://{path}")
            for _ in range(chance.randrange(1, 40)):
                with contextlib.suppress(zmq.Again):
                    peer.send(chance.randbytes(50) if chance.random() < 0.1 else self._frame(chance, name))
                    self.figures.acts["absurd frames"] += 1
        finally:
            context.destroy(linger=500)
        self.over.wait(chance.expovariate(2))

    def _frame(self, chance: random.Random, name: str) -> bytes:
        if name == "store.sock":
            operation = chance.choice(OPERATIONS)
            arguments = {key: absurd.value(chance) for key in chance.sample(ARGUMENTS, chance.randrange(8))}
            if chance.random() < 0.5:
                arguments["node"] = chance.choice([*NODES, "nobody"])
            if operation in HARMFUL:  # with the right words these are no absurdities, but commands
                arguments |= {"node": "nobody", "scope": "nobody", "key": "stress/absurd", "wiring": None}
            given = {"version": VERSION, "operation": operation, "arguments": arguments}
            return absurd.frame(chance, Request, **(given if chance.random() < 0.8 else {}))
        what = chance.choice([Log, Failed, Hello, Ready, Reply, Bye, StopAll, Ask])
        if what is Ask:
            return absurd.frame(chance, Ask, version=VERSION, what=chance.choice(["status", "reload", "x" * 10_000]))
        if what is Hello:
            node = chance.choice([*NODES, "x"])
            return absurd.frame(chance, Hello, version=VERSION, node=node)
        return absurd.frame(chance, what)


OPERATIONS = (
    *("kvs_set", "kvs_get", "kvs_read", "kvs_delete", "kvs_merge", "kvs_root", "kvs_diff", "kvs_cells"),
    *("kvs_version", "kvs_watch", "node_open", "node_next", "node_send", "state_ls", "state_get", "state_set"),
    *("state_rm", "letters_ls", "letters_show", "letters_replay", "letters_drop", "figures", "resumed", "outbox"),
    *("touch", "snapshot_status", "snapshot_take", "nothing"),
)
HARMFUL = {"kvs_set", "kvs_delete", "kvs_merge", "state_set", "state_rm", "letters_drop", "letters_replay",
           "node_open", "node_next", "node_send"}  # fmt: skip
ARGUMENTS = (
    *("key", "value", "ttl", "expect", "merge", "since", "prefixes", "cursor", "keys", "prefix", "after", "wait"),
    *("wiring", "node", "messages", "scope", "pid", "ack", "limit", "uids", "ticket", "why", "in_hand", "incarnation"),
)


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        for size in (MB, 1 << 16, 4096):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    assert file.tell() < 2 * HOME_BYTES


def play(seed: int, seconds: float) -> Figures:
    """A stress of that long; AssertionError with what was wrong."""
    return Stress(seed, seconds).play()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    heed_sigint()
    again = f"python {__file__} --minutes {options.minutes:g} --seed {options.seed}"
    print(again, flush=True)
    try:
        print(play(options.seed, options.minutes * 60).text())
    except AssertionError as error:
        print(f"{error}\n{again}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
