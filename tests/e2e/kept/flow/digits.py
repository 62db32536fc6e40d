"""A sum per last digit, as keyed state."""

from noderuntime import stateful_map


@stateful_map(output="sum", key=lambda number: number % 10, default=int)
def digits(digit, number, total):
    return [digit, total + number], total + number
