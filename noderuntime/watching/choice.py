"""Which topics are meant: names of outputs, NODE/OUTPUT, and patterns of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from noderuntime.dataflow.identifiers import nearest

PATTERN_CHARACTERS: Final = frozenset("*?[")
NAMED_MAX: Final = 20  # topics that an error lists


def is_pattern(text: str) -> bool:
    return not PATTERN_CHARACTERS.isdisjoint(text)


def chosen(wanted: Iterable[str], topics: Iterable[str]) -> list[str]:
    """The topics that are wanted, in their order. `*` stands for any characters, `/` included."""
    wanted = list(wanted)
    return [topic for topic in topics if any(topic == text or fnmatchcase(topic, text) for text in wanted)]


def problem(wanted: Sequence[str], topics: Collection[str]) -> str:
    """What is wrong with what is wanted, in one sentence; "" when each of it is there."""
    if not wanted:
        return "no topic is given: a topic is NODE/OUTPUT, and '*' is all of them"
    for text in wanted:
        if chosen([text], topics):
            continue
        if not topics:
            return f"there is no topic {text!r}: no node of this run has outputs"
        near = None if is_pattern(text) else nearest(text, topics)
        known = ", ".join(list(topics)[:NAMED_MAX]) + (", ..." if len(topics) > NAMED_MAX else "")
        what = f"no topic is like {text!r}" if is_pattern(text) else f"there is no topic {text!r}"
        return f"{what}; did you mean {near!r}?" if near else f"{what}; the topics of this run are: {known}"
    return ""
