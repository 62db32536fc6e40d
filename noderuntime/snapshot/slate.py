"""Snapshots in SlateDB, a log-structured store on an object store or a directory: `slatedb+s3://...`, `slatedb+./x`.
Needs the extra `noderuntime[slatedb]`. Only this backend can read an incremental snapshot without applying a chain:

    m NUMBER             the manifest of a snapshot
    r GENERATION KEY     a record: CRC-32 of key and value, then the value

A full snapshot begins a generation, with as many batches as it takes. An incremental one changes the generation of its
parent: newer records, deletions and the manifest are one atomic batch. Then the memtable is flushed, and a SlateDB
checkpoint named by the snapshot's number is made: the checkpoint publishes the snapshot, and keeps it readable while
later ones change the same rows. A save that is interrupted before its checkpoint leaves rows that nothing refers to: a
generation is never begun twice, and `prune` removes those that no snapshot needs. (Measured and rejected: trusting
`put`, which returns before anything is durable.)

Two writers: SlateDB fences the older one, which then gets SnapshotConflict.

In a directory SlateDB does not force anything to the disk. `save` does it afterwards, so a power cut during a save can
damage earlier snapshots. Where that matters, use a plain directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import os
import re
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot.backend import Listed, SnapshotConflict, SnapshotGone, SnapshotUnavailable, saviour
from noderuntime.snapshot.cut import Walked
from noderuntime.snapshot.format import RECORDS, Manifest, parse_manifest, read_frames
from noderuntime.snapshot.older import Looked
from noderuntime.snapshot.proof import prove
from noderuntime.snapshot.retention import to_keep

BATCH_BYTES = 8 << 20
ROWS_PER_CALL = 2000
CHAIN_MAX = 200
RETRIES_MAX = 8

_NAME = re.compile(r"\d{10}")
_ROW = struct.Struct("<I")
_GENERATION = struct.Struct(">cI")
_MANIFEST = struct.Struct(">cI")
_KINDS = {"s3": "S3", "az": "AZURE", "gs": "GCS"}

T = TypeVar("T")


class SlateBackend:
    """See the head of this module. `place`: a URL, or an absolute path."""

    def __init__(self, place: str, spool: Path, options: Mapping[str, Any]) -> None:
        self.place = f"slatedb+{place}"
        self.spool = spool
        self.warn: Callable[[str], None] = lambda text: None
        try:
            from slatedb import uniffi
        except ImportError:
            what = "slatedb is not installed. Try: pip install 'noderuntime[slatedb]'"
            raise SnapshotUnavailable(self.place, what) from None
        _copy_bytes_at_once()
        self._api: Any = uniffi
        self._folder = Path(place) if place.startswith("/") else None
        self._url = place
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._db: Any = None
        self._newest = 0
        self._generation = 0
        self._synced: set[tuple[str, int]] = set()
        self._facts = Looked(self)

    # --- opening ----------------------------------------------------------------------------------------------------

    def _store(self) -> Any:
        api = self._api
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            builder = api.ObjectStoreBuilder(api.ObjectStoreType.LOCAL)
            builder.with_config("local_path", str(self._folder))
            return builder.build()
        kind = getattr(api.ObjectStoreType, _KINDS[self._url.partition("://")[0]])
        builder = api.ObjectStoreBuilder.from_env(kind)
        builder.with_url(self._url)
        options = dict(self._options)
        if str(options.get("endpoint", "")).startswith("http://"):
            options.setdefault("allow_http", True)
        for key, value in options.items():
            builder.with_config(key, str(value).lower() if isinstance(value, bool) else str(value))
        return builder.build()

    @property
    def _path(self) -> str:
        return "snapshots" if self._folder is not None else urlsplit(self._url).path.strip("/")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run_until_complete(work)
        except self._api.Error.Closed as error:
            self._db = None
            if "fenced" in str(error).lower():
                raise SnapshotConflict(self.place, self._newest + 1) from None
            raise SnapshotUnavailable(self.place, _line(error)) from None
        except (self._api.Error, OSError) as error:
            hint = "Check the address, `snapshots: {options: ...}` and the credentials in the environment."
            raise SnapshotUnavailable(self.place, f"{_line(error)}. {hint}") from None

    async def _writer(self) -> Any:
        if self._db is None:
            settings = self._api.Settings.default()
            settings.set("object_store_max_retries", str(RETRIES_MAX))
            builder = self._api.DbBuilder(self._path, self._store())
            builder.with_settings(settings)
            self._db = await builder.build()
        return self._db

    def _admin(self) -> Any:
        return self._api.AdminBuilder(self._path, self._store()).build()

    async def _checkpoints(self) -> dict[int, str]:
        """Snapshot number -> id of its checkpoint; empty in a new place."""
        admin = self._admin()
        if await admin.read_manifest(None) is None:
            return {}
        found = await admin.list_checkpoints(None)
        return {int(item.name): item.id for item in found if item.name and _NAME.fullmatch(item.name)}

    @asynccontextmanager
    async def _reader(self, checkpoint: str) -> AsyncIterator[Any]:
        builder = self._api.DbReaderBuilder(self._path, self._store())
        builder.with_reader_mode(self._api.ReaderMode.CHECKPOINT(checkpoint))
        builder.with_options(
            self._api.ReaderOptions(
                manifest_poll_interval_ms=600_000,
                checkpoint_lifetime_ms=3_600_000,
                max_memtable_bytes=64 << 20,
                skip_wal_replay=True,
                object_store_max_retries=RETRIES_MAX,
            )
        )
        reader = await builder.build()
        try:
            yield reader
        finally:
            await reader.shutdown()

    def _all(self) -> Any:
        return self._api.KeyRange(start=None, start_inclusive=False, end=None, end_inclusive=False)

    # --- looking ----------------------------------------------------------------------------------------------------

    def snapshots(self) -> list[Listed]:
        return self._run(self._snapshots())

    async def _snapshots(self) -> list[Listed]:
        found = []
        for number, checkpoint in sorted((await self._checkpoints()).items(), reverse=True):
            try:
                found.append(Listed(number, await self._manifest(number, checkpoint)))
            except SnapshotCorrupt as error:
                if number in await self._checkpoints():
                    found.append(Listed(number, None, error.what))
        return found

    async def _manifest(self, number: int, checkpoint: str) -> Manifest:
        try:
            async with self._reader(checkpoint) as reader:
                return (await self._stored(reader, number))[0]
        except self._api.Error as error:
            raise SnapshotCorrupt(str(number), f"SlateDB cannot read it: {_line(error)}") from None

    async def _stored(self, reader: Any, number: int) -> tuple[Manifest, int]:
        """The manifest of a snapshot and its generation."""
        row = await reader.get(_MANIFEST.pack(b"m", number))
        if row is None:
            raise SnapshotCorrupt(str(number), "its manifest is missing")
        manifest = parse_manifest(str(number), row[_ROW.size :])
        return manifest, _ROW.unpack_from(row)[0]

    def read(self, number: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
        rows = self._rows(number, self._checkpoint(number))
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(rows))
                except StopAsyncIteration:
                    return
                except self._api.Error as error:
                    raise SnapshotCorrupt(str(number), f"SlateDB cannot read it: {_line(error)}") from None
        finally:
            with contextlib.suppress(self._api.Error):
                self._loop.run_until_complete(rows.aclose())

    async def _rows(self, number: int, checkpoint: str) -> Any:
        async with self._reader(checkpoint) as reader:
            manifest, generation = await self._stored(reader, number)
            prefix = _GENERATION.pack(b"r", generation)
            rows = await reader.scan_prefix(prefix, self._all())
            count = crc = 0
            while found := await rows.next_batch(ROWS_PER_CALL):
                batch: list[tuple[bytes, bytes | None]] = []
                for row in found:
                    key = bytes(row.key)[len(prefix) :]
                    value = bytes(row.value)[_ROW.size :]
                    if _ROW.unpack_from(row.value)[0] != zlib.crc32(value, zlib.crc32(key)):
                        raise SnapshotCorrupt(str(number), "a record is altered: the checksum differs")
                    count += 1
                    crc = zlib.crc32(key, crc)
                    batch.append((key, value))
                yield batch
            if (count, crc) != (manifest.keys, manifest.keys_crc):
                raise SnapshotCorrupt(str(number), f"it has {count} records instead of {manifest.keys}, or other ones")

    def verify(self, number: int) -> Manifest:
        manifest = self.stored(number)
        prove(manifest, self.read(number), in_order=True)
        return manifest

    def stored(self, number: int) -> Manifest:
        return self._run(self._manifest(number, self._checkpoint(number)))

    def _checkpoint(self, number: int) -> str:
        checkpoint = self._run(self._checkpoints()).get(number)
        if checkpoint is None:
            raise SnapshotGone(number, self.place)
        return checkpoint

    def may_build_on(self, manifest: Manifest) -> bool:
        return self._db is not None and manifest.number == self._newest and len(manifest.chain) < CHAIN_MAX

    # --- writing ----------------------------------------------------------------------------------------------------

    def save(self, manifest: Manifest, walked: Walked) -> Manifest:
        stored = replace(manifest, parts=tuple(replace(part, name="") for part, _ in walked.parts))
        try:
            published = self._run(self._save(stored, walked))
        finally:
            for _, path in walked.parts:
                with contextlib.suppress(OSError):
                    path.unlink()
        if self._folder is not None:
            self._sync(self._folder)
        self._newest = published.number
        return published

    async def _save(self, manifest: Manifest, walked: Walked) -> Manifest:
        number = manifest.number
        if self._db is None:
            newest = max(await self._checkpoints(), default=0)
            if newest >= number:
                raise SnapshotConflict(self.place, number)
        db = await self._writer()
        if manifest.full:  # this is the only writer now: rows without a checkpoint are left from failed saves
            await self._remove([], list(await self._checkpoints()))
        generation = await self._unused_generation(db) if manifest.full else self._generation
        batch = self._api.WriteBatch()
        size = 0
        for kind, key, value in _changes(number, walked):
            row = _GENERATION.pack(b"r", generation) + key
            if kind == RECORDS:
                batch.put(row, _ROW.pack(zlib.crc32(value, zlib.crc32(key))) + value)
                size += len(row) + len(value)
            else:
                batch.delete(row)
            if manifest.full and size >= BATCH_BYTES:
                await db.write(batch)
                batch, size = self._api.WriteBatch(), 0
        packed = manifest.pack()
        batch.put(_MANIFEST.pack(b"m", number), _ROW.pack(generation) + packed)
        written = await db.write(batch)
        await written.await_durable()
        await db.flush_with_options(self._api.FlushOptions(flush_type=self._api.FlushType.MEM_TABLE))
        options = self._api.CheckpointOptions(lifetime_ms=None, source=None, name=f"{number:010d}")
        await self._admin().create_detached_checkpoint(options)
        self._generation = generation
        return parse_manifest(str(number), packed)

    def _sync(self, folder: Path) -> None:
        """Force the files that are new since the last call to the disk."""
        try:
            for path in [folder, *sorted(folder.rglob("*"))]:
                with contextlib.suppress(FileNotFoundError):  # SlateDB's own garbage collection runs at the same time
                    found = (str(path), path.stat().st_mtime_ns)
                    if found in self._synced:
                        continue
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                    self._synced.add(found)
        except OSError as error:
            raise SnapshotUnavailable(self.place, f"{error.strerror}. Check the folder.") from None

    def tidy(self, owner: str) -> None:
        """Nothing to do: each full save does it, once SlateDB has fenced all other writers."""

    def prune(self, keep: int) -> list[int]:
        known = {item.number: item.manifest for item in self.snapshots()}
        kept = to_keep(known, keep, self._facts)
        needed = kept.all
        spared = saviour(self, known, kept)
        if spared is not None:
            self.warn(f"the newest snapshots in {self.place} are damaged; {spared} is kept")
            needed.add(spared)
        removed = sorted(set(known) - needed)  # the oldest first, as in blobs.py
        if removed or self._db is not None:
            self._run(self._remove(removed, sorted(needed)))
        return removed

    async def _remove(self, numbers: list[int], kept: list[int]) -> None:
        """Remove these snapshots, and all rows that belong to none of `kept`, including those that an interrupted save
        or prune has left."""
        db = await self._writer()
        checkpoints = await self._checkpoints()
        admin = self._admin()
        for number in numbers:
            await admin.delete_checkpoint(checkpoints[number])
        in_use = {self._generation}
        rows = await db.scan_prefix(b"m", self._all())
        batch = self._api.WriteBatch()
        superfluous = 0
        while found := await rows.next_batch(ROWS_PER_CALL):
            for row in found:
                _, number = _MANIFEST.unpack(row.key)
                if number in kept:
                    in_use.add(_ROW.unpack_from(row.value)[0])
                else:
                    batch.delete(row.key)
                    superfluous += 1
        if superfluous:
            await db.write(batch)
        for generation in await self._generations(db):
            if generation not in in_use:
                await self._drop(db, generation)

    async def _generations(self, db: Any) -> list[int]:
        """The generations that have rows, in order."""
        found: list[int] = []
        while True:
            start = _GENERATION.pack(b"r", found[-1] + 1 if found else 0)
            end = _GENERATION.pack(b"s", 0)
            rows = await db.scan(self._api.KeyRange(start=start, start_inclusive=True, end=end, end_inclusive=False))
            first = await rows.next_batch(1)
            if not first:
                return found
            found.append(_GENERATION.unpack_from(first[0].key)[1])

    async def _unused_generation(self, db: Any) -> int:
        """A generation without rows. A save that was interrupted before its checkpoint has left rows in its own."""
        return max([self._generation, *await self._generations(db)]) + 1

    async def _drop(self, db: Any, generation: int) -> None:
        rows = await db.scan_prefix(_GENERATION.pack(b"r", generation), self._all())
        while found := await rows.next_batch(ROWS_PER_CALL):
            batch = self._api.WriteBatch()
            for row in found:
                batch.delete(row.key)
            await db.write(batch)

    def close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(self._api.Error):
                self._loop.run_until_complete(self._db.shutdown())
            self._db = None
        self._loop.close()


def _changes(number: int, walked: Walked) -> Iterator[tuple[str, bytes, bytes]]:
    """(kind, key, value) of everything in the local files of a walk."""
    for part, path in walked.parts:
        with open(path, "rb") as file:
            for items in read_frames(str(number), part, iter(lambda: file.read(1 << 20), b"")):
                if part.kind == RECORDS:
                    for at in range(0, len(items), 2):
                        yield RECORDS, items[at], items[at + 1]
                else:
                    for key in items:
                        yield part.kind, key, b""


def _line(error: BaseException) -> str:
    text = getattr(error, "message", None) or str(error)
    return next((line for line in str(text).splitlines() if line.strip()), type(error).__name__)[:300]


def _copy_bytes_at_once() -> None:
    """SlateDB's binding copies a value byte by byte, in Python: 0.3 s for a megabyte. Let it use one memmove.

    Left alone if the binding looks different from the one that this was written for (0.17).
    """
    try:
        from slatedb.uniffi._slatedb_uniffi import slatedb as binding

        builder = binding._UniffiRustBufferBuilder
        source = inspect.getsource(builder.write)
    except (ImportError, AttributeError, OSError):
        return
    if "for i, byte in enumerate(value)" not in source or "_reserve" not in source:
        return

    def write(self: Any, value: bytes) -> None:
        with self._reserve(len(value)):
            address = ctypes.cast(self.rbuf.data, ctypes.c_void_p).value or 0
            ctypes.memmove(address + self.rbuf.len, bytes(value), len(value))

    builder.write = write
