"""The sinks in real runs: dead letters that are replayed, kills behind them, two inputs from one output, new runs."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from typing import Any

from support.harness import Folder, Running, wait_until
from test_survive import call

NUMBERS = """
import os
from noderuntime import Source
class Operator(Source):
    def produce(self, position, ctx):
        number = 1 if position is None else position + 1
        if number > 10:
            return Source.END if os.path.exists("enough") else Source.idle(0.01)
        ctx.send_output("n", number)
        return number
"""
FLOW = """
nodes:
  - id: numbers
    operator: {{python: numbers.py, outputs: [n]}}
  - id: sink
    operator: {{module: noderuntime.operators.sqlite_sink, inputs: {inputs}}}
    config: {{path: out.db{more}}}
    max_attempts: 2
    restart_delay: 1ms
"""


def rows(folder: Folder, what: str = "number") -> list[Any]:
    with closing(sqlite3.connect(folder.folder / "out.db")) as database:
        return [row for (row,) in database.execute(f"SELECT {what} FROM messages ORDER BY 1")]


def execute(folder: Folder, sql: str) -> None:
    with closing(sqlite3.connect(folder.folder / "out.db")) as database:
        database.execute(sql)
        database.commit()


def kill(running: Running, node: str) -> None:
    pid = running.status()[node]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running.status()[node]["pid"] not in (0, pid), f"the next life of {node}")


def test_a_replayed_dead_letter_and_a_kill_behind_it_cost_no_row(folder: Folder, monkeypatch: Any) -> None:
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    folder.write(**{"numbers.py": NUMBERS})
    execute(folder, "CREATE TABLE messages (uid TEXT PRIMARY KEY, source TEXT, number INTEGER, sent TEXT, "
                    "metadata TEXT, value TEXT)")  # fmt: skip
    execute(folder, "CREATE TRIGGER no_three BEFORE INSERT ON messages WHEN NEW.number = 3 "
                    "BEGIN SELECT RAISE(ABORT, 'no 3'); END")  # fmt: skip
    running = folder.start(FLOW.format(inputs="{n: numbers/n}", more=""))
    running.wait_for("started")
    wait_until(lambda: rows(folder) == [1, 2, *range(4, 11)], "all but the third")
    execute(folder, "DROP TRIGGER no_three")
    call("dead-letters", "replay", "--run", "flow", "sink")
    wait_until(lambda: rows(folder) == list(range(1, 11)), "the third")
    for _ in range(2):
        kill(running, "sink")
    folder.write(enough="")
    assert running.finish() == 0, running.said
    assert rows(folder) == list(range(1, 11))


def test_one_output_by_two_inputs_is_a_row_each_and_a_new_run_takes_none_away(folder: Folder) -> None:
    folder.write(**{"numbers.py": NUMBERS, "enough": ""})
    for run, more in ((1, ""), (2, ""), (1, ", keep: false")):
        running = folder.start(FLOW.format(inputs="{a: numbers/n, b: numbers/n}", more=more))
        assert running.finish() == 0, running.said
        assert len(rows(folder)) == 20 * run
