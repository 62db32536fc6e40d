"""From lines to words, and from words to their counts."""

from __future__ import annotations

import re

from noderuntime import Context, Event, stateful_map

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class Operator:
    """Sends each word of a line, in small letters."""

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] == "INPUT":
            for word in WORD.findall(event["value"]):
                ctx.send_output("word", word.lower())


@stateful_map(output="count", key=lambda word: word, default=int)
def count(word: str, _: str, seen: int) -> tuple[int, int]:
    return seen + 1, seen + 1
