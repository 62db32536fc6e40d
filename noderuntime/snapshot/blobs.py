"""Snapshots as named blobs: the common part of directories (directory.py) and object stores (objects.py).

    0000000012.json                     the manifest of snapshot 12: it exists as soon as this does
    0000000012-5f3a9c21b00710ad-0000.part   a part of it; the middle is the owner's and the save's, so no two saves
                                        share a name (an owner is told by 8 digits; one that is not known, by none)

A save puts its parts, then its manifest. Only a blob that does not exist yet can be put: of two writers that both try
to write number 12, one gets SnapshotConflict. Parts that no manifest names were left by an interrupted save, or belong
to one that is under way: `tidy` removes those of an owner whose saves are known to be over, `prune` those of published
numbers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from noderuntime.errors import SnapshotCorrupt, StoreError
from noderuntime.snapshot.backend import Listed, SnapshotConflict, SnapshotGone, saviour
from noderuntime.snapshot.cut import Walked
from noderuntime.snapshot.format import (
    MANIFEST_BYTES_MAX,
    RECORDS,
    Manifest,
    Part,
    parse_manifest,
    read_frames,
)
from noderuntime.snapshot.older import Looked
from noderuntime.snapshot.proof import prove
from noderuntime.snapshot.retention import to_keep

CHAIN_MAX = 24  # incremental snapshots on top of a full one
CHAIN_SHARE = 0.5  # the size of all of them together may reach this share of the full one
FULL_BYTES_MIN = 64 * 1024  # below this size a full snapshot costs no more than an incremental one

_MANIFEST = re.compile(r"(\d{10})\.json")
_OWNED = re.compile(r"(\d{10})-([0-9a-f]{8})[0-9a-f]{8}-\d+\.part")
_LEFTOVER = re.compile(r"(\d{10})(-[0-9a-f]+-\d+\.part|\.json\.\d+\.tmp)")


class Blobs(Protocol):
    """Named blobs in one place. Names hold no slash. Errors are SnapshotUnavailable, and FileNotFoundError."""

    place: str

    def put_file(self, name: str, path: Path) -> None:
        """Make a blob of a local file, durably, and remove the file. FileExistsError when the name is taken."""

    def put(self, name: str, data: bytes) -> None:
        """Make a small blob, durably and at once. FileExistsError when the name is taken."""

    def get(self, name: str) -> Iterator[bytes]:
        """The content, in chunks."""

    def names(self) -> dict[str, int]:
        """All names, with sizes in bytes."""

    def delete(self, names: list[str]) -> None:
        """Remove blobs. Missing ones are not an error."""

    def close(self) -> None: ...


def manifest_name(number: int) -> str:
    return f"{number:010d}.json"


class BlobBackend:
    """The Backend over Blobs."""

    def __init__(self, blobs: Blobs, spool: Path) -> None:
        self.blobs = blobs
        self.place = blobs.place
        self.spool = spool
        self.warn: Callable[[str], None] = lambda text: None
        self._own: dict[int, Manifest] = {}  # the manifests that this object has published
        self._facts = Looked(self)

    # --- looking ----------------------------------------------------------------------------------------------------

    def snapshots(self) -> list[Listed]:
        found = []
        for name in sorted(self.blobs.names(), reverse=True):
            match = _MANIFEST.fullmatch(name)
            if match:
                number = int(match[1])
                try:
                    found.append(Listed(number, self.stored(number)))
                except SnapshotGone:
                    continue
                except SnapshotCorrupt as error:
                    found.append(Listed(number, None, error.what))
        return found

    def stored(self, number: int) -> Manifest:
        name = manifest_name(number)
        stored = bytearray()
        try:
            for chunk in self.blobs.get(name):
                stored += chunk
                if len(stored) > MANIFEST_BYTES_MAX:
                    raise SnapshotCorrupt(str(number), "its manifest is altered: it is too large")
        except FileNotFoundError:
            raise SnapshotGone(number, self.place) from None
        manifest = parse_manifest(str(number), bytes(stored))
        if manifest.number != number:
            raise SnapshotCorrupt(str(number), f"its manifest is that of snapshot {manifest.number}")
        return manifest

    def _chain(self, number: int) -> list[Manifest]:
        """The manifests to apply one after the other, each bound to the one before it by checksum."""
        last = self.stored(number)
        chain = [self._parent(last, parent) for parent in last.chain]
        chain.append(last)
        for parent, child in zip([None, *chain], chain, strict=False):
            wanted = parent.sha256 if parent is not None else ""
            if child.parent_sha256 != wanted:
                raise SnapshotCorrupt(str(number), f"snapshot {child.number}, which it builds on, is another one now")
        return chain

    def _parent(self, child: Manifest, number: int) -> Manifest:
        try:
            return self.stored(number)
        except SnapshotCorrupt as error:
            text = f"snapshot {number}, which it builds on, cannot be used: {error.what}"
            raise SnapshotCorrupt(str(child.number), text) from None

    def read(self, number: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
        for manifest in self._chain(number):
            # deleted keys first: in one snapshot, no key is both in a part of records and in a part of deleted keys
            for part in sorted(manifest.parts, key=lambda part: part.kind == RECORDS):
                for items in self._frames(number, part):
                    if part.kind == RECORDS:
                        yield list(zip(items[::2], items[1::2], strict=True))
                    else:
                        yield [(key, None) for key in items]

    def _frames(self, number: int, part: Part) -> Iterator[list[bytes]]:
        try:
            yield from read_frames(str(number), part, self.blobs.get(part.name))
        except FileNotFoundError:
            raise SnapshotCorrupt(str(number), f"part {part.name} is missing") from None

    def verify(self, number: int) -> Manifest:
        manifest = self.stored(number)
        prove(manifest, self.read(number), in_order=manifest.full)
        return manifest

    def may_build_on(self, manifest: Manifest) -> bool:
        """Not on a snapshot of another writer, an obviously damaged one, or a chain that is too long to be worth it."""
        chain = [self._own.get(number) for number in (*manifest.chain, manifest.number)]
        if len(chain) > CHAIN_MAX:
            return False
        sizes = self.blobs.names()
        grown = 0
        for link in chain:
            if link is None or manifest_name(link.number) not in sizes:
                return False
            if any(sizes.get(part.name) != part.size_bytes for part in link.parts):
                return False
            grown += link.size_bytes if link.chain else 0
        full = chain[0]
        if full is None or full.size_bytes < FULL_BYTES_MIN:
            return False
        return grown <= CHAIN_SHARE * full.size_bytes

    # --- writing ----------------------------------------------------------------------------------------------------

    def save(self, manifest: Manifest, walked: Walked) -> Manifest:
        done: list[str] = []
        stored = replace(manifest, parts=tuple(part for part, _ in walked.parts))
        packed = stored.pack()
        try:
            for part, path in walked.parts:
                self.blobs.put_file(part.name, path)
                done.append(part.name)
            self.blobs.put(manifest_name(manifest.number), packed)
        except FileExistsError:
            self._discard(done, walked)
            raise SnapshotConflict(self.place, manifest.number) from None
        except BaseException:
            if not self._may_be_published(manifest.number, packed):
                self._discard([], walked)
            raise
        own = self._own[manifest.number] = parse_manifest(str(manifest.number), packed)
        return own

    def _may_be_published(self, number: int, packed: bytes) -> bool:
        """Whether a failed save may have been published with only its answer lost. Then its parts must stay."""
        try:
            return self.stored(number).pack() == packed
        except SnapshotCorrupt:
            return False
        except StoreError:  # unknown now; if it was not published, the next prune removes the parts
            return True

    def _discard(self, names: list[str], walked: Walked) -> None:
        for _, path in walked.parts:
            with contextlib.suppress(OSError):
                path.unlink()
        if names:
            self.blobs.delete(names)

    def tidy(self, owner: str) -> None:
        found = {name: match for name in self.blobs.names() if (match := _OWNED.fullmatch(name))}
        own = {name: int(match[1]) for name, match in found.items() if match[2] == owner}
        if not own:
            return
        listed = self.snapshots()
        used = {part.name for item in listed if item.manifest is not None for part in item.manifest.parts}
        damaged = {item.number for item in listed if item.manifest is None}
        self.blobs.delete([name for name, number in own.items() if name not in used and number not in damaged])

    def prune(self, keep: int) -> list[int]:
        names = self.blobs.names()
        numbers = sorted((int(m[1]) for m in map(_MANIFEST.fullmatch, names) if m), reverse=True)
        if not numbers:
            return []
        readable = {}
        for number in numbers:
            with contextlib.suppress(SnapshotCorrupt):
                readable[number] = self.stored(number)
        known = {number: readable.get(number) for number in numbers}
        kept = to_keep(known, keep, self._facts)
        needed = kept.all
        spared = saviour(self, known, kept)
        if spared is not None:
            self.warn(f"the newest snapshots in {self.place} are damaged; {spared} is kept")
            needed.add(spared)
        needed.update(*(readable[number].chain for number in needed if number in readable))
        # the oldest first: what is gone must not come back as the last snapshot of its run, if this is interrupted
        superfluous = [number for number in reversed(numbers) if number not in needed]
        used = {
            part.name
            for number, manifest in readable.items()
            if number not in superfluous
            for part in manifest.parts
        }
        damaged = {number for number in numbers if number not in readable and number not in superfluous}
        removed = [manifest_name(number) for number in superfluous]
        # manifests first: an interrupted prune leaves parts without a manifest, never a manifest without its parts
        self.blobs.delete(removed)
        orphans = [
            name
            for name in names
            if (match := _LEFTOVER.fullmatch(name))
            and int(match[1]) <= numbers[0]
            and name not in used
            and int(match[1]) not in damaged
        ]
        self.blobs.delete(orphans)
        for number in superfluous:
            self._own.pop(number, None)
        return superfluous

    def close(self) -> None:
        self.blobs.close()
