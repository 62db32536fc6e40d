"""The values of dora's nodes, which are Arrow arrays, and what our messages carry for them.

Numbers without nulls travel as bare memory (a memoryview for uint8, else a numpy array), which costs no serialization
and which the receiver looks at where it lies. All other arrays travel in Arrow's own format (api/values.py).

Conversions, those of dora 1.1.0: bytes arrive as uint8, a record batch as a struct array, and the outermost type loses
what only a field could hold: an extension type becomes its storage, a dictionary type is no longer `ordered`.

pyarrow is imported when a node is made, and never by a program that only imports dora.
"""

from __future__ import annotations

from functools import cache
from typing import Any

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


@cache
def _bare() -> frozenset[type]:
    """The classes of arrays that travel as bare memory. (Classes, because an extension type may have no hash.)"""
    return frozenset(type(_arrow().array([], name)) for name in _NUMBERS)


@cache
def _arrow_types() -> dict[Any, Any]:
    """The Arrow types of numpy's."""
    import numpy

    return {numpy.dtype(name): _arrow().array([], name).type for name in _NUMBERS}


def load() -> None:
    """Import what values need, so that the first event is not late by it."""
    _bare()
    _arrow_types()


def outgoing(data: Any) -> Any:
    """The value that our messages carry for `data`. Raises RuntimeError for what is neither bytes nor an array."""
    if isinstance(data, bytes):
        return memoryview(data)
    arrow = _arrow()
    array = data if isinstance(data, arrow.Array) else _array_of(arrow, data)
    if type(array) in _bare() and not array.null_count:
        numbers = array.to_numpy()
        return numbers.data if type(array) is arrow.UInt8Array else numbers
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


def incoming(value: Any) -> Any:
    """The Arrow array of a value that was received. Large ones are views of the shared memory."""
    arrow = _arrow()
    if isinstance(value, memoryview | bytes):
        return arrow.Array.from_buffers(arrow.uint8(), len(value), [None, arrow.py_buffer(value)])
    if isinstance(value, arrow.Array):
        return value
    if value is None:  # a tick
        return arrow.nulls(0)
    dtype = getattr(value, "dtype", None)
    if dtype is not None and value.ndim == 1:
        kind = _arrow_types().get(dtype)
        if kind is not None:
            return arrow.Array.from_buffers(kind, len(value), [None, arrow.py_buffer(value)])
    if isinstance(value, arrow.RecordBatch):
        return value.to_struct_array()
    return arrow.array(value if isinstance(value, list) or dtype is not None else [value])  # of other nodes
