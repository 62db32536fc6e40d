"""Sums of the even and of the odd numbers."""

from __future__ import annotations

from noderuntime import stateful_map


@stateful_map(output="sum", key=lambda number: "even" if number % 2 == 0 else "odd", default=int)
def parity_sums(key: str, number: int, total: int) -> tuple[int, int]:
    total += number
    return total, total
