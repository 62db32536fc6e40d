"""`make bench`: all questions, one table, and bench/RESULTS.md, which the README shows.

    python -m bench [--rounds N] [QUESTION ...]         questions: floor hop state start throughput recovery
                                                        account snapshot

Raw figures go to bench/results/, which git ignores. With named questions RESULTS.md stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import import_module

from bench.measure import Section, table
from bench.systems import BENCH, tell, versions

QUESTIONS = ("floor", "hop", "state", "start", "throughput", "recovery", "account", "snapshot")
ROUNDS = 7

Measure = Callable[[int], Section]


def setting() -> str:
    """On what machine, with what, and how busy it was."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{os.cpu_count()} cores, Linux {platform.release()}, {used}; load {load}"


def keep(name: str, section: Section) -> None:
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"setting": setting(), **section.plain()}))


def show(sections: list[Section]) -> str:
    notes = [note for section in sections for note in section.notes]
    return table(sections) + "".join(f"\n{note}\n" for note in notes)


def alone(measure: Measure) -> None:
    """One question, asked by itself: `python -m bench.hop [ROUNDS]`."""
    section = measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
    keep(measure.__module__.rpartition(".")[2], section)
    print(show([section]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    for name in asked.questions:
        if name not in QUESTIONS:
            parser.error(f"{name!r} is none of {', '.join(QUESTIONS)}")
    sections = []
    begun = time.monotonic()
    for name in asked.questions or QUESTIONS:
        tell(name)
        section: Section = import_module(f"bench.{name}").measure(asked.rounds)
        keep(name, section)
        sections.append(section)
    text = show(sections)
    print(text)
    if not asked.questions:
        minutes = (time.monotonic() - begun) / 60
        head = f"Measured by `make bench` in {minutes:.0f} minutes, {asked.rounds} rounds: {setting()}.\n"
        explained = (
            "Ratios are medians over rounds in which all sides ran one after the other; they say more than the\n"
            "figures themselves, which move with the machine. `bench/README.md` says how each was taken.\n"
        )
        (BENCH / "RESULTS.md").write_text(f"{head}{explained}\n{text}")
    missed = [row.what for section in sections for row in section.rows if row.reached is False]
    if missed:
        tell(f"missed: {'; '.join(missed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
