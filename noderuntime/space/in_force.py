"""The record of the dataflow in force (keys.IN_FORCE); what it has is told in store/changes.py."""

from __future__ import annotations

from typing import Any

import msgpack

from noderuntime.ipc.protocol import TEXT_ERRORS
from noderuntime.space import keys
from noderuntime.space.transactions import ReadTxn, WriteTxn


def in_force(txn: ReadTxn) -> dict[str, Any]:
    """The record; {} in a space of an earlier version. Paths in it need not be UTF-8."""
    packed = txn.get(keys.IN_FORCE)
    return msgpack.unpackb(packed, unicode_errors=TEXT_ERRORS) if packed else {}


def put_in_force(txn: WriteTxn, record: dict[str, Any]) -> None:
    """Write the record in the place of the one before."""
    txn.put(keys.IN_FORCE, msgpack.packb(record, unicode_errors=TEXT_ERRORS))
