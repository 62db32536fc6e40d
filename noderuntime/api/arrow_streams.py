"""Streams of Arrow's format that hold one array, made and read without a writer and a reader, which cost 20 us each.

A stream is its schema, dictionaries, batches and an end. Where a type has no dictionary, the stream of one small batch
is its schema, whose bytes are known from the last array of that type, the batch, and the end.

pyarrow is imported by the first array only.
"""

from __future__ import annotations

from typing import Any, Final

END: Final = b"\xff\xff\xff\xff\0\0\0\0"
LARGE_BYTES: Final = 1 << 16  # joined, the bytes are copied once more
MOST: Final = 256  # types that are known at a time

_by_type: dict[Any, tuple[Any, bytes]] = {}  # the schema of one column of a type, and its bytes
_by_bytes: dict[bytes, Any] = {}  # schemas by their bytes


def joined(array: Any) -> bytes:
    """The stream of an array; b"" where it takes a writer."""
    import pyarrow

    if array.nbytes > LARGE_BYTES:
        return b""
    kind = array.type
    try:
        found = _by_type.get(kind)
    except TypeError:  # some extension types have no hash
        return b""
    if found is None:
        if not _is_plain(kind):
            return b""
        schema = pyarrow.schema([pyarrow.field("", kind)])
        found = schema, bytes(schema.serialize())
        if len(_by_type) >= MOST:
            _by_type.clear()
        _by_type[kind] = found
    batch = pyarrow.RecordBatch.from_arrays([array], schema=found[0])
    return b"".join((found[1], batch.serialize(), END))


def taken_apart(body: Any) -> Any:
    """The array of a stream, as a view of `body`; None where it takes a reader."""
    import pyarrow

    start = _schema_end(body)
    schema = _by_bytes.get(bytes(body[:start]))
    if schema is None:
        return None
    stream = pyarrow.BufferReader(pyarrow.py_buffer(body))
    stream.seek(start)
    batch = pyarrow.ipc.read_record_batch(pyarrow.ipc.read_message(stream), schema)
    if len(body) - stream.tell() > len(END):  # there is a second batch
        return None
    return batch.column(0)


def note(schema: Any, body: Any) -> None:
    """`body` is a stream of one column that was read with a reader: the next one like it needs none."""
    if _is_plain(schema.field(0).type):
        if len(_by_bytes) >= MOST:
            _by_bytes.clear()
        _by_bytes[bytes(body[: _schema_end(body)])] = schema


def _schema_end(body: Any) -> int:
    """Where the schema of a stream ends: four bytes that begin a message, the length of its metadata, these."""
    return 8 + int.from_bytes(body[4:8], "little")


def _is_plain(kind: Any) -> bool:
    text = str(kind)  # of all it is made of
    return "dictionary" not in text and "extension" not in text
