"""Cells: joining is a semilattice, whatever the clocks do; merges, deletions and expiry included."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.merges import Add, Max, Merge, Min, Union, decode
from noderuntime.space import kvs_cells
from noderuntime.space.kvs_cells import Cell, Part, expired, join, merged, visible, written

STORES = (1, 2, 3)
NOW_NS = 1000


def _origin(store: int, node: int = 0) -> int:
    return store << kvs_cells.ORIGIN_BITS | node


numbers = st.integers(-5, 5) | st.floats(-4, 4, allow_nan=False)
merges: st.SearchStrategy[Merge] = st.one_of(
    numbers.map(Add), numbers.map(Max), numbers.map(Min), st.frozensets(st.integers(0, 4)).map(Union)
)
expiries = st.sampled_from([0, 0, 5, 12, 500, 2000])


@st.composite
def histories(draw: st.DrawFn) -> list[Cell]:
    """The cells of three stores that write, delete, merge, and hear of each other, with clocks that jump."""
    kept = dict.fromkeys(STORES, kvs_cells.EMPTY)
    for _ in range(draw(st.integers(0, 12))):
        store = draw(st.sampled_from(STORES))
        cell = kept[store]
        now_ns = draw(st.integers(0, 30))
        stamp = max(now_ns, kvs_cells.latest(cell) + 1)
        action = draw(st.sampled_from(["set", "delete", "merge", "merge", "hear", "expire"]))
        if action == "set":
            value = draw(st.sampled_from([b"\x01", b"\x02", b"text"]))
            kept[store] = written(stamp, _origin(store), value, draw(expiries), draw(st.booleans()))
        elif action == "delete":
            kept[store] = written(stamp, _origin(store), None)
        elif action == "merge":
            try:
                kept[store] = merged(cell, draw(merges), stamp, _origin(store), now_ns, draw(expiries))
            except TypeError:
                continue
        elif action == "hear":
            kept[store] = join(cell, kept[draw(st.sampled_from(STORES))])
        else:
            kept[store] = expired(cell, now_ns)
    return list(kept.values())


@given(histories())
def test_joining_is_commutative_associative_and_idempotent(found: list[Cell]) -> None:
    one, two, three = found
    assert join(one, two) == join(two, one)
    assert join(join(one, two), three) == join(one, join(two, three))
    assert join(one, one) == one
    assert join(join(one, two), two) == join(one, two)


@given(histories(), st.integers(0, 3000))
def test_expiring_before_or_after_joining_is_the_same_to_readers(found: list[Cell], now_ns: int) -> None:
    one, two, three = found
    whole = join(join(one, two), three)
    early = join(join(expired(one, now_ns), expired(two, now_ns)), expired(three, now_ns))
    mixed = join(expired(join(one, two), now_ns), three)
    for later in (now_ns, now_ns + 10, now_ns + 5000):
        assert visible(early, later) == visible(whole, later) == visible(mixed, later)


@given(histories())
def test_a_cell_survives_the_way_to_another_host(found: list[Cell]) -> None:
    for cell in found:
        assert kvs_cells.unpack(kvs_cells.pack(cell)) == kvs_cells.load(kvs_cells.pack(cell)) == cell


@given(st.lists(st.tuples(st.sampled_from(STORES), st.integers(-9, 9)), max_size=12))
def test_increments_made_anywhere_all_count(made: list[tuple[int, int]]) -> None:
    kept = dict.fromkeys(STORES, kvs_cells.EMPTY)
    for turn, (store, amount) in enumerate(made):
        stamp = max(turn, kvs_cells.latest(kept[store]) + 1)
        kept[store] = merged(kept[store], Add(amount), stamp, _origin(store), NOW_NS)
    whole = kvs_cells.EMPTY
    for cell in kept.values():
        whole = join(whole, cell)
    value = visible(whole, NOW_NS)
    assert (decode(value) if value is not None else 0) == sum(amount for _, amount in made)


@given(st.lists(merges, min_size=1, max_size=8))
def test_a_store_by_itself_merges_as_the_merges_say(made: list[Merge]) -> None:
    cell, expected = kvs_cells.EMPTY, None
    for turn, merge in enumerate(made):
        try:
            wanted = merge.apply(expected)
        except TypeError:
            with pytest.raises(TypeError):
                merged(cell, merge, 10 * turn, _origin(1), NOW_NS)
            continue
        cell = merged(cell, merge, 10 * turn, _origin(1), NOW_NS)
        expected = wanted
        value = visible(cell, NOW_NS)
        assert value is not None
        assert decode(value) == pytest.approx(decode(wanted))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_cell_or_a_value_error(packed: bytes) -> None:
    with contextlib.suppress(ValueError):
        kvs_cells.unpack(packed)


def test_a_write_behind_an_increment_replaces_it_and_an_increment_behind_a_write_adds_to_it() -> None:
    early = merged(kvs_cells.EMPTY, Add(1), 5, _origin(1), NOW_NS)
    late = merged(kvs_cells.EMPTY, Add(1), 9, _origin(2), NOW_NS)
    between = written(7, _origin(3), b"\x0a")
    value = visible(join(join(early, late), between), NOW_NS)
    assert value is not None
    assert decode(value) == 11


def test_expiry_does_not_win_over_a_write_that_came_before_it_elsewhere() -> None:
    mortal = written(5, _origin(1), b"mortal", expires_ns=15)
    elsewhere = written(7, _origin(2), b"stays")
    assert visible(join(expired(mortal, 16), elsewhere), 16) == b"stays"


def test_ties_are_decided_alike_at_both_sides() -> None:
    one, two = written(5, _origin(1), b"one"), written(5, _origin(2), b"two")
    assert join(one, two) == join(two, one) == two
    clones = written(5, _origin(1), b"one"), written(5, _origin(1), b"other")
    assert join(*clones) == join(*reversed(clones))


def test_a_counter_that_expires_again_and_again_does_not_grow() -> None:
    cell = kvs_cells.EMPTY
    for turn in range(50):
        now_ns = 1000 * turn
        cell = merged(cell, Add(1), now_ns, _origin(1), now_ns, now_ns + 500)
        assert visible(cell, now_ns) == b"\x01"
    assert len(cell.parts) == 1


def test_a_cell_with_impossible_fields_is_refused() -> None:
    good = Cell(5, _origin(1), 0, b"v", (Part(0, 1, 6, 1, b"\x01", 0),))
    assert kvs_cells.unpack(kvs_cells.pack(good)) == good
    for bad in (
        good._replace(stamp=1 << 62),
        good._replace(stamp=-1),
        good._replace(origin="x"),
        good._replace(value="text"),
        good._replace(parts=(good.parts[0]._replace(kind=4),)),
        good._replace(parts=(good.parts[0]._replace(first=4),)),
        good._replace(parts=(good.parts[0]._replace(amount=b"\xc1"),)),
        good._replace(parts=(good.parts[0], good.parts[0])),
    ):
        with pytest.raises(ValueError, match="cell"):
            kvs_cells.unpack(kvs_cells.pack(bad))


def test_a_cell_without_a_mark_is_packed_as_before_and_one_from_before_is_read() -> None:
    plain = written(5, 7, b"text")
    assert kvs_cells.pack(plain) == msgpack.packb([5, 7, 0, b"text", []])
    marked = written(5, 7, b"\x05", packed=True)
    for cell in (plain, marked):
        assert kvs_cells.unpack(kvs_cells.pack(cell)) == kvs_cells.load(kvs_cells.pack(cell)) == cell
    assert join(plain, marked) == join(marked, plain)


@pytest.mark.parametrize("mark", [[False], [1], [True, True], ["yes"]])
def test_a_mark_that_is_none_is_refused(mark: list[object]) -> None:
    with pytest.raises(ValueError, match="not a cell"):
        kvs_cells.unpack(msgpack.packb([5, 7, 0, b"text", [], *mark]))


def test_a_deletion_has_no_mark() -> None:
    with pytest.raises(ValueError, match="no cell has"):
        kvs_cells.unpack(msgpack.packb([5, 7, 0, None, [], True]))
