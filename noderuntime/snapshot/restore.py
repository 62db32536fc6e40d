"""Restores a snapshot into a space, on this machine or on another one.

The space is built beside its place and moved there when it is whole, so an interrupted restore has no effect. Values of
the old machine are translated: the sequence base goes above everything in the snapshot, the space's clock continues
from where it was (timers count from it), and times since the machine's boot are set to now.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack

from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot.backend import Backend, Listed
from noderuntime.snapshot.format import Manifest
from noderuntime.snapshot.proof import SEGMENT_PREFIX, Proof, parse_chunk
from noderuntime.space import keys, lives, records
from noderuntime.space.environment import FORMATS, Space, create
from noderuntime.space.segments import segment_path, sizes
from noderuntime.space.transactions import WriteTxn

_OWN_FACTS = {keys.fact(name) for name in ("format", "base", "boot", "store", "wall_ns", "boot_ns")}
_FORMAT = keys.fact("format")
_BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Restored:
    """Which snapshot was restored, and the newer ones that could not be used: one text for each."""

    manifest: Manifest
    skipped: tuple[str, ...]


def restore_newest(
    backend: Backend, folder: Path, size_bytes: int, boot_id: str, number: int | None = None
) -> Restored | None:
    """Make the space at `folder` from the newest good snapshot, or from `number`. None: there is no snapshot at all.
    The newest is never one that is kept aside: see retention.py.

    Raises SnapshotCorrupt if there are snapshots but none can be used; StoreFull if `size_bytes` is too little.
    """
    listed = backend.snapshots()
    if number is not None:
        there = ", ".join(str(item.number) for item in listed) or "none"
        listed = [item for item in listed if item.number == number]
        if not listed:
            raise SnapshotCorrupt(str(number), f"there is no such snapshot in {backend.place}, which has: {there}")
    else:
        listed = [item for item in listed if item.manifest is None or not item.manifest.aside]
    skipped: list[str] = []
    for item in listed:
        try:
            return Restored(_restore(backend, item, folder, size_bytes, boot_id, skipped), tuple(skipped))
        except SnapshotCorrupt as error:
            skipped.append(f"snapshot {item.number}: {error.what}")
    if not listed:
        return None
    raise SnapshotCorrupt(
        ", ".join(str(item.number) for item in listed),
        f"none in {backend.place} is whole ({'; '.join(skipped)})",
    )


def _restore(
    backend: Backend, item: Listed, folder: Path, size_bytes: int, boot_id: str, skipped: list[str]
) -> Manifest:
    manifest = item.manifest
    if manifest is None:
        raise SnapshotCorrupt(str(item.number), item.problem)
    building = folder.with_name(f"{folder.name}.restoring")
    segments = _Segments(folder.with_name("segments"))
    shutil.rmtree(building, ignore_errors=True)
    building.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        space = create(building, size_bytes, boot_id)
        try:
            own_facts = _apply(space, segments, backend, item.number)
            _check(space, own_facts, segments, manifest)
            _translate(space, manifest, own_facts, skipped)
            segments.finish(space)
        finally:
            space.close()
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        segments.discard()
        raise
    building.rename(folder)
    return manifest


class _Segments:
    """Writes the payload segments of a snapshot back into files. The folder is made only if there are any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live: dict[bytes, int] = {}  # key -> size of the chunk
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted restore

    def apply(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.live.pop(key, None)
            return
        self.live[key] = len(value)
        (owner, number, _), offset = parse_chunk(key)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(segment_path(self.folder, owner, number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, value, offset)
        finally:
            os.close(fd)

    def chunks(self) -> Iterator[tuple[bytes, bytes]]:
        """The chunks that were applied, as the files hold them now."""
        for key in sorted(self.live):
            (owner, number, _), offset = parse_chunk(key)
            with open(segment_path(self.folder, owner, number), "rb") as file:
                file.seek(offset)
                yield key, file.read(self.live[key])

    def finish(self, space: Space) -> None:
        """Give the files their sizes, and remove those that no message refers to."""
        wanted = {parse_chunk(key)[0][:2] for key in self.live}
        with space.read() as txn:
            for owner, number, size in sizes(txn):
                path = segment_path(self.folder, owner, number)
                if (owner, number) in wanted:
                    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                    try:
                        os.posix_fallocate(fd, 0, size)
                    finally:
                        os.close(fd)
                else:
                    path.unlink(missing_ok=True)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _apply(space: Space, segments: _Segments, backend: Backend, number: int) -> dict[bytes, bytes]:
    """Apply a snapshot. Returns the records that are not applied, because each space has its own."""
    own_facts: dict[bytes, bytes] = {}
    batch: list[tuple[bytes, bytes | None]] = []
    size = 0
    for items in backend.read(number):
        for key, value in items:
            if key[:1] == SEGMENT_PREFIX:
                segments.apply(key, value)
            elif key in _OWN_FACTS and value is not None:
                own_facts[key] = value
            else:
                batch.append((key, value))
                size += len(key) + len(value or b"")
        if size >= _BATCH_BYTES:
            _write(space, batch)
            batch, size = [], 0
    _write(space, batch)
    return own_facts


def _write(space: Space, batch: list[tuple[bytes, bytes | None]]) -> None:
    with space.write() as txn:
        for key, value in batch:
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)


def _check(space: Space, own_facts: dict[bytes, bytes], segments: _Segments, manifest: Manifest) -> None:
    """Check the restored space against the manifest: whole parts do not show that all the right parts were there."""
    proof = Proof(manifest)
    with space.read() as txn:
        for key, value in txn.cursor():
            proof.add(key, own_facts.get(key, value))
    for key, chunk in segments.chunks():
        proof.add(key, chunk)
    proof.finish()


def _translate(space: Space, manifest: Manifest, own_facts: dict[bytes, bytes], skipped: list[str]) -> None:
    boot_now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    # the clock must not go back to before the cut, even if this machine's wall clock does
    elapsed_ns = max(time.time_ns(), manifest.clock_ns) - manifest.wall_ns
    with space.write() as txn:
        txn.put(_FORMAT, own_facts.get(_FORMAT, msgpack.packb(FORMATS[0])))  # it says what the records are like
        txn.put(keys.fact("base"), msgpack.packb(manifest.cut))
        txn.put(keys.fact("wall_ns"), msgpack.packb(manifest.wall_ns))
        txn.put(keys.fact("boot_ns"), msgpack.packb(boot_now_ns - elapsed_ns))
        _restart_timeouts(txn, boot_now_ns)
        about = {"number": manifest.number, "created_ns": manifest.created_ns, "skipped": skipped}
        txn.put(keys.fact("resumed"), msgpack.packb(about))


def _restart_timeouts(txn: WriteTxn, boot_now_ns: int) -> None:
    """Inputs with a timeout record when their last message came, in time since boot: set it to now."""
    for node_entry in lives.load(txn).values():
        record = lives.node_record(txn, node_entry.number)
        for number, source in node_entry.inputs.values():
            counter = records.input_counter(number)
            if source and counter < len(record.counters) and record.counters[counter]:
                record.counters[counter] = boot_now_ns
        txn.put(keys.node(node_entry.number), record.pack())
