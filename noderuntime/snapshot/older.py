"""What retention.py wants to know of a snapshot. The manifests before format 3 do not say it: then it is read."""

from __future__ import annotations

from typing import Final

import msgpack

from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot.backend import Backend
from noderuntime.snapshot.format import Manifest
from noderuntime.snapshot.retention import Facts, facts_of
from noderuntime.space import keys

SAYS_ITS_RUN: Final = 3  # the format

_RUN_ID = keys.fact("outbox")
_DEAD = keys.dead_prefix(0)[:1]


class Looked:
    """Gives the facts of the snapshots of one backend. Reads each at most once. Raises SnapshotUnavailable."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[str, Facts] = {}

    def __call__(self, manifest: Manifest) -> Facts:
        if manifest.format >= SAYS_ITS_RUN:
            return facts_of(manifest)
        if manifest.sha256 not in self._known:
            self._known[manifest.sha256] = self._read(manifest)
        return self._known[manifest.sha256]

    def _read(self, manifest: Manifest) -> Facts:
        packed = b""
        dead_letters: set[bytes] = set()
        try:
            for items in self._backend.read(manifest.number):
                for key, value in items:
                    if key == _RUN_ID and value is not None:
                        packed = value
                    elif key[:1] == _DEAD:
                        (dead_letters.discard if value is None else dead_letters.add)(key)
        except SnapshotCorrupt:
            return Facts(manifest.writer, False)  # its dead letters cannot be had back
        run_id = str(msgpack.unpackb(packed)) if packed else ""
        return Facts(run_id or manifest.writer, bool(dead_letters))
