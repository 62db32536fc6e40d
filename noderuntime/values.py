"""Python values to bytes and back. Floor 1, pure.

A value travels as (kind, head, body): the head describes the body and is short, the body is the bulk. None, bool, int,
float, str, list, dict with text keys and datetime are MessagePack; bytes-like, numpy arrays and Arrow data go as they
lie in memory. Nothing is ever pickled. A body may be a view of the value: whoever stages it copies it at once.

numpy and pyarrow are imported only when such a value is met: an operator that uses neither does not pay for them.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack

MSGPACK, BYTES, NDARRAY, ARROW, VIEW = range(5)
"""VIEW: sent as bytearray or memoryview, received as a read-only memoryview; `bytes` stay bytes."""
NESTING_MAX = 100

_NAIVE_DATETIME = 1  # MessagePack extension: a datetime without a zone, as ISO text
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_EXACT = {list: list, dict: dict, str: str, int: int, float: float}


def encode(value: Any) -> tuple[int, bytes, bytes | memoryview]:
    """(kind, head, body) of a value. Raises TypeError, naming the type, for what cannot travel."""
    kind = type(value)
    if kind is bytes:
        return BYTES, b"", value
    if kind in _PLAIN or kind is dict or kind is list:
        return MSGPACK, b"", pack(value)
    if kind is bytearray or kind is memoryview:
        view = memoryview(value)
        return VIEW, b"", view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _encode_array(value)
    if kind.__module__.partition(".")[0] == "pyarrow":
        return _encode_arrow(value)
    return MSGPACK, b"", pack(value)


def decode(kind: int, head: bytes, body: Any) -> Any:
    """The value again, from any buffer. Arrays and memoryviews are read-only views of `body`."""
    if kind == MSGPACK:
        return unpack(body)
    if kind == BYTES:
        return body if type(body) is bytes else bytes(body)
    if kind == VIEW:
        return memoryview(body).toreadonly()
    if kind == NDARRAY:
        import numpy

        described, shape = msgpack.unpackb(head, raw=False)
        array = numpy.ndarray(shape, _dtype(described), body)
        array.flags.writeable = False
        return array
    if kind == ARROW:
        return _decode_arrow(head, body)
    raise ValueError(f"unknown kind of value: {kind}")


def pack(value: Any) -> bytes:
    """MessagePack of a plain value. Raises TypeError, naming the type, when it holds anything that cannot travel."""
    kind = type(value)
    if kind not in _PLAIN:
        value = _plain(value, 0)
        kind = type(value)
    packed: bytes
    try:
        packed = _fast_pack(value)
        return packed
    except (TypeError, ValueError, OverflowError):  # a datetime without a zone, or what cannot travel at all
        pass
    try:
        packed = _pack(value)
        return packed
    except OverflowError:
        raise TypeError("int: travels as 64 bits, and this one is larger; send it as text or bytes") from None
    except UnicodeEncodeError as error:
        raise TypeError(f"str: cannot travel as UTF-8 ({error.reason})") from None


def _pack_extension(value: Any) -> Any:
    if isinstance(value, dt.datetime):  # msgpack itself takes those with a zone
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


unpack = partial(msgpack.unpackb, raw=False, timestamp=3, ext_hook=_unpack_extension, strict_map_key=False)
"""unpack(packed): the plain value in a buffer."""


def _refusal(kind: type) -> str:
    hint = {"tuple": "; send a list", "set": "; send a list", "frozenset": "; send a list"}.get(kind.__name__, "")
    return (
        f"a value of type {kind.__module__}.{kind.__qualname__} cannot travel{hint}. Possible are None, bool, int, "
        "float, str, bytes, list, dict with str keys, datetime, numpy arrays and, with pyarrow, its arrays and tables"
    ).replace("builtins.", "")


def _plain(value: Any, depth: int) -> Any:
    """`value`, made of exact MessagePack types; copied only where a subclass or a numpy scalar has to be replaced."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dt.datetime:
        return _moment(value)
    if depth > NESTING_MAX:
        raise TypeError(f"{kind.__name__}: nested more than {NESTING_MAX} deep, or in itself")
    if kind is list:
        if _PLAIN.issuperset(map(type, value)):
            return value
        return [_plain(item, depth + 1) for item in value]
    if kind is dict:
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"dict: the key {key!r:.60} is {type(key).__name__}; keys must be str")
        if _PLAIN.issuperset(map(type, value.values())):
            return value
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if kind is bytearray or kind is memoryview:
        return bytes(value)
    item: Callable[[], Any] | None = getattr(value, "item", None)
    if kind.__module__ == "numpy" and item is not None and getattr(value, "shape", None) == ():
        plain = item()
        if type(plain) in _PLAIN or type(plain) is dt.datetime:
            return plain
    for base, exact in _EXACT.items():
        if isinstance(value, base):
            return _plain(exact(value), depth + 1)
    raise TypeError(_refusal(kind))


def _moment(value: dt.datetime) -> dt.datetime:
    """A datetime with a zone arrives in UTC: at the ends of the calendar there may be no such moment there."""
    if value.tzinfo is not None and not 1 < value.year < 9999:
        try:
            value.astimezone(dt.UTC)
        except OverflowError:
            raise TypeError(f"datetime: {value} has no UTC form; send it without a zone, or as text") from None
    return value


def _encode_array(array: Any) -> tuple[int, bytes, bytes | memoryview]:
    import numpy

    dtype = array.dtype
    if dtype.hasobject:
        raise TypeError(f"numpy.ndarray of dtype {dtype!r}: arrays of Python objects cannot travel")
    if hasattr(array, "mask"):
        raise TypeError(_refusal(type(array)) + ". Send its data and its mask")
    described = dtype.str if dtype.names is None else _describe(dtype)
    bare = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
    return NDARRAY, _pack([described, list(array.shape)]), bare.data


def _describe(dtype: Any) -> Any:
    """A dtype as text, [inner, shape], or all about its fields. (numpy's own `descr` knows no gaps and no unions.)"""
    if dtype.subdtype is not None:
        inner, shape = dtype.subdtype
        return [_describe(inner), list(shape)]
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


def _dtype(described: Any) -> Any:
    import numpy

    if isinstance(described, str):
        return numpy.dtype(described)
    if isinstance(described, list):
        inner, shape = described
        return numpy.dtype((_dtype(inner), tuple(shape)))
    aligned: bool = described.pop("aligned")
    fields: Any = {**described, "formats": [_dtype(part) for part in described["formats"]]}
    return numpy.dtype(fields, align=aligned)


def _encode_arrow(value: Any) -> tuple[int, bytes, bytes | memoryview]:
    import pyarrow

    if isinstance(value, pyarrow.Table):
        head, table = b"table", value
    elif isinstance(value, pyarrow.RecordBatch):
        head, table = b"batch", pyarrow.Table.from_batches([value])
    elif isinstance(value, pyarrow.Array | pyarrow.ChunkedArray):
        head, table = b"array", pyarrow.table({"": value})
    else:
        raise TypeError(_refusal(type(value)))
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return ARROW, head, memoryview(sink.getvalue())


def _decode_arrow(head: bytes, body: bytes | memoryview) -> Any:
    import pyarrow

    table = pyarrow.ipc.open_stream(pyarrow.py_buffer(body)).read_all()
    if head == b"table":
        return table
    if head == b"batch":
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else pyarrow.RecordBatch.from_pylist([], schema=table.schema)
    column = table.column(0)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
