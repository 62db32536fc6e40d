"""Values: what send_output takes and what arrives, with generated arrays: section 3."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from harness import real_folder, run_both, run_ours, run_real, write
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

EXAMPLES = 250

SENDER = """
import sys, time
import pyarrow as pa
from pathlib import Path
from dora import Node
from record import say, refused
node = Node()
for file in sorted(Path("arrays").iterdir()):
    with pa.ipc.open_stream(file) as reader:
        array = reader.read_all().column(0).chunk(0)
    start, stop = (int(part) for part in file.name.split(".")[1:3])
    say(file.name, refused(node.send_output, "o", array[start:stop], {"file": file.name}))
    time.sleep(0.002)
time.sleep(0.5)
"""

RECEIVER = """
import pyarrow as pa
from pathlib import Path
from dora import Node
from record import say
Path("got").mkdir()
for event in Node():
    if event["type"] == "INPUT":
        array = event["value"]
        array.validate(full=True)
        name = event["metadata"]["file"]
        say(name, str(array.type), len(array), array.offset, array.null_count)
        batch = pa.record_batch([array], schema=pa.schema([pa.field("", array.type)]))
        with pa.ipc.new_stream(f"got/{name}", batch.schema) as writer: writer.write(batch)
    elif event["type"] != "INPUT_CLOSED" and event["type"] != "STOP":
        say(event["type"])
"""

DATAFLOW = """
nodes:
  - {id: sender, path: sender.py, outputs: [o]}
  - {id: receiver, path: receiver.py, inputs: {i: {source: sender/o, queue_size: 1000, queue_policy: backpressure}}}
"""

UTC = dt.UTC
DAY = st.dates(dt.date(1900, 1, 1), dt.date(2200, 1, 1))
MOMENT = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))


def ints(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1) if signed else 0, (1 << bits - 1) - 1 if signed else (1 << bits) - 1)


FLAT: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()), (pa.bool_(), st.booleans()),
    *((getattr(pa, f"int{bits}")(), ints(bits, True)) for bits in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{bits}")(), ints(bits, False)) for bits in (8, 16, 32, 64)),
    (pa.float32(), st.floats(width=32)), (pa.float64(), st.floats()),
    (pa.string(), st.text(max_size=20)), (pa.large_string(), st.text(max_size=20)),
    (pa.string_view(), st.text(max_size=30)), (pa.binary(), st.binary(max_size=20)),
    (pa.large_binary(), st.binary(max_size=20)), (pa.binary_view(), st.binary(max_size=30)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)), (pa.date32(), DAY), (pa.date64(), DAY),
    (pa.timestamp("s"), MOMENT.map(lambda m: m.replace(microsecond=0))), (pa.timestamp("us"), MOMENT),
    (pa.timestamp("ms", "Europe/Paris"), MOMENT.map(lambda m: m.replace(microsecond=0, tzinfo=UTC))),
    (pa.time32("s"), st.times().map(lambda t: t.replace(microsecond=0))), (pa.time64("us"), st.times()),
    (pa.duration("us"), st.timedeltas(dt.timedelta(-1000), dt.timedelta(1000))),
    *((kind(7, 2), st.integers(-99999, 99999).map(lambda n: decimal.Decimal(n).scaleb(-2)))
      for kind in (pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256)),
    (pa.month_day_nano_interval(), st.tuples(*(ints(16, True),) * 3)),
]  # fmt: skip

Kind = tuple[Any, st.SearchStrategy[Any]]


def nested(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    """Types made of others."""
    return st.one_of(
        inner.map(lambda k: (pa.list_(k[0]), st.lists(nullable(k[1]), max_size=4))),
        inner.map(lambda k: (pa.large_list(k[0]), st.lists(nullable(k[1]), max_size=4))),
        inner.map(lambda k: (pa.list_(k[0], 2), st.lists(nullable(k[1]), min_size=2, max_size=2))),
        inner.map(lambda k: (pa.list_view(k[0]), st.lists(nullable(k[1]), max_size=4))),
        st.lists(inner, max_size=3).map(struct_of),
        inner.map(map_of),
    )


def map_of(kind: Kind) -> Kind:
    items = st.tuples(st.text(max_size=5), nullable(kind[1]))
    return pa.map_(pa.string(), kind[0]), st.lists(items, max_size=3)


def struct_of(kinds: list[Kind]) -> Kind:
    names = [f"f{at}" for at in range(len(kinds))]
    fields = [pa.field(name, kind, metadata={"at": name}) for name, (kind, _) in zip(names, kinds, strict=True)]
    values = {name: nullable(value) for name, (_, value) in zip(names, kinds, strict=True)}
    return pa.struct(fields), st.fixed_dictionaries(values)


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, values, values, st.none())


KINDS = st.recursive(st.sampled_from(FLAT), nested, max_leaves=4)


@st.composite
def arrays(draw: Any) -> tuple[Any, int, int]:
    """An array, and the slice of it to send."""
    kind, values = draw(KINDS)
    given = draw(st.lists(nullable(values) if draw(st.booleans()) else values, max_size=20))
    array = pa.array(given, kind)
    shape = draw(st.sampled_from(["plain", "plain", "plain", "dictionary", "run ends", "union"]))
    if shape == "dictionary" and not pa.types.is_nested(kind) and len(array):
        places = draw(st.lists(st.one_of(st.integers(0, len(array) - 1), st.none()), max_size=20))
        index = draw(st.sampled_from([pa.int8(), pa.uint16(), pa.int32(), pa.int64()]))
        array = pa.DictionaryArray.from_arrays(pa.array(places, index), array)
    elif shape == "run ends" and not pa.types.is_nested(kind) and len(array):
        ends = draw(st.lists(st.integers(1, 5), min_size=len(array), max_size=len(array)))
        total, sums = 0, []
        for step in ends:
            total += step
            sums.append(total)
        index = draw(st.sampled_from([pa.int16(), pa.int32()]))
        array = pa.RunEndEncodedArray.from_arrays(pa.array(sums, index), array)
    elif shape == "union" and len(array):
        codes = draw(st.lists(st.integers(0, 1), min_size=len(array), max_size=len(array)))
        other = pa.array(range(len(array)), pa.int16())
        array = pa.UnionArray.from_sparse(pa.array(codes, pa.int8()), [array, other], ["x", "y"])
    start = draw(st.integers(0, len(array))) if draw(st.booleans()) else 0
    stop = draw(st.integers(start, len(array))) if draw(st.booleans()) else len(array)
    return array, start, stop


def put(folder: Path, made: list[tuple[Any, int, int]]) -> dict[str, str]:
    """Write arrays to files, whose names say which part to send; the programs of the nodes."""
    (folder / "arrays").mkdir(parents=True)
    for at, (array, start, stop) in enumerate(made):
        batch = pa.record_batch([array], schema=pa.schema([pa.field("", array.type)]))
        with pa.ipc.new_stream(folder / f"arrays/{at:05}.{start}.{stop}", batch.schema) as writer:
            writer.write(batch)
    return {"sender.py": SENDER, "receiver.py": RECEIVER}


def got(folder: Path) -> dict[str, Any]:
    found = {}
    for file in sorted((folder / "got").iterdir()):
        with pa.ipc.open_stream(file) as reader:
            found[file.name] = reader.read_all().column(0).combine_chunks()
    return found


def same(one: Any, other: Any) -> bool:
    """Equal in type and values; NaN equals NaN."""
    return bool(one.type.equals(other.type, check_metadata=True)) and str(one.to_pylist()) == str(other.to_pylist())


def test_generated_arrays_arrive_the_same(tmp_path: Path) -> None:
    real_folder()
    made: list[tuple[Any, int, int]] = []

    @settings(
        max_examples=EXAMPLES, phases=[Phase.generate], deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(arrays())
    def collect(drawn: tuple[Any, int, int]) -> None:
        made.append(drawn)

    collect()
    files = put(tmp_path / "made", made)
    for kind in ("real", "ours"):
        write(tmp_path / kind, files, DATAFLOW)
        (tmp_path / kind / "arrays").symlink_to(tmp_path / "made/arrays")
    real, ours = run_real(tmp_path / "real"), run_ours(tmp_path / "ours")
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records["sender"] == real.records["sender"]
    theirs, mine = got(tmp_path / "real"), got(tmp_path / "ours")
    assert len(made) > EXAMPLES / 2
    assert len(mine) == len(made)
    for name, array in mine.items():
        sent, start, stop = made[int(name[:5])]
        assert same(array, sent[start:stop]), f"{name}: {sent.type}, arrived as {array.type}"
        if name in theirs:
            assert same(array, theirs[name]), f"{name}: {array.type}, with the real one {theirs[name].type}"
        else:  # some unions of nested types: the receiver gets an ERROR event instead
            assert pa.types.is_union(sent.type), f"{name}: {sent.type} did not arrive with the real one"
    got_by_both = [told for told in ours.records["receiver"] if told[0] in theirs]
    assert got_by_both == [told for told in real.records["receiver"] if told[0] in theirs]


REFUSED = """
import array, time
import numpy as np, pyarrow as pa
from dora import Node
from record import say, refused
node = Node()
class Arrays:
    def __arrow_array__(self, type=None): return pa.array([1])
class Exports:
    def __init__(self, made): self.made = made
    def __arrow_c_array__(self, requested_schema=None):
        if isinstance(self.made, Exception): raise self.made
        return self.made.__arrow_c_array__(requested_schema) if isinstance(self.made, pa.Array) else self.made
class Streams:
    def __arrow_c_stream__(self, schema=None): return pa.table({"a": [1]}).__arrow_c_stream__()
class Bytes(bytes): pass
structured = np.zeros(2, dtype=[("a", "i4")])
for data in (None, [1], (1,), {"a": 1}, "text", 1, 1.5, True, {1}, range(3), bytearray(b"a"), memoryview(b"a"),
             array.array("i", [1]), *(np.zeros(2, d) for d in "bhilqBHILQefd?"), np.array(1), np.zeros((2, 2)),
             np.zeros(0), np.arange(9)[::2], np.zeros(2, ">i4"), structured, np.int64(1), np.float64(1.5),
             pa.scalar(1), pa.chunked_array([[1]]), pa.table({"a": [1]}), pa.py_buffer(b"a"),
             pa.Tensor.from_numpy(np.zeros((2, 2))), object(), Arrays(), Streams(), Exports(3),
             Exports(ValueError("n")),
             b"", b"abc", Bytes(b"xy"), pa.array([1]), Exports(pa.array([1, None])),
             pa.record_batch({"x": [1, 2], "y": ["a", None]})):
    say(refused(node.send_output, "o", data), name="sender")
say(refused(node.send_output, "o"), refused(node.send_output), refused(node.send_output, 5, b""), name="sender")
say(refused(node.send_output, "nope", [1]), refused(node.send_output, "nope", b""), name="sender")
say(refused(node.send_output, output_id="o", data=b"k", metadata=None), name="sender")
time.sleep(0.5)
"""

RECORDER = """
from dora import Node
from record import say, shown
for event in Node():
    if event["type"] == "INPUT": say(shown(event))
"""


def test_what_is_taken_and_what_is_refused(tmp_path: Path) -> None:
    real, ours = run_both(tmp_path, {"sender.py": REFUSED, "receiver.py": RECORDER}, DATAFLOW)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records["sender"] == real.records["sender"]
    assert ours.records["receiver"] == real.records["receiver"]
    assert len(ours.records["receiver"]) == 7


TYPES = """
import time
import numpy as np, pyarrow as pa
from dora import Node
from record import say, refused
node = Node()
ordered = pa.DictionaryArray.from_arrays([0, 1], ["a", "b"], ordered=True)
uuids = pa.array([b"0" * 16, None], pa.uuid())
schema = pa.schema([pa.field("x", pa.int64(), False, {"m": "1"}), pa.field("u", pa.uuid())], metadata={"a": "b"})
batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), uuids], schema=schema)
words = pa.DictionaryArray.from_arrays(pa.array([1, None], pa.uint8()), ["unused", "b"])
bools = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8()))
parts = [pa.array([1, 2]), pa.array([3, 4])]
union = pa.UnionArray.from_sparse(pa.array([5, 7], pa.int8()), parts, ["x", "y"], [5, 7])
for array in (ordered, pa.StructArray.from_arrays([ordered], ["d"]), pa.ListArray.from_arrays([0, 2], ordered), uuids,
              pa.StructArray.from_arrays([uuids], ["u"]), pa.ListArray.from_arrays([0, 1], uuids), batch, words,
              pa.DictionaryArray.from_arrays([0], uuids), bools, union,
              pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])),
              pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8).reshape(2, 2, 2)),
              pa.array([{}, None], pa.struct([])), pa.array([], pa.struct([])),
              pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32(), keys_sorted=True)),
              pa.array([1, 2, 3], pa.float16()), pa.nulls(0), pa.nulls(3), pa.array(np.arange(500_000))):
    say(refused(node.send_output, "o", array), name="sender")
    time.sleep(0.01)
time.sleep(0.5)
"""

TYPED = """
from dora import Node
from record import say
import pyarrow as pa
def fields(kind):
    told = [str(kind), getattr(kind, "ordered", None)]
    for at in range(kind.num_fields):
        field = kind.field(at)
        told.append([field.name, field.nullable, str(field.metadata or {}), fields(field.type)])
    return told
for event in Node():
    if event["type"] == "INPUT":
        array = event["value"]
        array.validate(full=True)
        words = array.dictionary.to_pylist() if isinstance(array, pa.DictionaryArray) else None
        say(fields(array.type), len(array), str(array[:10].to_pylist()), array.offset, words)
"""


def test_types_that_change_on_the_way(tmp_path: Path) -> None:
    real, ours = run_both(tmp_path, {"sender.py": TYPES, "receiver.py": TYPED}, DATAFLOW)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records["sender"] == real.records["sender"]
    for mine, theirs in zip(ours.records["receiver"], real.records["receiver"], strict=True):
        assert mine == theirs


KEPT = """
import numpy as np
from dora import Node
from record import say
kept = []
for event in Node():
    if event["type"] == "INPUT":
        array = event["value"]
        try:
            array.to_numpy()[0] = 1
            say("changed")
        except ValueError: pass
        kept.append(array)
        del event
say([[len(array), array[0].as_py(), array[-1].as_py()] for array in kept])
"""

CHANGES = """
import time
import numpy as np, pyarrow as pa
from dora import Node
node = Node()
memory = np.zeros(1_000_000, np.uint8)
for n in range(5):
    memory[:] = n
    node.send_output("o", pa.array(memory))
    memory[:] = 99
    time.sleep(0.02)
time.sleep(0.5)
"""


def test_large_arrays_are_copies_that_stay(tmp_path: Path) -> None:
    real, ours = run_both(tmp_path, {"sender.py": CHANGES, "receiver.py": KEPT}, DATAFLOW)
    assert (ours.code, real.code) == (0, 0), ours
    assert ours.records == real.records
    assert ours.records["receiver"] == [[[[1_000_000, n, n] for n in range(5)]]]


DENSE = """
import pyarrow as pa
from dora import Node
node = Node()
parts = [pa.array([1]), pa.array(["a"])]
node.send_output("o", pa.UnionArray.from_dense(pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), parts))
"""


def test_a_dense_union_arrives_with_ours_only(tmp_path: Path) -> None:
    """The real one gives the receiver an ERROR event, or ends its stream."""
    ours = run_ours(write(tmp_path / "ours", {"sender.py": DENSE, "receiver.py": RECORDER}, DATAFLOW))
    assert ours.code == 0, ours
    ((event,),) = ours.records["receiver"]
    assert event["value"][1] == [1, "a"]
