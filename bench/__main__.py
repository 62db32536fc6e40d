"""`make bench`: all questions, one table, bench/RESULTS.md, and the summary and plots that the README shows.

    python -m bench [--rounds N] [QUESTION ...]     with named questions the pages stay as they are
    python -m bench --render                        the pages anew, of the last answer to each question
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from bench.measure import Section, missed
from bench.render import Answer, details, keep, render
from bench.systems import RunFailed, tell, versions

QUESTIONS = (
    "hop", "throughput", "payload", "volume", "state", "keyed", "shared", "unmodified", "recovery", "fairness", "scale",
    "start", "soak", "snapshot", "account", "live",
)  # fmt: skip
ROUNDS = 5

Measure = Callable[[int], Section]


def setting() -> str:
    """On what machine, and with what."""
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{os.cpu_count()} cores, Linux {platform.release()}, {used}"


def rounds_of(module: ModuleType, asked: int | None) -> int:
    default: int = getattr(module, "ROUNDS", ROUNDS)
    return asked or default


def ask(question: str, rounds: int | None) -> Answer:
    """Measure, and keep the answer."""
    module = import_module(f"bench.{question}")
    load = os.getloadavg()[0]
    date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    begun = time.monotonic()
    count = rounds_of(module, rounds)
    section: Section = module.measure(count)
    answer = Answer(section, date, setting(), load, count, time.monotonic() - begun)
    keep(question, answer)
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--rounds", type=int, help="of each question; by default as many as each one needs")
    parser.add_argument("--soak-s", type=float, help="how long the soak runs, in seconds")
    parser.add_argument("--render", action="store_true", help="write the pages from what was measured last")
    asked = parser.parse_intermixed_args()
    for name in asked.questions:
        if name not in QUESTIONS:
            parser.error(f"{name!r} is none of {', '.join(QUESTIONS)}")
    if asked.soak_s:
        os.environ["BENCH_SOAK_S"] = str(asked.soak_s)
    questions = asked.questions or ([] if asked.render else QUESTIONS)
    sections = []
    failed = []
    begun = time.monotonic()
    for name in questions:
        tell(name)
        try:
            sections.append(ask(name, asked.rounds).section)
        except RunFailed as error:
            failed.append(name)
            tell(f"{name} could not be measured: {error}")
        except Exception:  # the other questions are worth their answers
            failed.append(name)
            tell(f"{name} could not be measured:\n{traceback.format_exc()}")
    if sections:
        print(details(sections))
        tell(f"took {(time.monotonic() - begun) / 60:.1f} minutes")
    short = missed(sections)
    if asked.render or not asked.questions:
        short = render(QUESTIONS)
        tell("wrote bench/RESULTS.md, docs/plots/ and the summary in README.md")
    if failed:
        tell(f"not measured: {', '.join(failed)}")
    if short:
        tell(f"missed: {'; '.join(short)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
