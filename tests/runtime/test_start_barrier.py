"""Nodes that start together."""

from __future__ import annotations

from functools import partial

from noderuntime.runtime.start_barrier import StartBarrier


class World:
    def __init__(self, *nodes: str) -> None:
        self.barrier = StartBarrier()
        self.barrier.expect(nodes)
        self.welcomed: list[str] = []

    def hold(self, node: str, life: str = "") -> None:
        self.barrier.hold(node, partial(self.welcomed.append, node + life))

    def arrive(self, node: str) -> None:
        for welcome in self.barrier.arrived(node):
            welcome()


def test_nobody_is_welcomed_before_all_have_come() -> None:
    world = World("a", "b")
    world.arrive("a")
    world.hold("a")
    assert world.welcomed == []
    world.arrive("b")
    assert world.welcomed == ["a"]
    world.hold("b")
    assert world.welcomed == ["a", "b"]


def test_a_node_that_is_over_is_waited_for_no_longer() -> None:
    world = World("a", "b", "c")
    for node in ("a", "b"):
        world.arrive(node)
        world.hold(node)
    world.arrive("c")  # it has ended
    assert world.welcomed == ["a", "b"]


def test_of_a_node_that_died_at_the_barrier_only_the_present_life_is_welcomed() -> None:
    world = World("a", "b")
    world.arrive("a")
    world.hold("a", "1")
    world.arrive("a")
    world.hold("a", "2")
    world.arrive("b")
    assert world.welcomed == ["a2"]


def test_once_open_it_holds_up_nobody() -> None:
    world = World("a")
    world.arrive("a")
    world.hold("a", "1")
    world.arrive("a")
    world.hold("a", "2")
    assert world.welcomed == ["a1", "a2"]


def test_where_nobody_starts_together_there_is_no_barrier() -> None:
    world = World()
    world.hold("a")
    world.arrive("a")
    assert world.welcomed == ["a"]
