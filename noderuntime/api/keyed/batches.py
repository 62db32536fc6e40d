"""Batches: the records of a message that carries many of them.

numpy and pyarrow are imported only for values of their own types: an operator that uses neither pays nothing for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noderuntime.api.events import Event


def records_of(value: Any) -> Sequence[Any]:
    """The records of a batch, in order, as plain Python values where possible:

    - a list: its items;
    - a numpy array with one dimension: its elements as Python numbers and texts, those of a structured array as dicts
      by field; with more dimensions: its rows, which are arrays;
    - an Arrow table or record batch: its rows as dicts by column; an Arrow array: its values.

    Raises TypeError for everything else: a value that is not a batch is probably one record, sent by mistake.
    """
    kind = type(value)
    found: list[Any] | None = None
    if kind is list:
        found = value
    elif (numpy := sys.modules.get("numpy")) is not None and isinstance(value, numpy.ndarray) and value.ndim:
        found = _of_array(value)
    elif kind.__module__.partition(".")[0] == "pyarrow":
        found = _of_arrow(value)
    if found is not None:
        return found
    raise TypeError(
        f"a value of type {kind.__qualname__} is no batch of records; that is a list, "
        "a numpy array of one dimension or more, or an Arrow table, record batch or array"
    )


def _of_array(array: Any) -> list[Any]:
    if array.ndim > 1:
        return list(array)
    names = array.dtype.names
    if names:
        return _rows(names, [_of_array(array[name]) for name in names])
    items: list[Any] = _times(array) if array.dtype.kind in "mM" else array.tolist()
    return items


def _times(array: Any) -> list[Any]:
    """Python datetimes, or numpy's own where Python's would lose precision: tolist() turns those into bare integers."""
    import numpy

    micro = array
    if numpy.datetime_data(array.dtype)[0] in ("ns", "ps", "fs", "as"):
        micro = array.astype(f"{array.dtype.kind}8[us]")
        if not bool(((micro == array) | numpy.isnat(array)).all()):
            return list(array)
    items: list[Any] = micro.tolist()
    return list(array) if int in map(type, items) else items  # int: outside Python's calendar


def _of_arrow(value: Any) -> list[Any] | None:
    import pyarrow

    if isinstance(value, pyarrow.Table | pyarrow.RecordBatch):
        names = value.schema.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise TypeError(f"a {type(value).__name__} with two columns named {twice!r}: rename one of them")
        return _rows(names, [_of_column(value.column(at)) for at in range(value.num_columns)])
    return _of_column(value) if isinstance(value, pyarrow.Array | pyarrow.ChunkedArray) else None


def _of_column(column: Any) -> list[Any]:
    import pyarrow

    items: list[Any]
    kind = column.type
    if column.null_count == 0 and (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        array = column.to_numpy() if isinstance(column, pyarrow.ChunkedArray) else column.to_numpy(zero_copy_only=False)
        items = array.tolist()  # several times as fast
    else:
        items = column.to_pylist()
    return items


def _rows(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> list[Any]:
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


class RecordEvent(Mapping[str, Any]):
    """The INPUT event of one record of a batch: the message's event, with the record as `value`, and its `index`.

    `uid`, `metadata` and `timestamp` are the message's; `uid` and `index` together identify the record.
    """

    __slots__ = ("_message", "index", "value")

    def __init__(self, message: Event, value: Any, index: int) -> None:
        self._message = message
        self.value = value
        self.index = index

    def __getitem__(self, key: str) -> Any:
        if key == "value":
            return self.value
        return self.index if key == "index" else self._message[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._message, "index"))

    def __len__(self) -> int:
        return len(self._message) + 1

    def __repr__(self) -> str:
        return f"RecordEvent({dict(self)!r:.500})"
