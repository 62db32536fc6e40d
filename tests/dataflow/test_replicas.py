"""`replicas` and `partition_by`: what they mean, and what is refused from the file alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.api.keyed.layout import SLOTS
from noderuntime.api.keyed.slots import slot_of
from noderuntime.dataflow.identifiers import node_of, replica_id, shown_id
from noderuntime.dataflow.message_slot import message_slot
from noderuntime.dataflow.partition import Partition, PartitionProblem, parse_partition
from noderuntime.dataflow.reader import parse
from noderuntime.dataflow.replicas import expanded, owners, rescaled, scaled, written
from noderuntime.errors import DataflowError

# --- partition_by


@pytest.mark.parametrize(
    ("text", "value", "metadata", "key"),
    [
        ("value", 7, {}, 7),
        ("value", None, {}, None),
        ("value.user", {"user": "ann"}, {}, "ann"),
        ("value.user.id", {"user": {"id": 5}}, {}, 5),
        ("value.user", {"name": "ann"}, {}, None),
        ("value.user.id", {"user": 3}, {}, None),
        ("value.user", [1, 2], {}, None),
        ("value.user", "user", {}, None),
        ("metadata.key", 1, {"key": [1, "a"]}, [1, "a"]),
        ("metadata.key", {"key": 1}, {}, None),
        ("metadata.key", {"key": 1}, None, None),
    ],
)
def test_a_partition_names_a_part_of_a_message(text: str, value: Any, metadata: Any, key: Any) -> None:
    partition = parse_partition(text)
    assert str(partition) == text
    assert partition.key(value, metadata) == key
    assert message_slot(partition, value, metadata) == slot_of(key)


@pytest.mark.parametrize("value", [2**70, {(1, 2): 3}, object()])
def test_what_cannot_be_a_key_goes_where_null_goes(value: Any) -> None:
    assert message_slot(Partition(False, ()), value, {}) == slot_of(None)


def test_equal_numbers_go_to_the_same_place() -> None:
    by_user = parse_partition("value.user")
    assert len({message_slot(by_user, {"user": user}, {}) for user in (7, 7.0, numpy.int64(7))}) == 1


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("user", "'user' begins with neither", "Write value.user, or metadata.user."),
        ("", "'' begins with neither", "It is one of value, value.FIELD[.FIELD], metadata.FIELD."),
        ("event.value", "begins with neither", "Write value.event.value, or metadata.event.value."),
        ("value.", "a name is missing in 'value.'", "It is one of"),
        ("value..id", "a name is missing in 'value..id'", "It is one of"),
        ("value[0]", "begins with neither", "It is one of"),
        ("value.items[0]", "'items[0]' in 'value.items[0]' is no name", "It is one of"),
        ("metadata", "`metadata` alone is no key", "Write metadata.FIELD."),
        ("metadata.a.b", "'metadata.a.b' goes deeper than one field", "Write metadata.a."),
    ],
)
def test_a_text_that_is_none_is_told_what_to_write(text: str, what: str, hint: str) -> None:
    with pytest.raises(PartitionProblem) as caught:
        parse_partition(text)
    assert what in str(caught.value)
    assert hint in caught.value.hint


# --- owners


@given(st.integers(1, SLOTS), st.lists(st.integers(1, SLOTS), max_size=5))
def test_slots_are_owned_in_equal_parts_and_no_more_move_than_have_to(first: int, others: list[int]) -> None:
    held = owners(first)
    assert set(held) == set(range(first))
    for replicas in others:
        before, held = held, rescaled(held, replicas)
        counts = Counter(held)
        assert set(counts) == set(range(replicas))
        assert max(counts.values()) - min(counts.values()) <= 1
        moved = sum(a != b for a, b in zip(before, held, strict=True))
        had = Counter(owner for owner in before if owner < replicas)
        share, more = divmod(SLOTS, replicas)
        shares = sorted((had[replica] for replica in range(replicas)), reverse=True)
        stays = sum(min(count, share + (place < more)) for place, count in enumerate(shares))
        assert moved == SLOTS - stays


def test_the_first_owners_are_what_they_have_always_been() -> None:
    assert owners(2) == (0,) * 128 + (1,) * 128
    assert owners(1) == (0,) * 256
    assert rescaled(owners(2), 2) == owners(2)


def test_a_replica_has_an_id_that_no_node_of_a_file_can_have() -> None:
    assert [replica_id("sums", number) for number in range(3)] == ["sums", "sums[1]", "sums[2]"]
    assert {node_of(replica_id("sums", number)) for number in range(3)} == {"sums"}
    assert [shown_id("sums", 2), shown_id("sums[1]", 2), shown_id("sums", 1)] == ["sums[0]", "sums[1]", "sums"]


# --- the file

FLOW = """
nodes:
  - id: a
    path: a.py
    outputs: [out]
  - id: sums
    {fields}
    {operator}
    inputs: {{n: a/out, tick: timer/secs/1}}
    outputs: [sum]
"""


def flow(fields: str, operator: str = "operator: {python: sums.py}") -> str:
    return FLOW.format(fields="\n    ".join(fields.split("; ")), operator=operator)


def test_the_file_says_how_many_and_by_what() -> None:
    dataflow = parse(flow("replicas: 3; partition_by: value.user"))
    spec = dataflow.node("sums")
    assert (spec.replicas, spec.partition_by) == (3, "value.user")
    assert (dataflow.node("a").replicas, dataflow.node("a").partition_by) == (1, "")
    made = expanded(dataflow)
    assert [(node.id, node.replica) for node in made.nodes] == [("a", 0), ("sums", 0), ("sums[1]", 1), ("sums[2]", 2)]
    assert made.node("sums[2]").inputs == spec.inputs
    assert [(node.id, spec.name) for node, spec in made.receivers("a", "out")] == [
        ("sums", "n"), ("sums[1]", "n"), ("sums[2]", "n"),
    ]  # fmt: skip
    assert made.fingerprint() == dataflow.fingerprint()
    assert dataflow.fingerprint() == parse(flow("replicas: 1")).fingerprint()


@pytest.mark.parametrize(
    ("fields", "operator", "line", "what"),
    [
        ("replicas: 0", "", 7, "`replicas` of node 'sums' is 0; it must be 1 or more"),
        ("replicas: 1000", "", 7, "is 1000; Keys fall into 256 parts"),
        ("replicas: many", "", 7, "a whole number"),
        ("replicas: 2", "path: sums.py", 7, "`replicas` of node 'sums', which is no operator"),
        ("partition_by: value", "path: sums.py", 7, "`partition_by` of node 'sums', which is no operator"),
        ("process: p; replicas: 2", "", 8, "which shares the process 'p'"),
        ("partition_by: user", "", 7, "Write value.user, or metadata.user"),
        ("partition_by: [a]", "", 7, "`partition_by` of node 'sums'"),
        ("partition-by: value", "", 7, "Did you mean `partition_by`?"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(fields: str, operator: str, line: int, what: str) -> None:
    with pytest.raises(DataflowError) as caught:
        parse(flow(fields, operator or "operator: {python: sums.py}"))
    assert caught.value.line == line
    assert what in str(caught.value).replace("\n  ", "; ").replace(": Keys", "; Keys")


def test_what_takes_no_messages_has_no_replicas() -> None:
    for inputs in ("{}", "{tick: timer/secs/1}"):
        text = f"nodes:\n  - id: s\n    replicas: 2\n    operator: {{python: s.py}}\n    inputs: {inputs}\n"
        with pytest.raises(DataflowError, match="which takes no messages"):
            parse(text)


# --- another number of them


def test_what_is_expanded_comes_back_as_it_was_written() -> None:
    text = """
nodes:
  - {id: a, operator: {python: a.py, outputs: [x]}}
  - {id: b, replicas: 3, partition_by: value, operator: {python: b.py, inputs: {in: a/x}, outputs: [y]}}
  - {id: c, replicas: 2, operator: {python: c.py, inputs: {in: b/y, tick: timer/secs/1}}}
"""
    dataflow = parse(text, file="flow.yml", folder="/flow", env={})
    assert len(expanded(dataflow).nodes) == 6
    assert written(expanded(dataflow)) == dataflow
    assert expanded(scaled(dataflow, "b", 1)).node("c").input("in").replicas == 1
    assert [node.id for node in expanded(scaled(dataflow, "c", 3)).nodes][-3:] == ["c", "c[1]", "c[2]"]


@pytest.mark.parametrize(
    ("node", "replicas", "why"),
    [
        ("b", 0, "0 replicas of node 'b'"),
        ("b", -1, "-1 replicas"),
        ("b", 257, "257 replicas of node 'b'\n  Give a number from 1 to 256: "),
        ("bb", 2, "the run has no node 'bb'\n  Did you mean 'b'?"),
        ("zzz", 2, "the run has no node 'zzz'\n  Its nodes are: a, b, p, q, prog."),
        ("a", 2, "`replicas` of node 'a', which takes no messages\n  A Source, or "),
        ("p", 2, "`replicas` of node 'p', which shares the process 'pair'\n  Operators of one process are one each."),
        ("prog", 2, "`replicas` of node 'prog', which is no operator\n  Only operators can have replicas, "),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_a_sentence(node: str, replicas: int, why: str) -> None:
    text = """
nodes:
  - {id: a, operator: {python: a.py, outputs: [x]}}
  - {id: b, operator: {python: b.py, inputs: {in: a/x}}}
  - {id: p, process: pair, operator: {python: b.py, inputs: {in: a/x}}}
  - {id: q, process: pair, operator: {python: b.py, inputs: {in: a/x}}}
  - {id: prog, path: prog.py, inputs: {in: a/x}}
"""
    with pytest.raises(DataflowError) as raised:
        scaled(parse(text, file="flow.yml", folder="/flow", env={}), node, replicas)
    assert str(raised.value).startswith(why)
