"""The private state of a node: its own keys, those of a keyed operator by slot, and how earlier spaces become so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noderuntime import KeyedOperator
from noderuntime.api.keyed.codecs import key_tag, old_tag, pack, take_apart
from noderuntime.api.keyed.slots import slot_of
from noderuntime.api.keyed.states import NEVER
from noderuntime.errors import StoreError
from noderuntime.space import keys, private, records
from noderuntime.space.environment import FORMAT, Space, create, scan

NODE = 3
BYTES = records.PRIVATE_BYTES


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    space = create(tmp_path / "space", 1 << 24, "boot")
    yield space
    space.close()


def content(space: Space, node: int = NODE) -> dict[str, bytes]:
    with space.read() as txn:
        return {key.decode(): record[BYTES:] for key, record in private.listed(txn, node)}


def due(space: Space, node: int = NODE) -> dict[str, tuple[int, int, float]]:
    """The index: tag -> (slot, queue, due). Each key has one entry at most."""
    found = {}
    with space.read() as txn:
        for key, _ in scan(txn, keys.due_prefix(node)):
            at, tag = keys.parse_due(key[keys.DUE_PREFIX_BYTES :])
            assert tag.decode() not in found
            found[tag.decode()] = key[3], key[4], at
    return found


def set_(space: Space, key: str, value: bytes, sequence: int = 7) -> None:
    with space.write() as txn:
        private.put(txn, NODE, key.encode(), value, sequence)


def old_space(space: Space, values: dict[str, bytes], format: int = 1) -> None:
    with space.write() as txn:
        for number, (key, value) in enumerate(values.items()):
            txn.put(keys.private_prefix(NODE) + key.encode(), records.PRIVATE.pack(number) + value)
        txn.put(keys.fact("format"), msgpack.packb(format))


# --- times as keys


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.text(max_size=3).filter(str.isascii)), max_size=20))
def test_entries_sort_as_their_times_do(items: list[tuple[float, str]]) -> None:
    items = [(at + 0.0, tag) for at, tag in items]
    entries = sorted(keys.due_entry(at, tag.encode()) for at, tag in items)
    assert [(at, tag.decode()) for at, tag in map(keys.parse_due, entries)] == sorted(items)
    assert keys.due_entry(0.0, b"") == keys.due_entry(-0.0, b"")


def test_the_longest_tag_is_no_key_that_is_too_long() -> None:
    tag = key_tag("x" * 195).encode()
    assert len(tag) <= 200 and tag.startswith(b"str:")
    assert len(keys.due_queue(65534, 255, 1) + keys.due_entry(1e300, tag)) <= keys.LMDB_KEY_BYTES_MAX


# --- from outside


def test_keys_of_both_kinds_are_listed_in_order_page_by_page(space: Space) -> None:
    own = {f"own-{number}": b"v" for number in range(5)} | {"a": b"", "zzz": b"z"}
    keyed = {key_tag(key): pack([key, NEVER, None, key]) for key in [*range(300), "ann", "bob", 1.5, (1, 2)]}
    for key, value in {**own, **keyed}.items():
        set_(space, key, value)
    expected = sorted({**own, **keyed}.items())
    assert list(content(space).items()) == expected
    with space.read() as txn:
        paged: list[tuple[bytes, bytes]] = []
        while True:
            page = []
            for item in private.listed(txn, NODE, after=paged[-1][0] if paged else b""):
                page.append(item)
                if len(page) == 17:
                    break
            if not page:
                break
            paged += page
        assert [(key.decode(), record[BYTES:]) for key, record in paged] == expected
        found = [key.decode() for key, _ in private.listed(txn, NODE, b"int:2")]
        assert found == sorted(key for key, _ in expected if key.startswith("int:2"))
        assert private.size(txn, NODE) == len(expected)
        assert {key[3] for key, _ in scan(txn, keys.keyed_prefix(NODE))} <= set(range(256))


def test_a_value_of_a_key_goes_into_its_slot_with_its_entry(space: Space) -> None:
    set_(space, "int:7", pack([5, 100.0, None, 7]))
    set_(space, "str:a", pack([5, 100.0, 130.0, "a"]))
    set_(space, "int:8", pack([5, NEVER, None, 8]))
    assert due(space) == {"int:7": (slot_of(7), 1, 100.0), "str:a": (slot_of("a"), 0, 130.0)}
    set_(space, "str:a", pack([6, 140.0, None, "a"]))
    assert due(space)["str:a"] == (slot_of("a"), 1, 140.0)
    set_(space, "str:a", content(space)["int:8"].replace(b"\x08", b"\xa1a"))
    assert "str:a" not in due(space)
    with space.write() as txn:
        assert private.remove(txn, NODE, b"int:7")
        assert not private.remove(txn, NODE, b"int:7")
    assert due(space) == {} and set(content(space)) == {"str:a", "int:8"}


def test_what_is_read_raw_and_set_again_is_the_same(space: Space) -> None:
    set_(space, "str:a", pack([{"x": [1]}, 100.0, 130.0, "a", 120.0]))
    before = content(space), due(space)
    assert before[1] == {"str:a": (slot_of("a"), 0, 120.0)}
    set_(space, "str:a", before[0]["str:a"])
    assert (content(space), due(space)) == before


def test_a_value_that_no_keyed_operator_could_read_is_refused_for_the_state_of_a_key(space: Space) -> None:
    set_(space, "int:7", pack([5, 100.0, None, 7]))
    before = content(space)
    for value in (b"5", b"", pack(5), pack([5, 1.0, None, 8]), pack([5, "x", None, 7])):
        with pytest.raises(StoreError, match=r"'int:7' is the state of a key .*state get --raw"):
            set_(space, "int:7", value)
    assert content(space) == before
    set_(space, "int:9", b"5")  # an operator without keys may name its own so
    assert content(space)["int:9"] == b"5"


def test_all_of_it_goes_with_its_node(space: Space) -> None:
    set_(space, "int:7", pack([5, 100.0, None, 7]))
    set_(space, "own", b"x")
    with space.write() as txn:
        private.put(txn, NODE + 1, b"int:7", pack([5, 100.0, None, 7]), 1)
        assert private.drop(txn, NODE) == 2
    assert content(space) == {} and due(space) == {}
    assert set(content(space, NODE + 1)) == {"int:7"} and set(due(space, NODE + 1)) == {"int:7"}


# --- spaces of earlier versions


def test_states_of_earlier_versions_go_into_their_slots_and_nothing_else_does(space: Space) -> None:
    seven = numpy.int64(7)
    moved: dict[str, tuple[Any, list[Any]]] = {
        "str:a": ("a", [1, NEVER, None, "a"]),
        "int:7": (7, [{"deep": [1, 2]}, 100.0, None, 7]),
        "float:7.0": (7.0, ["x", 100.0, 150.0, 7.0]),
        key_tag((1, 2)): ([1, 2], [numpy.arange(3), 1.0, None, [1, 2]]),
        key_tag("x" * 300): ("x" * 300, [b"codec", NEVER, 12.5, "x" * 300]),
        str(old_tag(seven)): (7, [3, NEVER, None, 7]),
    }
    kept = {
        "total": b"5", "keyed.time": pack(100.0), "int:8": b"5", "str:b": pack([1, NEVER, None, "other"]),
        "str:c": pack([1, NEVER, None, "c"]) + b"x", "int:9": pack([1, NEVER, 9]), "x": pack([1, 1.0, None, "x"]),
    }  # fmt: skip
    old_space(space, {**{tag: pack(value) for tag, (_, value) in moved.items()}, **kept})
    before = content(space)
    with space.write() as txn:
        private.convert(txn, iter([NODE]))
    assert space.facts()["format"] == FORMAT
    assert list(content(space)) == list(before)
    assert due(space) == {
        "int:7": (slot_of(7), 1, 100.0),
        "float:7.0": (slot_of(7), 0, 150.0),
        key_tag((1, 2)): (slot_of([1, 2]), 1, 1.0),
        key_tag("x" * 300): (slot_of("x" * 300), 0, 12.5),
    }
    with space.read() as txn:
        own = {key[3:].decode(): record[BYTES:] for key, record in scan(txn, keys.private_prefix(NODE))}
        assert own == kept
        for tag, (key, value) in moved.items():
            record = txn.get(keys.keyed(NODE, slot_of(key), tag.encode()))
            assert record is not None
            assert record[:BYTES] == records.PRIVATE.pack(list(moved).index(tag))
            saved, first = take_apart(record[BYTES:]), take_apart(pack(value))
            assert saved[:3] == first[:3] and key_tag(saved.key) == key_tag(first.key)
            assert saved.due == due(space).get(tag, (0, 0, None))[2]


def test_it_is_done_once_and_in_parts(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_CONVERTED_AT_ONCE", 7)
    old_space(space, {f"int:{key}": pack([key, 1.0, None, key]) for key in range(100)} | {"own": b"1"}, format=2)
    with space.write() as txn:
        private.convert(txn, iter([NODE]))
    once = content(space), due(space)
    assert len(once[0]) == 101 and len(once[1]) == 100
    with space.write() as txn:
        private.convert(txn, iter([NODE]))
    assert (content(space), due(space)) == once


def test_until_the_run_is_resumed_an_earlier_space_stays_one(space: Space) -> None:
    old_space(space, {"int:7": pack([5, 100.0, None, 7])})
    set_(space, "int:7", pack([6, 100.0, None, 7]))
    set_(space, "int:8", pack([6, 100.0, None, 8]))
    assert list(content(space)) == ["int:7", "int:8"]
    with space.read() as txn:
        assert not list(scan(txn, keys.keyed_prefix(NODE)))
    with space.write() as txn:
        assert private.remove(txn, NODE, b"int:7")


class Reminders(KeyedOperator):
    """Sends which timers rang, and which keys were alive."""

    default = int
    ttl = 10.0

    def key_of(self, event: Any) -> Any:
        return event["value"][0]

    def time_of(self, event: Any) -> float:
        return float(event["value"][1])

    def on_key_event(self, key: Any, event: Any, state: int, ctx: Any) -> int:
        if event["value"][2]:
            ctx.set_timer(ctx.now + event["value"][2])
        ctx.send_output("out", [key, state, self.live_keys(ctx)])
        return state + 1

    def on_timer(self, key: Any, due: float, state: int, ctx: Any) -> int:
        ctx.send_output("rang", [key, due, state])
        return state


MESSAGES = st.lists(
    st.tuples(st.sampled_from(["a", 7, 7.0, True]), st.integers(0, 60), st.sampled_from([0, 0, 3, 30])), max_size=12
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(MESSAGES, MESSAGES)
def test_an_operator_goes_on_with_what_an_earlier_version_left_as_with_its_own(
    before: list[Any], after: list[Any]
) -> None:
    """An earlier version left [state, time, timer, key], and nothing that says what is due."""
    from noderuntime.testing import Harness

    first = Harness(Reminders)
    for message in before:
        first.send("in", list(message))
    earlier = {
        tag: value if tag == "keyed.time" else pack(msgpack.unpackb(value)[:4]) for tag, value in first.state.items()
    }
    ours, theirs = Harness(Reminders, state=first.state), Harness(Reminders, state=earlier)
    for harness in (ours, theirs):
        for message in after:
            harness.send("in", list(message))
    assert ours.outputs("out") == theirs.outputs("out")
    assert ours.outputs("rang") == theirs.outputs("rang")
    assert set(ours.state) == set(theirs.state)
