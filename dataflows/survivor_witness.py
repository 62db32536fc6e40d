"""Kills the counter once a second with kill -9, watches what it counts, and says at the end what it has seen.

On a terminal the picture is painted anew with each tick (a line that starts with ESC [ 2 J is a frame); elsewhere there
is a line for each kill.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from noderuntime import Node

GREEN, RED, DIM, BOLD, PLAIN = (f"\x1b[{code}m" for code in ("32", "1;31", "2", "1", "0"))
SPARKS = " ▁▂▃▄▅▆▇█"
LABEL = 13


@dataclass
class Witness:
    """What was seen. Times in seconds; `slots` holds (counts that arrived, kills) of each tick."""

    joins: bool = False  # a life before this one has seen what came before: begin with what arrives first
    count: int = 0  # the last that arrived
    arrived: int = 0
    lost: int = 0
    repeated: int = 0
    process: int = 0
    killed: int = 0  # the process that was killed last, until another one has counted
    killed_s: float = 0.0
    kills: int = 0
    back_s: list[float] = field(default_factory=list)
    slots: deque[tuple[int, int]] = field(default_factory=lambda: deque([(0, 0)], maxlen=400))

    def see(self, value: dict[str, Any], now_s: float) -> bool:
        """A count arrived. Whether it is the first one of a new life."""
        count = value["count"]
        if self.joins:
            self.joins, self.count = False, count - 1
        self.lost += max(0, count - self.count - 1) + max(0, value["number"] - count - self.lost)
        self.repeated += max(0, self.count + 1 - count)
        self.count = max(self.count, count)
        self.arrived += 1
        counts, kills = self.slots[-1]
        self.slots[-1] = (counts + 1, kills)
        self.process = value["process"]
        if not self.killed or self.process == self.killed:
            return False
        self.back_s.append(now_s - self.killed_s)
        self.killed = 0
        return True

    def kill(self, now_s: float) -> bool:
        """Kill the process that counted last; whether there was one to kill."""
        if not self.process or self.killed:
            return False
        try:
            os.kill(self.process, signal.SIGKILL)
        except ProcessLookupError:  # another process did
            return False
        self.killed, self.killed_s = self.process, now_s
        self.kills += 1
        counts, kills = self.slots[-1]
        self.slots[-1] = (counts, kills + 1)
        return True

    @property
    def is_good(self) -> bool:
        return not self.lost and not self.repeated


def back_text(back_s: list[float]) -> str:
    if not back_s:
        return "-"
    return f"p50 {median(back_s) * 1000:.1f} ms, max {max(back_s) * 1000:.1f} ms"


def rows(seen: Witness, columns: int, colour: bool) -> list[str]:
    """The picture, at most `columns` wide."""

    def paint(text: str, code: str) -> str:
        return f"{code}{text}{PLAIN}" if colour else text

    def row(label: str, text: str) -> str:
        return f"{label:<{LABEL}}{text}"

    slots = list(seen.slots)[-max(columns - LABEL - 1, 1) :]
    most = max(max(counts for counts, _ in slots), 1)
    marks = "".join("x" if kills else " " for _, kills in slots)
    line = "".join(SPARKS[-(-counts * (len(SPARKS) - 1) // most)] for counts, _ in slots)
    verdict = GREEN if seen.is_good else RED
    life = f"process {seen.process}" if not seen.killed else f"process {seen.killed} was killed"
    return [
        paint("the counter is killed with kill -9 once a second; its count continues"[: columns - 1], BOLD),
        "",
        row("count", f"{paint(f'{seen.count:,}', BOLD)}   {paint(life, DIM)}"),
        row("kills", f"{seen.kills}   {paint('back after ' + back_text(seen.back_s), DIM)}"),
        row("messages", paint(f"lost {seen.lost}, repeated {seen.repeated}", verdict)),
        "",
        row("kill -9", paint(marks, RED)),
        row("counts", paint(line, GREEN)),
        row("", paint("each column is a twentieth of a second"[: max(columns - LABEL - 1, 0)], DIM)),
    ]


def verdict(seen: Witness) -> list[str]:
    word = "survived" if seen.is_good else "NOT AS PROMISED"
    kills = f"{seen.kills} kill{'' if seen.kills == 1 else 's'}"
    return [
        f"{word}: {kills} with kill -9, counted on after {back_text(seen.back_s)}",
        f"count {seen.count:,}, messages lost {seen.lost}, repeated {seen.repeated}",
    ]


def main() -> None:
    terminal = os.environ.get("NODERUNTIME_TERMINAL", "")
    columns = int(terminal.partition("x")[0]) if terminal else 80
    colour = "NO_COLOR" not in os.environ
    with Node() as node:
        seen = Witness(joins=node.is_restart)
        every_s = float(node.config.get("kill_every", 1.0))
        next_s = time.monotonic() + every_s
        for event in node:
            now_s = time.monotonic()
            if event.type == "INPUT" and event.id == "count":
                if seen.see(event.value, now_s) and not terminal:
                    back = f"{seen.back_s[-1] * 1000:.1f} ms"
                    print(f"kill {seen.kills}: counted on after {back}; count {seen.count:,}, "
                          f"messages lost {seen.lost}, repeated {seen.repeated}", flush=True)
            elif event.type == "INPUT":
                seen.slots.append((0, 0))
                if now_s >= next_s and seen.kill(now_s):
                    next_s = now_s + every_s
                if terminal:
                    print("\x1b[2J" + "\r".join(rows(seen, columns, colour)), flush=True)
    if terminal:
        print("\x1b[2J" + "\r".join(rows(seen, columns, colour)), flush=True)
    for line in verdict(seen):
        print(line, flush=True)


if __name__ == "__main__":
    main()
