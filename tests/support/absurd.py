"""Well-typed absurdities: values of the right type that no program expects. Seeded, so that each can be repeated."""

from __future__ import annotations

import os
import random
from typing import Any

import msgpack

from noderuntime.ipc import protocol

SEED = "NODERUNTIME_TEST_SEED"
LARGE = 2_000_000

INTS = (0, 1, -1, 2, 64, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -0.0, -1.0, 0.5, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "x", "\0", "é" * 300, "../../x", "\x1b[2J", "a\nb", "{}", "x" * 600)
BINARIES = (b"", b"\xc1", b"\0" * 8, b"\xff" * 600, b"\x93\x01")


def seed() -> int:
    """Of this run of a test; $NODERUNTIME_TEST_SEED repeats one."""
    return int(os.environ.get(SEED, random.randrange(1 << 32)))


def value(chance: random.Random, depth: int = 0) -> Any:
    """Anything that MessagePack carries."""
    kind = chance.choice((int, float, str, bytes, bool, type(None), list, dict) if depth < 3 else (int, float, str))
    return None if kind is type(None) else of(chance, kind, depth)


def of(chance: random.Random, kind: type, depth: int = 0) -> Any:
    """A value of one kind."""
    if kind is bool:
        return chance.random() < 0.5
    if kind is int:
        return chance.choice(INTS)
    if kind is float:
        return chance.choice(FLOATS)
    if kind is str:
        return "x" * LARGE if chance.random() < 0.01 else chance.choice(TEXTS)
    if kind is bytes:
        return b"x" * LARGE if chance.random() < 0.01 else chance.choice(BINARIES)
    if kind is list:
        if chance.random() < 0.05:
            return nested(chance.randrange(30, 400))
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind is dict:
        keys = ("node", "k", "", b"k", 1, -1, None, 0.5, "wiring", "x" * 300)
        return {chance.choice(keys): value(chance, depth + 1) for _ in range(chance.randrange(4))}
    raise AssertionError(kind)


def nested(depth: int) -> Any:
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def frame(chance: random.Random, kind: type[protocol.Message], /, **given: Any) -> bytes:
    """A frame of the protocol: each field of the declared type and any value, except those that are `given`."""
    shape = protocol.shape(kind)
    values = [given[name] if name in given else of(chance, chance.choice(kinds)) for name, kinds in shape]
    packed: bytes = msgpack.packb([protocol.NAMES[kind], *values])
    return packed
