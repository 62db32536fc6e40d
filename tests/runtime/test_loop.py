"""The runtime's loop over descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from noderuntime.runtime.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_a_descriptor_that_is_used_again_within_a_turn_does_not_get_the_old_ones_event(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    new, new_end = os.pipe()
    called: list[str] = []

    def close_the_other(mine: int, other: int) -> None:
        called.append("first")
        os.read(mine, 1)
        loop.close_fd(other)
        os.dup2(new, other)
        loop.watch(other, lambda: called.append("of another"))

    (one, one_end), (two, two_end) = pipes
    loop.watch(one, lambda: close_the_other(one, two))
    loop.watch(two, lambda: close_the_other(two, one))
    os.write(one_end, b"x")
    os.write(two_end, b"x")
    loop.turn(0.0)
    loop.turn(0.0)
    assert called == ["first"]
    os.write(new_end, b"x")
    loop.turn(0.0)
    assert called == ["first", "of another"]
    for fd in (one, two, one_end, two_end, new, new_end):
        os.close(fd)
