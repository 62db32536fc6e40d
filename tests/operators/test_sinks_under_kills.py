"""Source, operators and sinks in a real run whose processes are killed: what lies on the disk is exact."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import accumulate
from pathlib import Path

import psutil

from noderuntime import dataflows, operators

SEED = 3
LAST = 150
KILLS = 15
SECONDS_MAX = 60

DATAFLOW = """
nodes:
  - id: numbers
    operator: {{python: {dataflows}/numbers_source.py, outputs: [n]}}
    config: {{last: {last}, pause_ms: 30}}
  - id: sums
    operator: {{python: {operators}/running_sum.py, inputs: {{n: numbers/n}}, outputs: [sum]}}
  - id: file
    operator: {{python: {operators}/file_sink.py, inputs: {{sum: sums/sum}}}}
    config: {{path: sums.txt}}
  - id: database
    operator: {{python: {operators}/sqlite_sink.py, inputs: {{sum: sums/sum}}}}
    config: {{path: sums.db}}
"""


def kill_operators(run: subprocess.Popen[bytes], kills: int) -> int:
    """Kill operators of the run at random, until it ends; returns how many were killed."""
    generator = random.Random(SEED)
    killed = 0
    deadline = time.monotonic() + SECONDS_MAX
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        if killed < kills:
            try:
                children = psutil.Process(run.pid).children(recursive=True)
                alive = [each for each in children if each.name() in ("numbers", "sums", "file", "database")]
                if alive:
                    generator.choice(alive).send_signal(signal.SIGKILL)
                    killed += 1
            except psutil.NoSuchProcess:
                continue
    return killed


def test_results_on_disk_are_exact_whatever_is_killed(tmp_path: Path) -> None:
    folders = {"dataflows": dataflows.__path__[0], "operators": operators.__path__[0]}
    (tmp_path / "sums.yml").write_text(DATAFLOW.format(last=LAST, **folders))
    env = {**os.environ, "NODERUNTIME_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "noderuntime", "run", str(tmp_path / "sums.yml")]
    with open(tmp_path / "output", "wb") as output:
        run = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            killed = kill_operators(run, KILLS)
        finally:
            if run.poll() is None:
                run.terminate()
                run.wait(SECONDS_MAX)
    text = (tmp_path / "output").read_text()
    assert run.returncode == 0, text
    assert killed > KILLS / 3, text
    sums = list(accumulate(range(LAST + 1)))
    assert [int(line) for line in (tmp_path / "sums.txt").read_text().split()] == sums, f"seed {SEED}\n{text}"
    with closing(sqlite3.connect(tmp_path / "sums.db")) as database:
        rows = database.execute("SELECT value FROM messages ORDER BY number").fetchall()
    assert [int(value) for (value,) in rows] == sums, f"seed {SEED}\n{text}"
