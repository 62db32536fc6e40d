"""Keys sort as what they stand for, come back as they were built, and never meet those of another kind."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.errors import KeyTooLong
from noderuntime.space import keys

NODE = st.integers(0, 65535)
SEQUENCE = st.integers(0, 2**64 - 1)
INDEX = st.integers(0, 2**32 - 1)
PLACES = st.tuples(NODE, NODE, SEQUENCE, INDEX)


@given(PLACES)
def test_a_message_key_comes_back_as_it_was_built(place: tuple[int, int, int, int]) -> None:
    node, input, sequence, index = place
    key = keys.message(*place)
    assert keys.parse_message(key) == place
    assert key == keys.mailbox(node, input) + keys.place(sequence, index)
    assert len(keys.mailbox(node, input)) == keys.MAILBOX_PREFIX_BYTES
    assert keys.parse_message(keys.attempts(key)) == place
    assert keys.attempts(key).startswith(keys.attempts_prefix(node))


@given(PLACES, PLACES)
def test_message_keys_sort_as_their_numbers_do(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert (keys.message(*one) < keys.message(*other)) == (one < other)


@given(PLACES, PLACES)
def test_dead_letters_of_a_node_sort_by_when_their_messages_were_sent(
    one: tuple[int, int, int, int], two: tuple[int, int, int, int]
) -> None:
    (node, input, sequence, index), (_, other_input, other_sequence, other_index) = one, two
    key = keys.dead(node, sequence, index, input)
    other = keys.dead(node, other_sequence, other_index, other_input)
    assert key.startswith(keys.dead_prefix(node))
    assert (key < other) == ((sequence, index, input) < (other_sequence, other_index, other_input))


@given(PLACES)
def test_a_pack_lies_between_its_first_message_and_the_next_place(place: tuple[int, int, int, int]) -> None:
    node, input, sequence, index = place
    key = keys.message(*place)
    pack = key + keys.PACK_MARK
    assert keys.is_pack(pack)
    assert not keys.is_pack(key)
    assert key < pack < keys.message(node, input, sequence, min(index + 1, 2**32 - 1)) + b"\xff"
    assert (keys.sequence_of(pack), keys.index_of(pack)) == (sequence, index)


def test_no_kind_of_key_begins_like_another() -> None:
    kinds = [
        keys.fact(""),
        keys.node(1),
        keys.wiring(1),
        keys.TAPPED_PREFIX,
        keys.queue(1, 2),
        keys.mailbox(1, 2),
        keys.attempts_prefix(1),
        keys.dead_prefix(1),
        keys.private_prefix(1),
        keys.KEYED_PREFIX,
        keys.DUE_PREFIX,
        keys.shared(b""),
        keys.request(""),
    ]
    for one, other in combinations(kinds, 2):
        assert not one.startswith(other) and not other.startswith(one)


@given(NODE, NODE, st.text(max_size=50), st.text(max_size=50))
def test_private_keys_of_two_nodes_or_names_differ(one: int, other: int, name: str, second: str) -> None:
    first = keys.private_prefix(one) + keys.user_key(name)
    assert (first == keys.private_prefix(other) + keys.user_key(second)) == ((one, name) == (other, second))


def test_the_longest_user_key_fits_wherever_user_keys_go() -> None:
    key = keys.user_key("x" * keys.USER_KEY_BYTES_MAX)
    assert len(keys.private_prefix(65535) + key) <= keys.LMDB_KEY_BYTES_MAX
    assert len(keys.shared(key)) <= keys.LMDB_KEY_BYTES_MAX


def test_a_user_key_is_measured_in_bytes_and_its_limit_is_named() -> None:
    with pytest.raises(KeyTooLong, match=r"509 bytes.*508") as caught:
        keys.user_key("é" + "x" * 507)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (509, 508)


@pytest.mark.parametrize("key", [b"x", 1, None, ("a",)])
def test_a_user_key_that_is_no_text_is_refused_by_its_type(key: object) -> None:
    with pytest.raises(TypeError, match=type(key).__name__):
        keys.user_key(key)  # type: ignore[arg-type]


def test_a_user_key_that_is_no_unicode_is_refused() -> None:
    with pytest.raises((TypeError, ValueError)):
        keys.user_key("\udc80")


def test_a_clients_name_that_is_too_long_is_refused_and_not_cut() -> None:
    with pytest.raises(KeyTooLong):
        keys.request("x" * 600)
