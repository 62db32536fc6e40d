"""Opens the backend that `snapshots: {to: ...}` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noderuntime.dataflow import snapshot_place
from noderuntime.dataflow.identifiers import directory_name
from noderuntime.dataflow.snapshot_place import NONE, WrongPlace
from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot.backend import Listed, SnapshotUnavailable

if TYPE_CHECKING:
    from noderuntime.snapshot.cut import Walked
    from noderuntime.snapshot.format import Manifest


class NoBackend:
    """The backend of `to: none`, which keeps nothing."""

    place = NONE
    spool = Path()

    def snapshots(self) -> list[Listed]:
        return []

    def save(self, manifest: Manifest, walked: Walked) -> Manifest:
        raise SnapshotUnavailable(NONE, "this dataflow says `snapshots: {to: none}`; change it to keep some")

    def read(self, number: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
        raise SnapshotCorrupt(str(number), "there are no snapshots: the dataflow says `to: none`")

    def stored(self, number: int) -> Manifest:
        raise SnapshotCorrupt(str(number), "there are no snapshots: the dataflow says `to: none`")

    def verify(self, number: int) -> Manifest:
        raise SnapshotCorrupt(str(number), "there are no snapshots: the dataflow says `to: none`")

    def prune(self, keep: int) -> list[int]:
        return []

    def tidy(self, owner: str) -> None:
        pass

    def may_build_on(self, manifest: Manifest) -> bool:
        return False

    def close(self) -> None:
        pass


def open_backend(
    to: str, run: str, folder: Path, spool: Path, options: Mapping[str, Any], retry_s: float | None = None
) -> Any:
    """The backend that `snapshots: {to: ...}` names, see snapshot_place.py; "" means the folder `spool`.

    A directory is relative to `folder`, the one of the dataflow file. Below the place that is named each run has a
    folder of its own, so that runs of different names can share one. `retry_s`: how long to try where a network is
    between; None: as long as a save may. Raises SnapshotUnavailable.
    """
    try:
        place = snapshot_place.parse(to)
    except WrongPlace as error:
        raise SnapshotUnavailable(to, str(error)) from None
    if place.kind == "none":
        return NoBackend()
    name = directory_name(run)
    root = spool.absolute()
    if place.kind == "directory":
        root = (folder / _at_home(place.where) / name).absolute()
    if place.slate:
        from noderuntime.snapshot.slate import SlateBackend  # imports its library, so only if it is named

        return SlateBackend(place.below(name) if place.kind == "objects" else str(root), _spool_below(spool), options)
    from noderuntime.snapshot.blobs import BlobBackend

    if place.kind == "objects":
        from noderuntime.snapshot.objects import RETRY_S, ObjectBlobs

        blobs = ObjectBlobs(place.below(name), options, RETRY_S if retry_s is None else retry_s)
        return BlobBackend(blobs, _spool_below(spool))
    from noderuntime.snapshot.directory import DirectoryBlobs

    return BlobBackend(DirectoryBlobs(root), root)


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SnapshotUnavailable(path, f"{error}. Write the path in full.") from None


def _spool_below(folder: Path) -> Path:
    """A folder for files on their way to another place; it never holds a snapshot."""
    spool = folder / "spool"
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SnapshotUnavailable(str(folder), f"{error.strerror}. Check $NODERUNTIME_HOME or your home.") from None
    return spool
