"""Prints what arrives, a line for each message; with `every: N` in config each Nth, and the last of each input."""

from __future__ import annotations

from noderuntime import Event, Node


def text(event: Event) -> str:
    key = f" of {event.metadata['key']!r}" if "key" in event.metadata else ""
    return f"{event.id}{key}: {event.value}"


def main() -> None:
    with Node() as node:
        every = node.config.get("every", 1)
        counts: dict[str, int] = {}
        waiting: dict[str, str] = {}  # input -> its newest line, not printed yet
        for event in node:
            if event.type == "INPUT":
                counts[event.id] = counts.get(event.id, 0) + 1
                waiting[event.id] = text(event)
                if counts[event.id] % every == 0:
                    print(waiting.pop(event.id), flush=True)
        for line in waiting.values():
            print(line, flush=True)


if __name__ == "__main__":
    main()
