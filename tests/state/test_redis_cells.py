"""What the scripts on a Redis server make of a cell is what cells.py and merges.py make of it, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgpack
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from support.redis_server import RedisServer

from noderuntime.merges import Add, Max, Merge, Min, Union, decode
from noderuntime.space import kvs_cells
from noderuntime.space.kvs_cells import Cell, Part
from noderuntime.state.common import Put
from noderuntime.state.redis import RedisState, _digits, _plain, _row
from noderuntime.state.redis_cells import CELLS

NOW = 1_000_000_000_000_000_000 + (1 << 53) + 1  # a moment that no double holds
STAMP = NOW + 5
STORE = (1 << 47) + 3
ORIGIN = STORE << kvs_cells.ORIGIN_BITS | 7
KEY = b"n\xc3\xb6/key"

SCRIPT = CELLS + """
local now, cell = ARGV[1], load_cell(ARGV[2])
local function told(found)
  if not found then return false end
  local first, last = ends(found, now)
  local value = visible(found, now)
  return {pack_cell(found, latest(found), first), last, value, contribution(KEYS[1], value)}
end
local made = merged(cell, tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], ARGV[7], now, ARGV[8])
return {told(made), told(expired(cell, now))}
"""

whole = st.sampled_from([0, 1, -1, 127, 128, 255, 256, -32, -33, -128, -129, 65535, 65536, -32769, 2**31, -(2**31) - 1,
                         2**32 - 1, 2**32, -(2**32), 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, 2**63,
                         2**64 - 1, -(2**63)]) | st.integers(-(2**63), 2**64 - 1)  # fmt: skip
decimals = st.floats(allow_nan=False) | st.sampled_from([0.5, -0.0, 2.0**53, 2.0**63, 2.0**64])
numbers = whole | decimals | whole.map(float)
texts = st.text(max_size=5) | st.sampled_from(["é", "e", "Z", "a", "x" * 40, "\U0010ffff", "\uffff"])
elements = st.none() | st.booleans() | numbers | texts | st.binary(max_size=40)
merges: st.SearchStrategy[Merge] = st.one_of(
    numbers.map(Add), numbers.map(Max), numbers.map(Min), st.frozensets(elements, max_size=20).map(Union)
)
values = st.one_of(
    st.none(),
    numbers.map(msgpack.packb),
    st.lists(elements, max_size=20).map(msgpack.packb),
    st.binary(max_size=12),
    st.floats(width=32).map(lambda value: b"\xca" + struct.pack(">f", value)),
    st.integers(0, 255).map(lambda value: b"\xcf" + struct.pack(">Q", value)),
    st.binary(max_size=5).map(lambda text: b"\x91" + bytes([0xA0 + len(text)]) + text),
    st.sampled_from([b"", b"\x80", b"\x91\x90", b"\xd4\x00\x01", b"\x01\x02", b"\xdd\xff\xff\xff\xff", b"\xda\x00"]),
)
expiries = st.sampled_from([0, 0, NOW - 1, NOW, NOW + 1, NOW + 10**15])
amounts = st.sampled_from([0, 1, 2, 3]).flatmap(
    lambda kind: st.tuples(
        st.just(kind), (st.frozensets(elements, max_size=5).map(Union) if kind == 3 else numbers.map(Add)).map(_amount)
    )
)


def _amount(merge: Merge) -> bytes:
    return merge.apply(None)


@st.composite
def found_cells(draw: st.DrawFn) -> Cell:
    """A register, and parts of up to three stores."""
    parts = {}
    for _ in range(draw(st.integers(0, 3))):
        kind, amount = draw(amounts)
        place = draw(st.integers(1, 5)), draw(st.sampled_from([1, STORE, STORE + 1]))
        parts[place] = Part(kind, place[1], place[0], draw(st.integers(1, 2**63 - 2)), amount, draw(expiries))
        if draw(st.booleans()) and place in parts:
            parts[place] = parts[place]._replace(kind=0, amount=draw(st.sampled_from([b"", b"\x05"])))
    value = draw(values)
    return Cell(0, draw(st.sampled_from([0, ORIGIN, 1 << 20])), draw(expiries) if value is not None else 0, value,
                tuple(parts[place] for place in sorted(parts)), draw(st.booleans()) and value is not None)  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:
        server = RedisServer(Path(folder))
        with redis.Redis.from_url(server.url, protocol=2) as client:
            yield client
        server.kill()


def _body(cell: Cell) -> bytes:
    body: bytes = _plain(Put("", cell, 0, 0, 0, False, 0))[1]
    return body


def _told(answer: Any) -> Any:
    """What the script has told of a cell: the cell, when it was changed last, its first and last expiry, and so on."""
    if answer is None:
        return None
    body, last, value, contribution = answer
    row = _row(b"1:" + bytes(16) + body)
    return row.cell, row.written_ns, row.changes_ns, int(last), value, contribution


def _expected(cell: Cell | None) -> Any:
    if cell is None:
        return None
    value, alive = kvs_cells.visible(cell, NOW), kvs_cells.alive(cell, NOW)
    contribution = kvs_cells.contribution(KEY, value).to_bytes(16, "little")
    return cell, kvs_cells.latest(cell), kvs_cells.changes_ns(alive), kvs_cells.ends_ns(alive), value, contribution


def _merged(cell: Cell, merge: Merge, default_ns: int) -> Cell | None:
    try:
        return kvs_cells.merged(cell, merge, STAMP, ORIGIN, NOW, default_ns)
    except TypeError:
        return None


@given(found_cells(), merges, st.sampled_from([0, NOW + 77]))
@example(Cell(1, 0, 0, msgpack.packb(2**53)), Add(1), 0)
@example(Cell(1, 0, 0, msgpack.packb(2**63 - 1)), Add(2**63), 0)
@example(Cell(1, 0, 0, msgpack.packb(2**64 - 1)), Add(1), 0)
@example(Cell(1, 0, 0, msgpack.packb(2.0**53)), Max(2**53 + 1), 0)
@example(Cell(1, 0, 0, msgpack.packb(1.0)), Min(1), 0)
@example(Cell(1, 0, 0, b"\x91\xa3\xed\xa0\x80"), Union({"a"}), 0)  # half a pair of surrogates
@example(Cell(1, 0, 0, b"\x91\xa3\xe0\x80\x80"), Union({"a"}), 0)  # longer than it need be
@example(Cell(1, 0, 0, None, (Part(0, STORE, 2, 1, b"\x01", 0), Part(0, STORE, 3, 1, b"\x02", 0))), Add(1), 0)
def test_a_merge_on_the_server_is_the_merge_in_python(
    client: redis.Redis, cell: Cell, merge: Merge, default_ns: int
) -> None:
    arguments = [
        _digits(NOW), _body(cell), kvs_cells.kind_of(merge), merge.apply(None), _digits(STAMP), _digits(ORIGIN),
        _digits(STORE), _digits(default_ns),
    ]  # fmt: skip
    made, over = client.eval(SCRIPT, 1, KEY, *arguments)  # type: ignore[misc]
    assert _told(made) == _expected(_merged(cell, merge, default_ns))
    assert _told(over) == _expected(kvs_cells.expired(cell, NOW))


EDGES = [-33, -32, -1, 0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, -128, -129, -32768, -32769, -(2**31),
         -(2**31) - 1, -(2**32), -(2**63), 2**63, 2**64 - 1]  # fmt: skip


@pytest.mark.parametrize("edge", EDGES)
def test_whole_numbers_are_packed_as_in_python(client: redis.Redis, edge: int) -> None:
    cell = Cell(1, 0, 0, msgpack.packb(edge))
    arguments = [_digits(NOW), _body(cell), 1, Max(edge).apply(None), *[_digits(STAMP)] * 4]
    made, _ = client.eval(SCRIPT, 1, KEY, *arguments)  # type: ignore[misc]
    assert made[2] == msgpack.packb(edge)


@pytest.mark.parametrize("first", [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 2])
def test_whole_numbers_of_64_bits_add_exactly_on_the_server(client: redis.Redis, first: int) -> None:
    config = {"url": f"unix://{client.connection_pool.connection_kwargs['path']}", "name": f"exact{first}"}
    with RedisState.open(config) as state:
        state.init()
        state.merge("n", Add(first))
        state.merge("n", Add(1))
        assert decode(state.get_or("n", b"")) == first + 1
        state.set("top", msgpack.packb(2**64 - 1))
        before = state.get("top")
        with pytest.raises(TypeError, match="64 bits"):
            state.merge("top", Add(1))
        assert state.get("top") == before
