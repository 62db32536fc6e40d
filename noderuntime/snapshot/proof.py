"""Checks that a snapshot gives what its cut held: keys, values, payloads. Pure.

Checksums of parts show that what was written is read back. They do not show that the right records were written: an
incremental snapshot that leaves out a changed record is whole, but wrong. So the manifest also describes all records
of the cut, including those that an incremental snapshot takes from its parents:

- `keys`, `keys_crc`: how many there are, and the CRC-32 over all keys in order;
- `content`: the sum, modulo 2^64, of the CRC-32 of each record (`record_crc`). A sum, because it needs no order.

Payloads of large messages are split into chunks. The key of a chunk holds its size and a digest of its bytes, so a
changed chunk is another record, and a damaged one is detected by itself. Each message or dead letter that refers to a
segment must find chunks for its whole length.

Snapshots of format 1 have neither `content` nor size and digest in their chunks' keys. Their payloads must be long
enough too; other faults in them cannot be detected.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgpack

from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot.format import CONTENT_MODULUS, Manifest
from noderuntime.space import keys, records
from noderuntime.space.segments import REFERENCE

SEGMENT_PREFIX: Final = b"\xff"  # after all prefixes of the space
DIGEST_BYTES: Final = 16
_CHUNK = struct.Struct(f">cHIQQI{DIGEST_BYTES}s")
_CHUNK_1 = struct.Struct(">cHIQQ")  # of format 1: without size and digest

_MESSAGE = b"m"[0]
_DEAD = b"d"[0]

Payload = tuple[int, int, int]  # owner, number, generation


def record_crc(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))


def chunk_key(payload: Payload, offset: int, chunk: bytes) -> bytes:
    """The key of the bytes of a payload that begin at `offset`."""
    return _CHUNK.pack(SEGMENT_PREFIX, *payload, offset, len(chunk), _digest(chunk))


def parse_chunk(key: bytes) -> tuple[Payload, int]:
    """The payload that a chunk is a part of, and its offset there."""
    _, owner, number, generation, offset = _CHUNK_1.unpack_from(key)
    return (owner, number, generation), offset


def _digest(chunk: bytes) -> bytes:
    return hashlib.blake2b(chunk, digest_size=DIGEST_BYTES).digest()


def needed_payload(key: bytes, value: bytes) -> tuple[Payload, int] | None:
    """The payload that a message or dead letter refers to, and how many bytes of it."""
    if key[0] == _MESSAGE:
        if keys.is_pack(key):  # messages with a payload lie alone
            return None
        message = value
    elif key[0] == _DEAD:
        message = msgpack.unpackb(value)["message"]
    else:
        return None
    if not message[1]:
        return None
    owner, number, generation, length = REFERENCE.unpack(records.reference_of(message))
    return (owner, number, generation), length


@dataclass(frozen=True, slots=True)
class Looked:
    """Facts of one record: its CRC, and the part of a payload that it is, or needs (from offset 0)."""

    crc: int
    payload: Payload | None = None
    offset: int = 0
    length: int = 0


def _is_chunk(key: bytes) -> bool:
    return key[:1] == SEGMENT_PREFIX


def look(snapshot: str, key: bytes, value: bytes) -> Looked:
    """The facts of a record. Raises SnapshotCorrupt for a chunk that does not match its key."""
    crc = record_crc(key, value)
    if _is_chunk(key):
        payload, offset = parse_chunk(key)
        if len(key) == _CHUNK.size:
            size, digest = _CHUNK.unpack(key)[-2:]
            if size != len(value) or digest != _digest(value):
                raise SnapshotCorrupt(snapshot, f"{_named(payload)} is altered: the checksum differs")
        return Looked(crc, payload, offset, len(value))
    needed = needed_payload(key, value)
    return Looked(crc) if needed is None else Looked(crc, needed[0], 0, needed[1])


class Proof:
    """Takes all records of a snapshot, in the order of their keys, and compares them with its manifest.

    Raises SnapshotCorrupt.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._name = str(manifest.number)
        self._count = 0
        self._crc = 0
        self._content = 0
        self._needed: dict[Payload, int] = {}
        self._chunks: dict[Payload, list[tuple[int, int]]] = {}

    def add(self, key: bytes, value: bytes) -> None:
        self.add_looked(key, look(self._name, key, value))

    def add_looked(self, key: bytes, looked: Looked) -> None:
        self._count += 1
        self._crc = zlib.crc32(key, self._crc)
        self._content += looked.crc
        payload = looked.payload
        if payload is None:
            return
        if _is_chunk(key):
            self._chunks.setdefault(payload, []).append((looked.offset, looked.length))
        else:
            self._needed[payload] = max(looked.length, self._needed.get(payload, 0))

    def finish(self) -> None:
        manifest = self._manifest
        if (self._count, self._crc) != (manifest.keys, manifest.keys_crc):
            what = f"it gives {self._count} keys instead of {manifest.keys}, or other ones"
            raise SnapshotCorrupt(self._name, what)
        if manifest.content is not None and self._content % CONTENT_MODULUS != manifest.content:
            raise SnapshotCorrupt(self._name, "it gives other values than there were when it was taken")
        for payload, length in self._needed.items():
            whole = 0
            for offset, size in sorted(self._chunks.get(payload, ())):
                if offset <= whole:
                    whole = max(whole, offset + size)
            if whole < length:
                what = f"{_named(payload)} has {whole} bytes, and a message refers to {length}"
                raise SnapshotCorrupt(self._name, what)


def _named(payload: Payload) -> str:
    owner, number, _ = payload
    return f"payload {owner}-{number}"


def prove(manifest: Manifest, batches: Iterable[list[tuple[bytes, bytes | None]]], in_order: bool) -> None:
    """Compare the records that `Backend.read` gives with the manifest. Raises SnapshotCorrupt.

    `in_order`: the keys come in order, and none comes twice. Otherwise the facts of each record are kept until the end,
    but not its value.
    """
    proof = Proof(manifest)
    held: dict[bytes, Looked] = {}
    for items in batches:
        for key, value in items:
            if value is None:
                held.pop(key, None)
            elif in_order:
                proof.add(key, value)
            else:
                held[key] = look(str(manifest.number), key, value)
    for key in sorted(held):
        proof.add_looked(key, held[key])
    proof.finish()
