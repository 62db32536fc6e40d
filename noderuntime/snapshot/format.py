"""The format of a snapshot: parts, and a manifest, which is written last. Pure.

A **part** is a file of frames, each `length, crc32` (two little-endian 32-bit numbers) and then MessagePack: a list
[key, value, key, value, ...] in a part of records, a list [key, ...] in a part of keys that are gone. Frames are small,
so that a torn one is noticed before it takes much memory. The manifest holds the SHA-256 and the size of each part.

A **manifest** is JSON, so that people can read it. Its last field is the SHA-256 of all others. A full snapshot holds
all records of its cut. An incremental one holds those that are newer than its parent's cut and the keys that are gone,
and names its parent's manifest by checksum, so that a chain cannot mix two histories. After all parts of a chain have
been applied, keys and values must be those that the last manifest describes (see proof.py): this also detects records
that are missing, or were left out although they had changed.

Format 2 added `content`, and sizes and digests in the keys of payloads; format 3 added `run_id`. Older ones are read.
Formats 4 and 5 are format 3 of spaces of format 2 (with packs, see noderuntime.space.packs) and 3 (with keyed states by
slot, see noderuntime.space.private): earlier versions would not find what is in them, and refuse it. Format 5 added
`dataflow`, too.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import msgpack

from noderuntime.errors import SnapshotCorrupt

FORMAT = 5
FORMAT_OF_SPACE = {1: 3, 2: 4, 3: FORMAT}  # by the format of the space
FORMATS = (1, 2, 3, 4, FORMAT)  # the formats that this version reads
FRAME_BYTES = 1 << 20  # a frame is closed when it has reached this
FRAME_BYTES_MAX = 1 << 30
PART_BYTES = 64 << 20  # a part is closed when it has reached this
MANIFEST_BYTES_MAX = 64 << 20

RECORDS, GONE = "records", "gone"
REPLAYED, DROPPED = "replayed", "dropped"  # why a command on the dead letters of an earlier run has made a snapshot

_FRAME = struct.Struct("<II")
CONTENT_MODULUS = 1 << 64
_INDEX_BLOCK_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a snapshot. `count`: how many records, or keys, it holds."""

    name: str
    kind: str
    size_bytes: int
    sha256: str
    count: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a snapshot. Sequences as in the space; `*_ns` are nanoseconds since the epoch.

    `number` counts the snapshots of one place, `chain` holds the numbers that this one builds on, the full one first.
    `counts` is what each node had taken, queued and sent at the cut (claims.figures). `finished`: all nodes had ended.
    `clock_ns`: the space's clock at the cut; `wall_ns`: at its creation. `run_id` as in OperatorContext: a run that is
    resumed keeps it. `dataflow` says which one was in force, since it can change while the run goes on: its "file", how
    many "changes" there had been, numbers of replicas that were "scaled", which nodes still "drain"; {} in earlier
    formats, and in a space that no run began.
    """

    run: str
    fingerprint: str
    number: int
    writer: str
    why: str
    created_ns: int
    base: int
    cut: int
    wall_ns: int
    clock_ns: int
    keys: int
    keys_crc: int
    finished: bool
    counts: dict[str, Any]
    parts: tuple[Part, ...] = ()
    chain: tuple[int, ...] = ()
    parent_sha256: str = ""
    growth_bytes: int = 0
    content: int | None = None  # None in format 1
    run_id: str = ""  # "" before format 3
    dataflow: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    sha256: str = field(default="", compare=False)

    @property
    def full(self) -> bool:
        return not self.chain

    @property
    def aside(self) -> bool:
        """Whether it was made of an earlier run's: see retention.py."""
        return self.why in (REPLAYED, DROPPED)

    @property
    def size_bytes(self) -> int:
        """What this snapshot added to the place where it is kept, its manifest aside."""
        return sum(part.size_bytes for part in self.parts)

    def pack(self) -> bytes:
        """The manifest as it is stored."""
        plain = asdict(self)
        del plain["sha256"]
        if self.format == 1:
            del plain["content"]
        if self.format < 3:
            del plain["run_id"]
        if self.format < 5:
            del plain["dataflow"]
        plain["sha256"] = hashlib.sha256(_canonical(plain)).hexdigest()
        return json.dumps(plain, indent=1).encode() + b"\n"


def _canonical(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def parse_manifest(name: str, stored: bytes) -> Manifest:
    """The manifest in `stored`. Raises SnapshotCorrupt for anything that `pack` has not written just so."""
    try:
        plain = json.loads(stored)
        claimed = plain.pop("sha256")
        version = plain["format"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise SnapshotCorrupt(name, "its manifest is torn or altered") from None
    if hashlib.sha256(_canonical(plain)).hexdigest() != claimed:
        raise SnapshotCorrupt(name, "its manifest is altered: the checksum differs")
    if version not in FORMATS:
        known = ", ".join(map(str, FORMATS))
        raise SnapshotCorrupt(name, f"it has format {version!r}, and this noderuntime reads {known}")
    try:
        parts = tuple(Part(**part) for part in plain.pop("parts"))
        chain = tuple(plain.pop("chain"))
        manifest = Manifest(**plain, parts=parts, chain=chain, sha256=claimed)
    except (KeyError, TypeError):
        raise SnapshotCorrupt(name, "its manifest does not have the fields of its format") from None
    if manifest.pack() != stored:  # white space is no part of the checksum
        raise SnapshotCorrupt(name, "its manifest is altered")
    return manifest


# --- parts ----------------------------------------------------------------------------------------------------------


class PartWriter:
    """Writes one part to an open file, and knows its size and checksum."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self.kind = kind
        self.size_bytes = 0
        self.count = 0
        self._file = file
        self._digest = hashlib.sha256()
        self._items: list[bytes] = []
        self._items_bytes = 0

    def add_record(self, key: bytes, value: bytes) -> None:
        self._items.append(key)
        self._items.append(value)
        self.count += 1
        self._items_bytes += len(key) + len(value)
        if self._items_bytes >= FRAME_BYTES:
            self.flush()

    def add_key(self, key: bytes) -> None:
        self._items.append(key)
        self.count += 1
        self._items_bytes += len(key)
        if self._items_bytes >= FRAME_BYTES:
            self.flush()

    def flush(self) -> None:
        """Close the frame."""
        if not self._items:
            return
        body = msgpack.packb(self._items, use_bin_type=True)
        head = _FRAME.pack(len(body), zlib.crc32(body))
        self._file.write(head)
        self._file.write(body)
        self._digest.update(head)
        self._digest.update(body)
        self.size_bytes += len(head) + len(body)
        self._items = []
        self._items_bytes = 0

    def finish(self, name: str) -> Part:
        self.flush()
        return Part(name, self.kind, self.size_bytes, self._digest.hexdigest(), self.count)


def read_frames(snapshot: str, part: Part, chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The frames of a part that comes in `chunks`, checked one by one, and the part as a whole at its end.

    Raises SnapshotCorrupt for what is torn, truncated or altered.
    """
    digest = hashlib.sha256()
    size = count = 0
    held = bytearray()
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        held += chunk
        at = 0
        while len(held) - at >= _FRAME.size:
            length, crc = _FRAME.unpack_from(held, at)
            if length > FRAME_BYTES_MAX:
                raise SnapshotCorrupt(snapshot, f"part {part.name} is altered: a frame of {length} bytes")
            if len(held) - at < _FRAME.size + length:
                break
            body = bytes(held[at + _FRAME.size : at + _FRAME.size + length])
            at += _FRAME.size + length
            items = _frame(snapshot, part, body, crc)
            count += len(items) // (2 if part.kind == RECORDS else 1)
            yield items
        del held[:at]
    if held or size != part.size_bytes:
        raise SnapshotCorrupt(snapshot, f"part {part.name} has {size} bytes instead of {part.size_bytes}")
    if digest.hexdigest() != part.sha256 or count != part.count:
        raise SnapshotCorrupt(snapshot, f"part {part.name} is altered: the checksum differs")


def _frame(snapshot: str, part: Part, body: bytes, crc: int) -> list[bytes]:
    if zlib.crc32(body) == crc:
        try:
            items = msgpack.unpackb(body, use_list=True, raw=False)
        except (ValueError, msgpack.exceptions.UnpackException):
            items = None
        if isinstance(items, list) and all(type(item) is bytes for item in items):
            return items
    raise SnapshotCorrupt(snapshot, f"part {part.name} is altered: a frame's checksum differs")


# --- the keys of a cut ----------------------------------------------------------------------------------------------


class KeyIndex:
    """All keys of a cut, in order, each with the CRC of its record, compressed in memory.

    From it the next cut learns which keys are gone, and which records have changed. `count`, `crc` (CRC-32 over all
    keys, one after the other) and `content` (see proof.py) go into the manifest.
    """

    def __init__(self) -> None:
        self.count = 0
        self.crc = 0
        self.content = 0
        self._blocks: list[bytes] = []
        self._last: list[tuple[bytes, int]] = []

    def add(self, key: bytes, record_crc: int) -> None:
        self._last.append((key, record_crc))
        if len(self._last) == _INDEX_BLOCK_KEYS:
            self._close_block()

    def _close_block(self) -> None:
        self.count += len(self._last)
        for key, record_crc in self._last:
            self.crc = zlib.crc32(key, self.crc)
            self.content += record_crc
        self.content %= CONTENT_MODULUS
        self._blocks.append(zlib.compress(msgpack.packb(self._last), 1))
        self._last = []

    def finish(self) -> None:
        if self._last:
            self._close_block()

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        for block in self._blocks:
            yield from map(tuple, msgpack.unpackb(zlib.decompress(block)))
        yield from self._last

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self._blocks))
