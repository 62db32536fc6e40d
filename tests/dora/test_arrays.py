"""Values of dora's nodes: what is taken, and what arrives."""

from __future__ import annotations

import array
import datetime as dt
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noderuntime.api import values
from noderuntime.dora import arrays


def through(data: Any) -> Any:
    """As it arrives: encoded as our messages are, and decoded from memory that is not the sender's."""
    kind, head, body = values.encode(arrays.outgoing(data))
    got = arrays.incoming(arrays.decode(kind, bytes(head), bytes(body)))
    got.validate(full=True)
    in_an_operator = arrays.incoming(values.decode(kind, bytes(head), bytes(body)))
    assert in_an_operator.type == got.type
    assert in_an_operator.equals(got) or in_an_operator.to_pylist() == got.to_pylist()
    return got


DICTIONARY = pa.DictionaryArray.from_arrays(pa.array([1, None, 1], pa.int8()), ["unused", "b"])


class Tagged(pa.ExtensionType):
    """An extension type that this process knows."""

    def __init__(self) -> None:
        super().__init__(pa.binary(16), "noderuntime.tests.tagged")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Tagged:
        return cls()


pa.register_extension_type(Tagged())

TAGGED = pa.ExtensionArray.from_storage(Tagged(), pa.array([b"0" * 16, None], pa.binary(16)))
PARTS = [pa.array([1, 2]), pa.array(["a", "b"])]
UNION = pa.UnionArray.from_sparse(pa.array([5, 7], pa.int8()), PARTS, ["x", "y"], [5, 7])
NUMBERS = (pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.float32(), pa.float64())

SAME = [
    pa.nulls(0), pa.nulls(3), pa.array([True, None, False]), pa.array([1, None, 3], pa.int16()),
    *(pa.array([1, 2, 3], kind) for kind in NUMBERS),
    pa.array(np.array([1, 2], np.float16)), pa.array([], pa.int32()), pa.array(["a", None, ""]),
    pa.array(["a"], pa.large_string()),
    pa.array([b"a", None]), pa.array([b"ab"], pa.binary(2)), pa.array([[1], None, []]),
    pa.array([[1], [2, 3]], pa.large_list(pa.int8())), pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
    pa.array([{"a": 1, "b": None}, None]), pa.array([{}, None], pa.struct([])),
    pa.array([], pa.struct([("a", pa.int8())])),
    pa.RunEndEncodedArray.from_arrays([2, 4], [1, None]), UNION,
    pa.array([dt.datetime(2026, 1, 2)], pa.timestamp("us")), pa.array([1000], pa.timestamp("ns", "Europe/Paris")),
    pa.array([dt.date(2026, 1, 2)]), pa.array([1], pa.time32("s")), pa.array([1000], pa.time64("ns")),
    pa.array([1], pa.duration("ms")), pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    *(pa.array([decimal.Decimal("1.50"), None], kind(5, 2)) for kind in (pa.decimal128, pa.decimal256)),
    DICTIONARY, pa.StructArray.from_arrays([DICTIONARY], ["d"]), pa.StructArray.from_arrays([TAGGED], ["u"]),
]  # fmt: skip

if hasattr(pa, "decimal32"):  # an older pyarrow has fewer types
    SAME += [
        pa.array(["long enough to be outside", "b"], pa.string_view()),
        pa.array([[1], [2, 3]], pa.list_view(pa.int32())),
        pa.array([decimal.Decimal("1.50"), None], pa.decimal32(5, 2)),
    ]  # fmt: skip


@pytest.mark.parametrize("data", SAME, ids=lambda data: str(data.type))
def test_an_array_arrives_equal_in_type_and_values(data: pa.Array) -> None:
    got = through(data)
    assert got.type == data.type
    assert got.equals(data) or got.to_pylist() == data.to_pylist()
    assert len(got) == len(data)
    assert got.null_count == data.null_count


@pytest.mark.parametrize("data", SAME, ids=lambda data: str(data.type))
def test_a_slice_arrives_with_offset_0(data: pa.Array) -> None:
    for part in (data.slice(1), data.slice(0, 1), data.slice(len(data))):
        got = through(part)
        assert got.to_pylist() == part.to_pylist()
        assert got.type == data.type
        assert got.offset == 0


def test_a_dense_union_arrives_as_itself() -> None:
    """With dora 1.1.0 the receiver gets an ERROR event instead."""
    data = pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
    )
    got = through(data)
    assert got.type == data.type
    assert got.to_pylist() == [1, "a"]


def test_unused_words_of_a_dictionary_are_kept() -> None:
    got = through(DICTIONARY)
    assert got.dictionary.to_pylist() == ["unused", "b"]
    assert got.indices.type == pa.int8()


@pytest.mark.parametrize("data", [b"", b"abc", type("Sub", (bytes,), {})(b"xy")], ids=repr)
def test_bytes_arrive_as_uint8(data: bytes) -> None:
    got = through(data)
    assert got.type == pa.uint8()
    assert bytes(got.to_pylist()) == data


def test_a_dictionary_is_no_longer_ordered_at_the_outermost_level() -> None:
    data = pa.DictionaryArray.from_arrays([0, 1], ["a", "b"], ordered=True)
    got = through(data)
    assert got.to_pylist() == ["a", "b"]
    assert not got.type.ordered
    nested = through(pa.StructArray.from_arrays([data], ["d"]))
    assert nested.type.field("d").type.ordered


def test_an_extension_type_arrives_as_its_storage_at_the_outermost_level() -> None:
    assert through(TAGGED).equals(TAGGED.storage)
    assert through(pa.DictionaryArray.from_arrays([0], TAGGED)).type.value_type == pa.binary(16)


def test_a_record_batch_arrives_as_a_struct_array() -> None:
    fields = [pa.field("x", pa.int64(), nullable=False, metadata={"m": "1"}), pa.field("s", pa.string())]
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), pa.array(["a", None])], schema=pa.schema(fields, {"a": "b"}))
    got = through(batch)
    assert isinstance(got, pa.StructArray)
    assert got.to_pylist() == [{"x": 1, "s": "a"}, {"x": 2, "s": None}]
    assert got.type.field("x").metadata == {b"m": b"1"}
    assert not got.type.field("x").nullable


def test_the_fields_of_a_struct_keep_what_they_say() -> None:
    fields = [pa.field("x", pa.int64(), nullable=False, metadata={"m": "1"})]
    got = through(pa.StructArray.from_arrays([pa.array([1])], fields=fields))
    assert got.type.field("x").metadata == {b"m": b"1"}
    assert not got.type.field("x").nullable


class Exporter:
    """Any object with __arrow_c_array__."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made.__arrow_c_array__(requested_schema) if isinstance(self.made, pa.Array) else self.made


def test_any_object_that_exports_an_array_is_taken() -> None:
    assert through(Exporter(pa.array([1, None]))).to_pylist() == [1, None]


REFUSED: list[Any] = [
    None, [1], (1,), {"a": 1}, "text", 1, 1.5, True, {1}, range(3), bytearray(b"a"), memoryview(b"a"),
    array.array("i", [1]), np.array([1]), np.float64(1), np.array(1), np.zeros((2, 2)), np.array([]), pa.scalar(1),
    pa.chunked_array([[1]]), pa.table({"a": [1]}), pa.py_buffer(b"a"), pa.Tensor.from_numpy(np.zeros((2, 2))), object(),
    type("Arrays", (), {"__arrow_array__": lambda self, type=None: pa.array([1])})(),
    type("Streams", (), {"__arrow_c_stream__": lambda self, schema=None: pa.table({}).__arrow_c_stream__()})(),
    Exporter(3), Exporter(ValueError("no")), Exporter,
]  # fmt: skip


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: type(data).__name__)
def test_what_is_neither_bytes_nor_an_array_is_refused(data: Any) -> None:
    with pytest.raises(RuntimeError) as caught:
        arrays.outgoing(data)
    assert str(caught.value).split("\n")[0] == "invalid `data` type, must be `PyBytes` or arrow array"


def test_what_arrives_cannot_be_changed() -> None:
    for data in (pa.array([1, 2]), pa.array([1], pa.timestamp("us")), b"abc"):
        seen = through(data).to_numpy()
        with pytest.raises(ValueError, match="read-only"):
            seen[0] = seen[0]


def test_numbers_are_looked_at_where_they_lie() -> None:
    """Neither the sender nor the receiver serializes them."""
    data = pa.array(np.arange(1000))
    kind, head, body = values.encode(arrays.outgoing(data))
    assert np.frombuffer(body, np.int64).ctypes.data == data.buffers()[1].address
    kept = bytes(body)
    got = arrays.incoming(arrays.decode(kind, head, kept))
    assert got.buffers()[1].address == np.frombuffer(kept, np.uint8).ctypes.data


OTHERS = [np.array([1, 2], ">i4"), np.zeros((2, 2)), np.array([True, False]), np.array([]), np.array(["a"])]


@pytest.mark.parametrize("data", OTHERS, ids=str)
def test_numpy_arrays_of_other_nodes_arrive_as_arrow_has_them(data: np.ndarray) -> None:
    kind, head, body = values.encode(data)
    try:
        wanted = arrays.incoming(values.decode(kind, head, bytes(body)))
    except (pa.ArrowException, ValueError) as error:
        with pytest.raises(type(error)):
            arrays.incoming(arrays.decode(kind, head, bytes(body)))
    else:
        assert arrays.incoming(arrays.decode(kind, head, bytes(body))).equals(wanted)


def test_a_message_that_is_shorter_than_it_says_is_refused() -> None:
    kind, head, body = values.encode(arrays.outgoing(pa.array([1, 2])))
    with pytest.raises(pa.ArrowInvalid):
        arrays.decode(kind, head, bytes(body)[:8])


def test_what_a_dora_node_sends_is_a_numpy_array_or_a_view_for_other_nodes() -> None:
    for data, wanted in ((pa.array([1, 2])[1:], np.array([2])), (pa.array([], pa.float32()), np.array([], np.float32))):
        got = values.decode(*values.encode(arrays.outgoing(data)))
        assert got.dtype == wanted.dtype
        assert got.tolist() == wanted.tolist()
    assert values.decode(*values.encode(arrays.outgoing(pa.array([7, 8, 9], pa.uint8())[1:]))).tobytes() == b"\x08\x09"


def test_other_arrays_are_views_of_the_message() -> None:
    data = pa.array(["some text"] * 1000)
    kind, head, body = values.encode(arrays.outgoing(data))
    kept = bytes(body)
    got = arrays.incoming(values.decode(kind, head, kept))
    start = np.frombuffer(kept, np.uint8).ctypes.data
    assert all(start <= buffer.address < start + len(kept) for buffer in got.buffers() if buffer)


def test_a_tick_is_an_array_of_nulls_of_length_0() -> None:
    got = arrays.incoming(None)
    assert got.type == pa.null()
    assert len(got) == 0


def test_plain_values_of_other_nodes_arrive_as_arrays() -> None:
    assert arrays.incoming(5).to_pylist() == [5]
    assert arrays.incoming("a").to_pylist() == ["a"]
    assert arrays.incoming([1, 2]).to_pylist() == [1, 2]
    assert arrays.incoming(b"ab").to_pylist() == [97, 98]
    assert arrays.incoming(np.array([1.5])).to_pylist() == [1.5]
