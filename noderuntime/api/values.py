"""Converts Python values to bytes and back.

A value is sent as (kind, head, body): the head is short and describes the body, which holds the data. None, bool, int,
float, str, list, dict with text keys and datetime are MessagePack; bytes-like, numpy arrays and Arrow data are sent as
they are in memory. Nothing is ever pickled. A body may be a view of the value, so the caller copies it at once.

A value arrives equal, or `encode` refuses it. Conversions: a subclass of str, int, float,
bytes, list or dict (a member of an Enum that is a text, say) arrives as the exact type, a numpy scalar as the Python
value that equals it, a datetime with a zone in UTC, a bytes-like object as its bytes, a ChunkedArray as an Array.

Operators that save plain values themselves may use `pack` and `unpack`.

numpy and pyarrow are imported only for values of their own types: an operator that uses neither pays nothing for them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import re
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgpack

from noderuntime.api import arrow_streams

KINDS = 5
MSGPACK, BYTES, NDARRAY, ARROW, VIEW = range(KINDS)
"""VIEW: sent as any other bytes-like object (see `buffer_of`), received as a read-only memoryview; bytes stay bytes."""
NESTING_MAX = 100

Decode = Callable[[int, bytes, Any], Any]
"""What makes a value of (kind, head, body): `decode`, or what a library of nodes has in its place for views."""

_NAIVE_DATETIME = 1  # MessagePack extension: a datetime without a zone, as ISO text
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_TEXT = frozenset({str})
# What an instance of a subclass holds, whatever the subclass overrides: str() of an Enum member is not its text.
_EXACT: dict[type, Callable[[Any], Any]] = {
    list: list.copy,
    dict: lambda value: dict(OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value)),
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}
_ADDRESSES = frozenset("OPzZX&")  # codes of buffer formats
_FORMS_MAX = 256
_forms: dict[bytes, tuple[Any, tuple[int, ...]]] = {}  # dtype and shape of arrays, by the head: most nodes send a few
_FIELD_NAME = re.compile(r":[^:]*:")
_USER_DTYPES = "ml_dtypes"  # the only package besides numpy whose dtypes can be sent, by name


class Encoded:
    """A value as `encode` returns it: for a sender that knows how its values travel, so that `encode` need not look."""

    __slots__ = ("body", "head", "kind")

    def __init__(self, kind: int, head: bytes, body: bytes | memoryview) -> None:
        self.kind = kind
        self.head = head
        self.body = body


def encode(value: Any) -> tuple[int, bytes, bytes | memoryview]:
    """(kind, head, body) of a value. Raises TypeError, which names the type, for a value that cannot be sent."""
    kind = type(value)
    if kind is bytes:
        return BYTES, b"", value
    if kind is Encoded:
        return value.kind, value.head, value.body
    if kind in _PLAIN or kind is dict or kind is list:
        return MSGPACK, b"", pack(value)
    if kind is bytearray or kind is memoryview:
        return VIEW, b"", _flat(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _encode_array(value)
    if kind.__module__.partition(".")[0] == "pyarrow" and not _is_arrow_buffer(value):
        return _encode_arrow(value)
    buffer = buffer_of(value)
    if buffer is not None:
        return (BYTES, b"", buffer.tobytes()) if isinstance(value, bytes) else (VIEW, b"", _flat(buffer))
    return MSGPACK, b"", pack(value)


def decode(kind: int, head: bytes, body: Any) -> Any:
    """The value that `encode` was given. Arrays and memoryviews are read-only views of `body`, any buffer."""
    if kind == MSGPACK:
        return unpack(body)
    if kind == BYTES:
        return body if type(body) is bytes else bytes(body)
    if kind == VIEW:
        return memoryview(body).toreadonly()
    if kind == NDARRAY:
        import numpy

        form = _forms.get(head)
        if form is None:
            described, shape = msgpack.unpackb(head, raw=False)
            form = _dtype(described), tuple(shape)
            if len(_forms) >= _FORMS_MAX:
                _forms.clear()
            _forms[bytes(head)] = form
        array = numpy.ndarray(form[1], form[0], body)
        array.flags.writeable = False
        return array
    if kind == ARROW:
        return _decode_arrow(head, body)
    raise ValueError(f"unknown kind of value: {kind}")


def pack(value: Any) -> bytes:
    """MessagePack of a plain value. Raises TypeError, which names the type, if a part of it cannot be sent."""
    kind = type(value)
    if kind not in _PLAIN:
        value = _plain(value, 0)
        kind = type(value)
    packed: bytes
    try:
        packed = _fast_pack(value)
        return packed
    except (TypeError, ValueError, OverflowError):  # a datetime without a zone, or a value that cannot be sent at all
        pass
    try:
        packed = _pack(value)
        return packed
    except OverflowError:
        raise TypeError("int: travels as 64 bits, and this one is larger; send it as text or bytes") from None
    except UnicodeEncodeError as error:
        raise TypeError(f"str: cannot travel as UTF-8 ({error.reason})") from None


def _pack_extension(value: Any) -> Any:
    if isinstance(value, dt.datetime):  # without a zone: msgpack itself packs those with one
        return msgpack.ExtType(_NAIVE_DATETIME, value.isoformat().encode())
    raise OverflowError if isinstance(value, int) else TypeError(_refusal(type(value)))


# One Packer for all: it holds the GIL throughout, because nothing in it calls back into Python.
_fast_pack = msgpack.Packer(use_bin_type=True, datetime=True).pack


def _pack(value: Any) -> Any:
    return msgpack.packb(value, use_bin_type=True, datetime=True, default=_pack_extension)


def _unpack_extension(code: int, data: bytes) -> Any:
    if code == _NAIVE_DATETIME:
        return dt.datetime.fromisoformat(data.decode())
    return msgpack.ExtType(code, data)


def unpack(packed: Any) -> Any:
    """The plain value in a buffer."""
    # written out: a functools.partial that holds keywords makes a new dict at each call
    return msgpack.unpackb(packed, raw=False, timestamp=3, ext_hook=_unpack_extension, strict_map_key=False)


_ONE_BYTE: dict[int, Any] = {
    **{first: first for first in range(0x80)}, **{first: first - 256 for first in range(0xE0, 0x100)},
    0xC0: None, 0xC2: False, 0xC3: True,
}  # fmt: skip
_NUMBERS: dict[int, Callable[[bytes], tuple[Any]]] = {  # float and int of more than one byte
    first: struct.Struct(f">x{code}").unpack for first, code in zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True)
}
_SHORT_TEXT = range(0xA0, 0xC0)  # up to 31 bytes
_TEXT_255, _BYTES_255 = 0xD9, 0xC4  # up to 255 bytes
SMALL = frozenset({*_ONE_BYTE, *_NUMBERS, *_SHORT_TEXT, _TEXT_255, _BYTES_255})
"""First bytes of MessagePack: None, bool, int, float, text and bytes up to 255 bytes."""


def unpack_small(packed: bytes) -> Any:
    """The same as `unpack`, where packed[0] is one of SMALL; quicker, because these values are the most common."""
    first = packed[0]
    if first in _NUMBERS:
        try:
            return _NUMBERS[first](packed)[0]
        except struct.error:  # of another length
            return unpack(packed)
    size = len(packed)
    if size == 1:
        if first in _ONE_BYTE:
            return _ONE_BYTE[first]
    elif first == _BYTES_255:
        if size == packed[1] + 2:
            return packed[2:]
    elif first == _TEXT_255:
        if size == packed[1] + 2:
            return packed[2:].decode()
    elif first in _SHORT_TEXT and size == first - 0x9F:
        return packed[1:].decode()
    return unpack(packed)


def _refusal(kind: type) -> str:
    hint = {"tuple": "; send a list", "set": "; send a list", "frozenset": "; send a list"}.get(kind.__name__, "")
    return (
        f"a value of type {kind.__module__}.{kind.__qualname__} cannot travel{hint}. Possible are None, bool, int, "
        "float, str, bytes and other bytes-like objects, list, dict with str keys, datetime, numpy arrays and, with "
        "pyarrow, its arrays and tables"
    ).replace("builtins.", "")


def _plain(value: Any, depth: int) -> Any:
    """`value`, made of exact MessagePack types; copied only where a subclass or a numpy scalar has to be replaced."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dt.datetime:
        return moment(value)
    if depth > NESTING_MAX:
        raise TypeError(f"{kind.__name__}: nested more than {NESTING_MAX} deep, or in itself")
    if kind is list:
        if _PLAIN.issuperset(map(type, value)):
            return value
        return [_plain(item, depth + 1) for item in value]
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            value = _with_text_keys(value)
        if _PLAIN.issuperset(map(type, value.values())):
            return value
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return _scalar(value)
    for base, exact in _EXACT.items():
        if isinstance(value, base):
            return _plain(exact(value), depth + 1)
    buffer = buffer_of(value)
    if buffer is not None:
        return buffer.tobytes()
    raise TypeError(_refusal(kind))


def exact(value: Any) -> Any:
    """An instance of a subclass of str, int, float, list or dict as the exact type; others as they are."""
    for base, taken in _EXACT.items():
        if isinstance(value, base):
            return taken(value)
    return value


def _with_text_keys(value: dict[Any, Any]) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"dict: the key {key!r:.60} is {type(key).__name__}; keys must be str")
    exact = {str.__str__(key): item for key, item in value.items()}
    if len(exact) < len(value):  # an Enum member and the text that equals it are two keys of one dict
        raise TypeError("dict: two of its keys are the same text; one of their values would be lost")
    return exact


def _scalar(value: Any) -> Any:
    """The Python value that equals a numpy scalar. Raises TypeError when there is none."""
    import numpy

    if isinstance(value, numpy.datetime64 | numpy.timedelta64):
        plain = value.item()  # an integer when the unit is finer than Python's, or the year too far; None: no time
        with contextlib.suppress(OverflowError):  # newer releases compare only what fits into the finer unit
            if type(plain) is dt.datetime and bool(value == plain):
                return plain
        raise TypeError(f"{_refusal(type(value))}. Send numpy.array(value), which keeps its unit")
    plain = value.item()
    if type(plain) not in _PLAIN:
        raise TypeError(_refusal(type(value)))
    return plain


def buffer_of(value: Any) -> memoryview | None:
    """The memory of a bytes-like object: bytes, array.array, mmap, a ctypes array, pyarrow.Buffer; None for others.

    Numpy's scalars and arrays have buffers too, and are not bytes-like here. Raises TypeError where the memory holds
    addresses, which mean nothing elsewhere.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
        return None
    try:
        buffer = memoryview(value)
    except TypeError:
        return None
    if _ADDRESSES.intersection(_FIELD_NAME.sub("", buffer.format)):
        raise TypeError(f"{_refusal(type(value))}. Its memory holds addresses (format {buffer.format!r:.40})")
    return buffer


def _flat(value: Any) -> bytes | memoryview:
    """The bytes of a buffer in C order: a view of it where that is possible."""
    buffer = buffer_of(value)
    assert buffer is not None
    if buffer.c_contiguous and buffer.nbytes:
        try:
            return buffer.cast("B")
        except (TypeError, ValueError):  # of a format that memoryview can copy but not cast, as those of ctypes
            pass
    return buffer.tobytes()


def _is_arrow_buffer(value: Any) -> bool:
    import pyarrow

    return isinstance(value, pyarrow.Buffer)


def moment(value: dt.datetime) -> dt.datetime:
    """A datetime with a zone arrives in UTC: at the ends of the calendar there may be no such moment there."""
    if value.tzinfo is not None and not 1 < value.year < 9999:
        try:
            value.astimezone(dt.UTC)
        except OverflowError:
            raise TypeError(f"datetime: {value} has no UTC form; send it without a zone, or as text") from None
    return value


def head_of_array(described: Any, shape: list[int]) -> bytes:
    """The head of a numpy array: its dtype, in its own text where it is a plain one, and its shape."""
    packed: bytes = _pack([described, shape])
    return packed


def _encode_array(array: Any) -> tuple[int, bytes, bytes | memoryview]:
    import numpy

    dtype = array.dtype
    if dtype.hasobject:
        raise TypeError(f"numpy.ndarray of dtype {dtype!r}: arrays of Python objects cannot travel")
    if hasattr(array, "mask"):
        raise TypeError(_refusal(type(array)) + ". Send its data and its mask")
    described = dtype.str if dtype.names is None and dtype.isbuiltin != 2 else _describe(dtype)
    bare = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
    return NDARRAY, head_of_array(described, list(array.shape)), bare.data


def _describe(dtype: Any) -> Any:
    """A dtype as text, [inner, shape], or all about its fields; one of ml_dtypes as "ml_dtypes.bfloat16".

    (numpy's own `descr` knows no gaps and no unions.)
    """
    if dtype.subdtype is not None:
        inner, shape = dtype.subdtype
        return [_describe(inner), list(shape)]
    if dtype.isbuiltin == 2:  # registered by another package: its text is that of bare bytes
        return _user_dtype_name(dtype)
    if dtype.names is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    return {
        "names": list(dtype.names),
        "formats": [_describe(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": [field[2] if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _user_dtype_name(dtype: Any) -> str:
    kind = dtype.type
    if kind.__module__ != _USER_DTYPES or not dtype.isnative:
        name = f"{kind.__module__}.{kind.__name__} ({dtype})"
        raise TypeError(f"numpy.ndarray of dtype {name}: only those of numpy, and native ones of ml_dtypes, can travel")
    return f"{_USER_DTYPES}.{kind.__name__}"


def _dtype(described: Any) -> Any:
    import numpy

    if isinstance(described, str):
        if described.startswith(f"{_USER_DTYPES}."):  # no other package: a message must not choose what is imported
            return numpy.dtype(getattr(importlib.import_module(_USER_DTYPES), described.rpartition(".")[2]))
        return numpy.dtype(described)
    if isinstance(described, list):
        inner, shape = described
        return numpy.dtype((_dtype(inner), tuple(shape)))
    aligned: bool = described.pop("aligned")
    fields: Any = {**described, "formats": [_dtype(part) for part in described["formats"]]}
    return numpy.dtype(fields, align=aligned)


def _encode_arrow(value: Any) -> tuple[int, bytes, bytes | memoryview]:
    import pyarrow

    try:
        if isinstance(value, pyarrow.Array) and (stream := arrow_streams.joined(value)):
            return ARROW, b"array", stream
        if isinstance(value, pyarrow.Table):
            head, schema, parts = b"table", value.schema, [value]
        elif isinstance(value, pyarrow.RecordBatch):
            head, schema, parts = b"batch", value.schema, [value]
        elif isinstance(value, pyarrow.Array | pyarrow.ChunkedArray):
            head, schema = b"array", pyarrow.schema([pyarrow.field("", value.type)])
            chunks = value.chunks if isinstance(value, pyarrow.ChunkedArray) else [value]
            chunks = chunks or [pyarrow.nulls(1, value.type)[:0]]  # not every type can be made of no chunks
            parts = [pyarrow.RecordBatch.from_arrays([chunk], schema=schema) for chunk in chunks]
        else:
            raise TypeError(_refusal(type(value)))
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, schema) as writer:
            for part in parts:  # record batches one by one, also empty ones: a table leaves those out
                writer.write(part)
    except pyarrow.ArrowException as error:
        raise TypeError(f"{type(value).__name__} of type {getattr(value, 'type', 'table')}: {error}") from None
    return ARROW, head, memoryview(sink.getvalue())


def _decode_arrow(head: bytes, body: bytes | memoryview) -> Any:
    import pyarrow

    if head == b"array" and (array := arrow_streams.taken_apart(body)) is not None:
        return array
    reader = pyarrow.ipc.open_stream(pyarrow.py_buffer(body))
    if head == b"table":
        return reader.read_all()
    batches = list(reader)
    if head == b"batch":
        return batches[0] if batches else pyarrow.RecordBatch.from_pylist([], schema=reader.schema)
    arrow_streams.note(reader.schema, body)
    if len(batches) == 1:
        return batches[0].column(0)
    return pyarrow.chunked_array([batch.column(0) for batch in batches], reader.schema.field(0).type).combine_chunks()
