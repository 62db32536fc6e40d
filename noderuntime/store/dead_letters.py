"""The store's operations on dead letters.

A letter that is replayed goes to the end of the mailbox, and its attempts are forgotten.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack

from noderuntime.dataflow.identifiers import node_of
from noderuntime.ipc.store_records import (
    Dropped,
    Letters,
    LettersNamed,
    LettersOf,
    PlainLetter,
    Replayed,
    ShownLetter,
    ShownLetters,
    ShownMessage,
)
from noderuntime.space import dead_letters, records
from noderuntime.space.dead_letters import Letter
from noderuntime.space.environment import Space
from noderuntime.space.lives import NodeEntry, Registry
from noderuntime.space.segments import read_segment
from noderuntime.space.transactions import ReadTxn, WriteTxn
from noderuntime.store.dispatch import Given, Result, taking_txn

LISTED_MAX: Final = 10_000
SHOWN_BYTES_MAX: Final = 8 << 20  # in one reply
SHOWN_VALUE_BYTES_MAX: Final = 256 * 1024  # a larger value is described, not shown


class LetterOperations:
    """The operations, on an open space. `rings` holds whom to ring after the transaction.

    `run_has_ended`: this is a store process for one command, on a run that does not run.
    """

    def __init__(
        self, space: Space, registry: Callable[[], Registry], node_entry: Callable[[str], NodeEntry]
    ) -> None:
        self.space = space
        self.rings: set[int] = set()
        self.run_has_ended = False
        self._registry = registry
        self._node_entry = node_entry
        self.changes: dict[str, Callable[[WriteTxn, Given], Result]] = {
            "letters_replay": taking_txn(LettersNamed, self.replay),
            "letters_drop": taking_txn(LettersNamed, self.drop),
        }
        self.queries: dict[str, Callable[[ReadTxn, Given], Result]] = {
            "letters_ls": taking_txn(LettersOf, self.ls),
            "letters_show": taking_txn(LettersNamed, self.show),
        }

    def ls(self, txn: ReadTxn, asked: LettersOf) -> Letters:
        entries = self._entries(asked.node) if asked.node else list(self._registry().values())
        found = [head(entry, letter) for entry in entries for letter in dead_letters.letters(txn, entry.number)]
        return {"letters": found[:LISTED_MAX], "left_out": max(0, len(found) - LISTED_MAX)}

    def show(self, txn: ReadTxn, asked: LettersNamed) -> ShownLetters:
        found: list[ShownLetter] = []
        chosen = [
            (node_entry, letter)
            for node_entry, uids in self._chosen(txn, asked)
            for letter in dead_letters.chosen(txn, node_entry, uids)
        ]
        size = 0
        for node_entry, letter in chosen:
            told: ShownLetter = {
                **head(node_entry, letter), "trace": letter.trace, **shown(letter.message, self.space),
            }  # fmt: skip
            size += len(msgpack.packb(told))
            if size > SHOWN_BYTES_MAX:
                break
            found.append(told)
        return {"letters": found, "left_out": len(chosen) - len(found)}

    def replay(self, txn: WriteTxn, asked: LettersNamed) -> Replayed:
        ended_run = self._registry() if self.run_has_ended else None
        replayed = 0
        for node_entry, uids in self._chosen(txn, asked):
            replayed += dead_letters.replay(txn, self.space, node_entry, uids, ended_run)
            self.rings.add(node_entry.number)
        return {"replayed": replayed}

    def drop(self, txn: WriteTxn, asked: LettersNamed) -> Dropped:
        return {
            "dropped": sum(dead_letters.drop(txn, node_entry, uids) for node_entry, uids in self._chosen(txn, asked))
        }

    def _entries(self, node: str) -> list[NodeEntry]:
        """A node, or all its replicas."""
        first = self._node_entry(node)
        return [entry for entry in self._registry().values() if entry.id == node or node_of(entry.id) == first.id]

    def _chosen(self, txn: ReadTxn, asked: LettersNamed) -> list[tuple[NodeEntry, list[str]]]:
        """Which of its replicas has which of the letters that are asked for; no uids: all of them."""
        entries = self._entries(asked.node)
        if not asked.uids or len(entries) == 1:
            return [(entry, list(asked.uids)) for entry in entries]
        known = {letter.uid: entry for entry in entries for letter in dead_letters.letters(txn, entry.number)}
        found: dict[str, tuple[NodeEntry, list[str]]] = {}
        for uid in asked.uids:
            entry = known.get(uid, entries[0])  # which says that it has no such letter
            found.setdefault(entry.id, (entry, []))[1].append(uid)
        return list(found.values())


def head(node_entry: NodeEntry, letter: Letter) -> PlainLetter:
    """What a list says of a letter."""
    return {
        "node": node_of(node_entry.id),
        "input": letter.input,
        "uid": letter.uid,
        "error": letter.error,
        "attempts": letter.attempts,
        "buried_ns": letter.buried_ns,
        "bytes": records.message_bytes(letter.message),
    }


def shown(message: bytes, space: Space) -> ShownMessage:
    """`value` and `metadata` of a message, as JSON has them; bytes as base64, what is large or foreign as text."""
    if records.message_bytes(message) > SHOWN_VALUE_BYTES_MAX and not message[1]:
        return {"metadata": {}, "value": f"{records.message_bytes(message)} bytes, too many to be shown"}
    try:
        body = None
        if message[1]:
            body = read_segment(_segments_of(space), records.reference_of(message))
        _, value, metadata, _, _ = records.decode_message(message, body)
        plain: ShownMessage = {"metadata": _plain(metadata), "value": _plain(value)}
        if len(msgpack.packb(plain)) > SHOWN_VALUE_BYTES_MAX:
            return {"metadata": {}, "value": f"{records.message_bytes(message)} bytes, too many to be shown"}
        return plain
    except Exception as error:  # a value whose library is missing here must not keep the others from being shown
        return {"metadata": {}, "value": f"cannot be shown: {type(error).__name__}: {error}"}


def _segments_of(space: Space) -> Path:
    return space.folder.parent / "segments"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        # a node in another language may have sent a map with other keys than text
        return {key if isinstance(key, str) else repr(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bytes | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if type(value).__module__ == "numpy":
        return f"array of {value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} of {len(value)} rows"
