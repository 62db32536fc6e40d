"""What travels comes out as it went in; what cannot travel is refused by the name of its type."""

from __future__ import annotations

import array
import ctypes
import datetime as dt
import mmap
import subprocess
import sys
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from noderuntime.api import arrow_streams, values


def travel(value: Any) -> Any:
    kind, head, body = values.encode(value)
    assert type(head) is bytes
    return values.decode(kind, head, bytes(body))


# --- plain values ---------------------------------------------------------------------------------------------------

UTC_TIMES = st.datetimes(timezones=st.just(dt.UTC))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes()
    | UTC_TIMES
)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=20
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down: True is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, dt.datetime):
        return bool(one == other and one.tzinfo == other.tzinfo)
    return bool(one == other)


@given(PLAIN)
def test_plain_values_come_out_as_they_went_in(value: Any) -> None:
    assert same(travel(value), value)


@settings(max_examples=50)
@given(st.datetimes(timezones=st.timezones()))
@example(dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5))))
@example(dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=5))))
@example(dt.datetime.max.replace(tzinfo=dt.UTC))
def test_a_zoned_datetime_comes_out_as_the_same_moment_in_utc_or_is_refused(value: dt.datetime) -> None:
    try:
        value.astimezone(dt.UTC)
    except OverflowError:
        with pytest.raises(TypeError, match=r"datetime"):
            travel([value])
        return
    back = travel([value])[0]
    assert back.tzinfo is dt.UTC
    assert back - value == dt.timedelta(0)


def test_not_a_number_travels() -> None:
    assert travel(float("nan")) != travel(float("nan"))


def test_a_nested_value_is_not_changed_by_what_happens_to_the_original() -> None:
    original = {"list": [1, [2]], "bytes": bytearray(b"ab")}
    encoded = values.encode(original)
    original["list"].append(3)  # type: ignore[attr-defined]
    original["bytes"][0] = 0  # type: ignore[index]
    assert values.decode(*encoded) == {"list": [1, [2]], "bytes": b"ab"}


class Colour(IntEnum):
    RED = 3


class Name(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")


def test_subclasses_travel_as_what_they_are_made_of() -> None:
    value = {Name("a"): [Colour.RED, Name("b"), OrderedDict(z=1), np.float32(0.5), np.int64(7), np.bool_(True)]}
    back = travel(value)
    assert same(back, {"a": [3, "b", {"z": 1}, 0.5, 7, True]})


@pytest.mark.parametrize("scalar", [np.int8(-5), np.uint64(2**64 - 1), np.float64(0.25), np.str_("x"), np.bool_(False)])
def test_numpy_scalars_travel_as_plain_values(scalar: Any) -> None:
    assert same(travel(scalar), scalar.item())


class Paint(str, Enum):  # noqa: UP042  (the older way to write it, whose str() is "Paint.RED")
    RED = "red"
    EMPTY = ""


class Level(float, Enum):
    HIGH = 0.5


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Alike(str):
    """Equal to a text, and another key of a dict."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


class Odd(int):
    def __int__(self) -> int:
        return -1

    __index__ = __int__


class Steep(float):
    __slots__ = ()

    def __float__(self) -> float:
        return -1.0


class Backwards(list[Any]):
    def __iter__(self) -> Any:
        return reversed(self)


class Upper(dict[str, Any]):
    def items(self) -> Any:
        return [(key.upper(), value) for key, value in super().items()]

    def keys(self) -> Any:
        return [key.upper() for key in super().__iter__()]

    def __iter__(self) -> Any:
        return iter(self.keys())


class Raw(bytes):
    def __bytes__(self) -> bytes:
        return b"something else"


SUBCLASSED = [
    (Paint.RED, "red"),
    (Paint.EMPTY, ""),
    (Colour.RED, 3),
    (Level.HIGH, 0.5),
    (Loud("a"), "a"),
    (Odd(5), 5),
    (Steep(2.5), 2.5),
    (Backwards([1, 2]), [1, 2]),
    (Upper(a=1), {"a": 1}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (Raw(b"ab"), b"ab"),
    (np.bytes_(b"ab"), b"ab"),
]


@pytest.mark.parametrize(("value", "exact"), SUBCLASSED, ids=lambda item: type(item).__name__)
def test_an_instance_of_a_subclass_arrives_as_what_it_holds_whatever_it_overrides(value: Any, exact: Any) -> None:
    assert same(travel(value), exact)
    assert same(travel([value, {"in": value}]), [exact, {"in": exact}])


def test_keys_of_a_subclass_arrive_as_text_and_two_that_are_the_same_text_are_refused() -> None:
    assert same(travel({Paint.RED: 1, Loud("x"): 2}), {"red": 1, "x": 2})
    with pytest.raises(TypeError, match="two of its keys are the same text"):
        values.encode({Alike("red"): 1, "red": 2})


DATETIME_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")


@settings(max_examples=300)
@given(st.sampled_from(DATETIME_UNITS), st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**6), 10**6), st.booleans())
@example("ns", 1_600_000_000_000_000_000, True)
@example("ns", 1_600_000_000_000_000_001, True)
@example("D", 6_585_322, True)
@example("s", -(2**63), True)
def test_numpy_times_arrive_as_a_datetime_that_equals_them_or_are_refused(unit: str, count: int, point: bool) -> None:
    value = np.datetime64(count, unit) if point else np.timedelta64(count, unit)
    try:
        back = travel(value)
    except TypeError as error:
        assert "numpy.array(value)" in str(error)
        assert np.array_equal(travel(np.array(value)), np.array(value), equal_nan=True)
        return
    assert type(back) is dt.datetime
    assert value == back


def test_no_time_is_refused_as_a_scalar_and_travels_in_an_array() -> None:
    for value in (np.datetime64("NaT", "D"), np.timedelta64("NaT", "s"), np.datetime64("NaT", "ns")):
        with pytest.raises(TypeError, match=r"Send numpy\.array"):
            values.encode([value])
        assert np.isnat(travel(np.array(value)))


def test_a_numpy_datetime_travels_as_a_datetime() -> None:
    assert travel(np.datetime64("2020-01-02T03:04:05.000006")) == dt.datetime(2020, 1, 2, 3, 4, 5, 6)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_values_may_be_nested_deeply() -> None:
    assert travel(nested(values.NESTING_MAX)) == nested(values.NESTING_MAX)


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


class Weird:
    __module__ = "somewhere"


REFUSED = [
    ((1, 2), "tuple.*send a list"),
    ({1}, "set.*send a list"),
    (frozenset({1}), "frozenset"),
    (1j, "complex"),
    (Decimal(1), r"decimal\.Decimal"),
    (dt.date(2020, 1, 1), r"datetime\.date"),
    (dt.timedelta(1), r"datetime\.timedelta"),
    (Path("x"), "Path"),
    (object(), "object"),
    (Weird(), r"somewhere\.Weird"),
    (Weird, "type"),
    (print, "builtin_function"),
    (Point(1, 2), "Point"),
    (2**64, "int.*64 bits"),
    (-(2**63) - 1, "int.*64 bits"),
    ("\udc80", "str.*UTF-8"),
    ({1: 2}, "key 1 is int"),
    ({None: 2}, "key None is NoneType"),
    (nested(values.NESTING_MAX + 2), "nested more than 100"),
    (in_itself(), "nested more than 100 deep, or in itself"),
    (np.array([object()]), "Python objects"),
    *([(np.array(["a"], dtype=np.dtypes.StringDType()), "StringDType")] if hasattr(np.dtypes, "StringDType") else []),
    (np.ma.masked_array([1, 2], mask=[0, 1]), "MaskedArray"),
    (np.complex128(1j), "complex128"),
    (np.datetime64("2020-01-01"), r"datetime64"),
    (np.longdouble(1), "longdouble"),
    (pa.scalar(1), "Int64Scalar"),
    (pa.schema([]), "Schema"),
]


@pytest.mark.parametrize(("value", "named"), REFUSED, ids=lambda item: item if isinstance(item, str) else "")
def test_what_cannot_travel_is_refused_by_its_type(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"(?s){named}"):
        values.encode(value)


@pytest.mark.parametrize(("value", "named"), REFUSED, ids=lambda item: item if isinstance(item, str) else "")
def test_what_cannot_travel_is_refused_inside_of_others(value: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"(?s){named}|ndarray|MaskedArray|nested"):
        values.encode({"deep": [1, {"in": value}]})


def test_an_array_inside_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        values.encode([np.zeros(3)])


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="99"):
        values.decode(99, b"", b"")


@given(st.binary())
def test_any_bytes_unpack_or_raise_an_ordinary_error(data: bytes) -> None:
    try:
        values.unpack(data)
    except Exception as error:
        assert not isinstance(error, MemoryError | RecursionError)


# --- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"ab"])
def test_bytes_come_out_as_bytes(value: bytes) -> None:
    assert same(travel(value), value)


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab"), bytearray()])
def test_other_bytes_like_values_come_out_as_read_only_memoryviews(value: Any) -> None:
    back = travel(value)
    assert type(back) is memoryview
    assert back.readonly
    assert back == value


def test_a_memoryview_with_gaps_or_of_other_items_travels_as_its_bytes() -> None:
    assert travel(memoryview(b"abcdef")[::2]) == b"ace"
    assert travel(memoryview(np.arange(3, dtype="<u2"))) == b"\0\0\1\0\2\0"


def buffers() -> list[Any]:
    mapped = mmap.mmap(-1, 16)
    mapped[:4] = b"abcd"
    grid = memoryview(np.arange(6, dtype="u1").reshape(2, 3))
    return [
        array.array("i", [1, -2, 3]),
        array.array("d"),
        mapped,
        (ctypes.c_int * 3)(1, 2, 3),
        (ctypes.c_uint8 * 0)(),
        pa.py_buffer(b"abc"),
        memoryview(b"abcdef")[::-2],
        grid,
        memoryview(np.arange(6, dtype="u1").reshape(2, 3).T),
        memoryview(np.arange(3, dtype=">u2")),
        memoryview(np.array(5, dtype="f8")),
    ]


@pytest.mark.parametrize("value", buffers(), ids=lambda item: type(item).__name__)
def test_what_python_takes_for_bytes_arrives_as_its_bytes(value: Any) -> None:
    held = memoryview(value).tobytes()
    back = travel(value)
    assert type(back) is memoryview and back.readonly and back == held
    assert same(travel([value]), [held])


@pytest.mark.parametrize(
    "value",
    [(ctypes.py_object * 1)(3), (ctypes.c_char_p * 1)(b"x"), memoryview(np.array([object()]))],
    ids=lambda item: type(item).__name__,
)
def test_memory_that_holds_addresses_is_refused(value: Any) -> None:
    for each in (value, [value]):
        with pytest.raises(TypeError, match="addresses"):
            values.encode(each)


# --- numpy ----------------------------------------------------------------------------------------------------------

SIMPLE = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes(endianness="?")
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?")
    | hnp.byte_string_dtypes(min_len=1)
    | hnp.unicode_string_dtypes(min_len=1)
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def same_array(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


@given(hnp.arrays(SIMPLE | hnp.array_dtypes(SIMPLE) | hnp.nested_dtypes(SIMPLE), SHAPES))
def test_arrays_keep_dtype_shape_and_items(array: Any) -> None:
    assert same_array(travel(array), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array(5, dtype=">i4"),
        np.empty((0, 3), dtype="f4"),
        np.empty((3, 0)),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
        np.broadcast_to(np.arange(3), (4, 3)),
        np.zeros(3, dtype=[("x", "f4"), ("inner", [("y", ">i2", (2, 3)), ("z", "S5")])]),
        np.zeros(3, dtype=np.dtype([("small", "i1"), ("large", "f8")], align=True)),
        np.zeros(2, dtype=np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [4, 0]})),
        np.zeros(2, dtype=np.dtype({"names": ["a", "b"], "formats": ["i4", "u1"], "offsets": [0, 0]})),
        np.zeros(2, dtype=[(("a title", "name"), "i4")]),
        np.zeros(2, dtype="V7"),
        np.zeros(2, dtype="S0"),
        np.zeros(2, dtype="U0"),
        np.zeros(3, dtype=[]),
        np.array(["2020-01-01", "NaT"], dtype="M8[D]"),
        np.zeros(2).view(np.recarray),
    ],
    ids=str,
)
def test_unusual_arrays_keep_dtype_shape_and_items(array: Any) -> None:
    assert same_array(travel(array), array)


ML_DTYPES = ("bfloat16", "float8_e4m3fn", "int4")


@pytest.mark.parametrize("name", ML_DTYPES)
def test_arrays_of_ml_dtypes_keep_dtype_shape_and_items(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    plain = np.array([[1, 2], [3, 4]]).astype(dtype)
    assert same_array(travel(plain), plain)
    record = np.zeros(2, dtype=[("x", dtype), ("y", dtype, (3,))])
    assert same_array(travel(record), record)


def test_scalars_of_ml_dtypes_arrive_as_equal_numbers_and_swapped_arrays_are_refused() -> None:
    assert same(travel([ml_dtypes.bfloat16(1.5), ml_dtypes.int4(-3)]), [1.5, -3])
    with pytest.raises(TypeError, match="bfloat16"):
        values.encode(np.zeros(2, dtype=np.dtype(ml_dtypes.bfloat16).newbyteorder()))


def test_a_message_cannot_choose_what_is_imported() -> None:
    with pytest.raises((TypeError, AttributeError)):
        values.decode(values.NDARRAY, values.pack(["antigravity.geohash", [1]]), b"\0")
    assert "antigravity" not in sys.modules


def test_an_array_comes_out_read_only_and_without_another_copy() -> None:
    body = np.arange(1000).tobytes()
    kind, head, _ = values.encode(np.arange(1000))
    array = values.decode(kind, head, memoryview(body))
    assert not array.flags.writeable
    assert not array.flags.owndata


# --- arrow ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        pa.array([1, None, 3]),
        pa.array([]),
        pa.array([[1], [], None]),
        pa.array([{"x": 1, "y": "a"}]),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(range(100))[20:30],
        pa.table({"n": [1, 2], "s": ["x", None]}),
        pa.table({}),
        pa.table({"n": pa.array([], pa.int8())}),
        pa.RecordBatch.from_pydict({"n": [1, 2]}),
        pa.RecordBatch.from_pydict({"n": pa.array([], pa.int8())}),
        pa.table({"n": [1]}).replace_schema_metadata({"who": "me"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrow_data_come_out_as_they_went_in(value: Any) -> None:
    back = travel(value)
    assert type(back) is type(value)
    assert back.equals(value)
    if isinstance(value, pa.Table | pa.RecordBatch):
        assert back.schema.equals(value.schema, check_metadata=True)


SPARSE = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
DENSE = pa.UnionArray.from_dense(
    pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["b"])]
)
TENSOR = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype="f4").reshape(3, 2, 2))
SPECIAL = {
    "sparse": SPARSE,
    "dense": DENSE,
    "tensor": TENSOR,
    "null": pa.nulls(2),
    "run ends": pa.RunEndEncodedArray.from_arrays([2, 3], [1, 2]),
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
    "lists of unions": pa.ListArray.from_arrays([0, 1, 2], SPARSE),
}
if hasattr(pa, "string_view"):  # not in the oldest releases
    SPECIAL["view"] = pa.array(["a" * 30, "b"], pa.string_view())
if hasattr(pa, "uuid"):
    SPECIAL["uuid"] = pa.array([b"0" * 16, None], pa.uuid())


@pytest.mark.parametrize("name", SPECIAL)
def test_arrow_values_of_any_type_come_out_also_empty_and_in_chunks(name: str) -> None:
    value = SPECIAL[name]
    for each in (value, value[:0], value[1:]):
        assert travel(each).equals(each)
        table, batch = pa.table({"x": each}), pa.RecordBatch.from_arrays([each], ["x"])
        assert travel(table).equals(table)
        assert travel(batch).equals(batch)
    for chunks in ([], [value], [value, value[:0]], [value[:0], value[:0]]):
        chunked = pa.chunked_array(chunks, value.type)
        back = travel(chunked)
        assert isinstance(back, pa.Array) and back.type == value.type
        assert back.to_pylist() == chunked.to_pylist()


@pytest.mark.parametrize("chunks", [[], [[1, 2]], [[1], [2, 3]]])
def test_a_chunked_array_comes_out_as_one_array(chunks: Any) -> None:
    value = pa.chunked_array(chunks, type=pa.int64())
    back = travel(value)
    assert isinstance(back, pa.Array)
    assert back.to_pylist() == value.to_pylist() and back.type == value.type


# --- what it costs --------------------------------------------------------------------------------------------------


def test_plain_values_cost_no_import_of_numpy_or_pyarrow() -> None:
    code = (
        "import sys; from noderuntime.api import values as v; "
        "k = v.encode({'a': [1, 2.0, 'x', b'y', None]}); v.decode(*k); v.decode(*v.encode(b'x')); "
        "sys.exit('numpy' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("first", sorted(values.SMALL))
def test_a_small_value_is_read_as_the_library_reads_it_and_refused_where_it_refuses(first: int) -> None:
    for rest in (*(bytes([length]) * size for length in (0, 1, 7, 0xFF) for size in range(12)), b"\x03\xc3\xa9!"):
        packed = bytes([first]) + rest
        try:
            expected = values.unpack(packed)
        except Exception as refused:
            with pytest.raises(type(refused)) as raised:
                values.unpack_small(packed)
            assert str(raised.value) == str(refused)
        else:
            found = values.unpack_small(packed)
            assert type(found) is type(expected)
            assert found == expected or found != found  # nan


# --- streams without a reader ---------------------------------------------------------------------------------------


ROWS: list[list[Any]] = [["a", None, "b"], [[1], None, []], [{"x": 1}], [None], [], [True, None], [b"x"]]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_a_stream_that_is_put_together_is_what_a_writer_writes(rows: list[Any]) -> None:
    array = pa.array(rows)
    stream = arrow_streams.joined(array)
    assert stream
    (batch,) = pa.ipc.open_stream(stream)
    assert batch.column(0).equals(array)
    (batch,) = pa.ipc.open_stream(arrow_streams.joined(array.slice(1)))
    assert batch.column(0).to_pylist() == rows[1:]
    for _ in range(2):  # read by a reader, then taken apart
        kind, head, body = values.encode(array)
        got = values.decode(kind, head, memoryview(bytes(body)))
        assert got.equals(array)
        assert got.type == array.type
    assert arrow_streams.taken_apart(stream).equals(array)


def test_a_stream_of_several_batches_takes_a_reader() -> None:
    column = pa.chunked_array([["a"], ["b", "c"], []], pa.string())
    for sent in (pa.array(["x"]), column, pa.array(["x"]), column):
        kind, head, body = values.encode(sent)
        assert values.decode(kind, head, memoryview(bytes(body))).to_pylist() == sent.to_pylist()
    values.decode(*values.encode(pa.array(["x"])))
    _, _, body = values.encode(column)
    assert arrow_streams.taken_apart(bytes(body)) is None


def test_dictionaries_and_large_arrays_take_a_writer() -> None:
    words = pa.array(["a", "b"]).dictionary_encode()
    assert not arrow_streams.joined(words)
    assert not arrow_streams.joined(pa.StructArray.from_arrays([words], ["w"]))
    assert not arrow_streams.joined(pa.array(["x" * 100_000]))


def test_bytes_that_are_no_stream_are_refused() -> None:
    values.decode(*values.encode(pa.array(["x"])))
    good = bytes(values.encode(pa.array(["abc"]))[2])
    for body in (b"", b"abc", good[:100], good[: len(good) // 2]):
        with pytest.raises((ValueError, OSError)):
            values.decode(values.ARROW, b"array", body)
