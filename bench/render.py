"""What was measured, as text: bench/RESULTS.md, the summary in the README, the account of a hop in bench/README.md, and
the plots in docs/plots/.

Each question leaves its answer in bench/results/QUESTION.json, whenever it was asked last; `render` makes the pages of
all that there are. So questions can be asked one by one, in quiet moments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Section, missed, summary, table
from bench.plots import svg

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
RESULTS = BENCH / "results"
PLOTS = ROOT / "docs" / "plots"
ACCOUNT = "account"
BEGIN = "<!-- measured: `python -m bench --render` writes from here -->"
END = "<!-- measured: to here -->"


@dataclass(frozen=True, slots=True)
class Answer:
    """A section, and when and on what it was measured."""

    section: Section
    date: str
    setting: str
    load: float
    rounds: int
    took_s: float

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Answer:
        facts = {name: plain[name] for name in ("date", "setting", "load", "rounds", "took_s")}
        return cls(Section.of(plain), **facts)

    def plain(self) -> dict[str, Any]:
        facts = {name: getattr(self, name) for name in ("date", "setting", "load", "rounds", "took_s")}
        return facts | self.section.plain()


def keep(question: str, answer: Answer) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{question}.json").write_text(json.dumps(answer.plain()))


def kept(questions: Iterable[str]) -> dict[str, Answer]:
    """The answers that there are, in the order of the questions."""
    files = {question: RESULTS / f"{question}.json" for question in questions}
    return {name: Answer.of(json.loads(file.read_text())) for name, file in files.items() if file.exists()}


def details(sections: list[Section]) -> str:
    """All lines, and the notes below them."""
    notes = [f"\n- {section.title}: {note}" for section in sections for note in section.notes]
    return table(sections) + "".join(notes) + ("\n" if notes else "")


def images(answers: dict[str, Answer], folder: str) -> str:
    plots = [(name, plot) for answer in answers.values() for name, plot in answer.section.plots.items()]
    return "\n\n".join(f"![{plot.shows or plot.title}]({folder}/{name}.svg)" for name, plot in plots)


def settings(answers: dict[str, Answer]) -> str:
    """On what each question was measured; said once where it is the same for all."""
    where = sorted({answer.setting for answer in answers.values()})
    head = "".join(f"{setting}.\n" for setting in where)
    rows = "".join(
        f"| {name} | {answer.date} | {answer.rounds} | {answer.load:.2f} | {answer.took_s:.0f} s |\n"
        for name, answer in answers.items()
    )
    return f"{head}\n| question | measured (UTC) | rounds | load before it | took |\n|---|---|---|---|---|\n{rows}"


def results_page(answers: dict[str, Answer], questions: Iterable[str]) -> str:
    sections = [answer.section for answer in answers.values()]
    absent = [name for name in questions if name not in answers]
    parts = [
        "# Results\n",
        "Written by `make bench`. Ratios are medians over rounds in which all sides ran one after the other; they say\n"
        "more than the figures themselves, which move with the machine. `bench/README.md` says how each was taken.\n",
        "## Summary\n",
        summary(sections),
        images(answers, "../docs/plots") + "\n",
        "## All of it\n",
        details(sections),
        "## Where and when\n",
        settings(answers),
    ]
    if absent:
        parts.append(f"Not measured here: {', '.join(absent)}.\n")
    return "\n".join(part for part in parts if part.strip())


def between_marks(page: str, text: str) -> str:
    """`page` with what stands between the two marks replaced. Raises ValueError when they are not there."""
    head, begun, rest = page.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r} around what is measured")
    return f"{head}{BEGIN}\n\n{text}\n{END}{tail}"


def render(questions: Iterable[str]) -> list[str]:
    """Write all pages of all answers; returns what was missed."""
    names = list(questions)
    answers = kept(names)
    sections = [answer.section for answer in answers.values()]
    PLOTS.mkdir(exist_ok=True)
    for section in sections:
        for name, plot in section.plots.items():
            (PLOTS / f"{name}.svg").write_text(svg(plot))
    (BENCH / "RESULTS.md").write_text(results_page(answers, names))
    put(ROOT / "README.md", f"{summary(sections)}\n{images(answers, 'docs/plots')}\n")
    if ACCOUNT in answers:
        account = answers[ACCOUNT]
        put(BENCH / "README.md", f"{details([account.section])}\nMeasured {account.date}: {account.setting}.\n")
    return missed(sections)


def put(page: Path, text: str) -> None:
    page.write_text(between_marks(page.read_text(), text))
