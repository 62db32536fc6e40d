"""Prints the words that stand most often, once all have been counted."""

from __future__ import annotations

from noderuntime import Node


def table(counts: dict[str, int], most: int) -> list[str]:
    """The words that stand most often; of equal ones the alphabet's first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    width = max((len(word) for word, _ in ranked), default=0)
    lines = [f"{word:<{width}}  {count:>6}  {'█' * max(1, count * 40 // ranked[0][1])}" for word, count in ranked]
    return [*lines, f"{sum(counts.values())} words, {len(counts)} different ones"]


def main() -> None:
    counts: dict[str, int] = {}
    with Node() as node:
        for event in node:
            if event.type == "INPUT":
                counts[event.metadata["key"]] = event.value
        print("\n".join(table(counts, node.config.get("most", 10))), flush=True)


if __name__ == "__main__":
    main()
