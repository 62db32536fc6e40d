"""The order of messages inside a process, decided without one."""

from __future__ import annotations

from noderuntime.api.events import Event, input_event
from noderuntime.node.chain import INNER_MESSAGES_MAX, Chain, InnerInput

BYTES_MAX = 10_000


def message(number: int) -> Event:
    return input_event("in", number, {}, "a/out", 0, number)


def chain_and_input(drops: bool = False) -> tuple[Chain[str], InnerInput[str]]:
    chain: Chain[str] = Chain(BYTES_MAX)
    chain.enter(fused=True)
    return chain, InnerInput("b", "in", "a/out", drops)


def test_messages_inside_are_first_in_first_out() -> None:
    chain, to = chain_and_input()
    for number in (1, 2, 3):
        chain.put(to, message(number), 10)
    assert [chain.queue.popleft()[1].value for _ in range(3)] == [1, 2, 3]


def test_a_message_goes_behind_those_that_wait_in_the_mailbox() -> None:
    chain, to = chain_and_input()
    other = InnerInput("c", "in", "a/out", False)
    assert chain.takes(to) and chain.open
    chain.passed_on(to)
    assert not chain.takes(to) and chain.waiting == [to]
    assert chain.takes(other) and not chain.open
    chain.enter(fused=True)
    assert not chain.takes(to)
    chain.emptied(to)
    assert chain.takes(to) and chain.open and not chain.waiting


def test_a_drop_oldest_input_always_goes_through_its_mailbox_and_never_comes_first() -> None:
    chain, to = chain_and_input(drops=True)
    assert not chain.takes(to)
    chain.passed_on(to)
    assert not chain.waiting


def test_an_event_that_is_handled_unfused_leaves_all_to_the_mailboxes() -> None:
    chain, to = chain_and_input()
    chain.enter(fused=False)
    assert not chain.takes(to) and not chain.open
    chain.enter(fused=True)
    assert chain.takes(to) and chain.open


def test_one_event_makes_so_many_messages_inside_and_no_more() -> None:
    chain, to = chain_and_input()
    for number in range(INNER_MESSAGES_MAX):
        assert chain.takes(to)
        chain.put(to, message(number), 1)
    assert not chain.takes(to) and not chain.open
    chain.enter(fused=True)
    assert chain.takes(to)


def test_one_event_makes_so_many_bytes_inside_and_no_more() -> None:
    chain, to = chain_and_input()
    chain.put(to, message(1), BYTES_MAX - 1)
    assert chain.takes(to)
    chain.put(to, message(2), 1)
    assert not chain.takes(to)


def test_what_a_failed_event_has_left_is_forgotten() -> None:
    chain, to = chain_and_input()
    chain.put(to, message(1), 1)
    chain.enter(fused=True)
    assert not chain.queue


def test_the_mailbox_farthest_downstream_is_emptied_first() -> None:
    chain, near = chain_and_input()
    far, beside = InnerInput("c", "in", "b/out", False), InnerInput("d", "in", "b/out", False)
    near.depth, far.depth, beside.depth = 1, 2, 2
    for to in (near, far, beside):
        chain.passed_on(to)
    assert chain.first() == [far, beside]
    chain.emptied(far)
    chain.emptied(beside)
    assert chain.first() == [near]
