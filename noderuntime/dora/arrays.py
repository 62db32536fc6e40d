"""The values of dora's nodes, which are Arrow arrays, and what our messages carry for them.

Numbers without nulls travel as bare memory (as a bytes-like object if they are uint8, else as a numpy array), which
costs no serialization and which the receiver looks at where it lies. All other arrays travel in Arrow's own format
(api/values.py). Such memory comes out of an Arrow array, and goes into one, without a numpy array in between: a node
that sleeps between two messages runs each library that it goes through from cold caches, which costs more than the
work itself.

Conversions, those of dora 1.1.0: bytes arrive as uint8, a record batch as a struct array, and the outermost type loses
what only a field could hold: an extension type becomes its storage, a dictionary type is no longer `ordered`.

pyarrow is imported when a node is made, and never by a program that only imports dora.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import msgpack

from noderuntime.api import values

REFUSED = "invalid `data` type, must be `PyBytes` or arrow array"


@cache
def _arrow() -> Any:
    """pyarrow. Raises ModuleNotFoundError, which says how to install it."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "dora's nodes need pyarrow, which is not installed: pip install 'noderuntime[arrow]'", name="pyarrow"
        ) from None
    return pyarrow


_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")


class _Numbers(NamedTuple):
    """A type of numbers whose arrays travel as bare memory. `dtype`: numpy's text of it; "": as a bytes-like object."""

    type: Any
    dtype: str
    item_bytes: int


@cache
def _bare() -> dict[type, _Numbers]:
    """By the classes of arrays. (Classes, because an extension type may have no hash.)"""
    return {
        type(_arrow().array([], kind)): _Numbers(kind, "" if kind == _uint8() else dtype, kind.bit_width // 8)
        for dtype, kind in _types().items()
    }


@cache
def _types() -> dict[str, Any]:
    """The Arrow types of numpy's, by their texts."""
    import numpy

    return {numpy.dtype(name).str: _arrow().array([], name).type for name in _NUMBERS}


@cache
def _uint8() -> Any:
    return _arrow().uint8()


@lru_cache
def _head(dtype: str, count: int) -> bytes:
    return values.head_of_array(dtype, [count])


@lru_cache
def _form(head: bytes) -> tuple[Any, int] | None:
    """Type and length of the Arrow array for a numpy array with this head; None if it takes a conversion."""
    dtype, shape = msgpack.unpackb(head, raw=False)
    kind = _types().get(dtype) if isinstance(dtype, str) else None
    return None if kind is None or len(shape) != 1 else (kind, shape[0])


def load() -> None:
    """Import what values need, so that the first event is not late by it."""
    _bare()


def outgoing(data: Any) -> Any:
    """The value that our messages carry for `data`. Raises RuntimeError for what is neither bytes nor an array."""
    if isinstance(data, bytes):
        return values.Encoded(values.VIEW, b"", data)
    arrow = _arrow()
    array = data if isinstance(data, arrow.Array) else _array_of(arrow, data)
    numbers = _bare().get(type(array))
    if numbers is not None:
        valid, memory = array.buffers()
        if valid is None or not array.null_count:
            return _bare_memory(array, memory, numbers)
    if isinstance(array, arrow.ExtensionArray):
        array = array.storage
    kind = array.type
    if isinstance(kind, arrow.DictionaryType):
        plain = _plain_type(kind.value_type)
        if kind.ordered or plain is not kind.value_type:
            words = array.dictionary
            words = words.storage if isinstance(words, arrow.ExtensionArray) else words
            array = arrow.DictionaryArray.from_arrays(array.indices, words)
    return array


def _bare_memory(array: Any, memory: Any, numbers: _Numbers) -> values.Encoded:
    count = len(array)
    start = array.offset * numbers.item_bytes
    body = memoryview(memory)[start : start + count * numbers.item_bytes] if count else b""
    if not numbers.dtype:
        return values.Encoded(values.VIEW, b"", body)
    return values.Encoded(values.NDARRAY, _head(numbers.dtype, count), body)


def _plain_type(kind: Any) -> Any:
    return kind.storage_type if isinstance(kind, _arrow().BaseExtensionType) else kind


def _array_of(arrow: Any, data: Any) -> Any:
    if not hasattr(type(data), "__arrow_c_array__"):
        raise RuntimeError(REFUSED)
    if isinstance(data, arrow.RecordBatch):
        return data.to_struct_array()
    try:
        return arrow.array(data)
    except Exception as error:
        raise RuntimeError(f"{REFUSED}\n\nCaused by:\n    {type(error).__name__}: {error}") from None


def decode(kind: int, head: bytes, body: Any) -> Any:
    """In place of values.decode: what has a form of Arrow's becomes an Arrow array at once."""
    if kind == values.VIEW:
        return _array(_uint8(), len(body), body)
    form = _form(head) if kind == values.NDARRAY else None
    return values.decode(kind, head, body) if form is None else _array(form[0], form[1], body)


def incoming(value: Any) -> Any:
    """The Arrow array of a value that was received. Large ones are views of the shared memory."""
    arrow = _arrow()
    if isinstance(value, arrow.Array):
        return value
    if isinstance(value, memoryview | bytes):
        return _array(_uint8(), len(value), value)
    if value is None:  # a tick
        return arrow.nulls(0)
    dtype = getattr(value, "dtype", None)
    if dtype is not None and value.ndim == 1:
        kind = _types().get(dtype.str)
        if kind is not None:
            return _array(kind, len(value), value)
    if isinstance(value, arrow.RecordBatch):
        return value.to_struct_array()
    return arrow.array(value if isinstance(value, list) or dtype is not None else [value])  # of other nodes


def _array(kind: Any, count: int, memory: Any) -> Any:
    arrow = _arrow()
    return arrow.Array.from_buffers(kind, count, [None, arrow.py_buffer(memory)])
