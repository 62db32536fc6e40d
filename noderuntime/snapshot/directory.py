"""Snapshots in a directory.

A blob is published by a link: the file is written under a temporary name and forced to the disk, then linked to its
real name, which fails if the name is taken, and then the directory is forced to the disk. A power cut at any point
leaves the blob whole or absent. `halt` is called before each step that changes something: tests cut the power there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from noderuntime.snapshot.backend import SnapshotUnavailable

CHUNK_BYTES = 1 << 20


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class DirectoryBlobs:
    """The Blobs of a local directory, which is created if needed."""

    def __init__(self, root: Path, halt: Callable[[str], None] = lambda step: None) -> None:
        self.place = str(root)
        self.root = root
        self._halt = halt
        try:
            self._make(root)
        except OSError as error:
            raise self._unavailable(error) from None

    def _make(self, folder: Path) -> None:
        """Create the folder and its parents, each forced to the disk: a power cut can lose a folder like a file."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        self._halt("mkdir")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        self._sync_folder(folder.parent)

    def _sync_folder(self, folder: Path) -> None:
        self._halt("fsync folder")
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def put_file(self, name: str, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._halt("fsync file")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            target = self.root / name
            if path != target:
                self._publish(path, target)
            else:  # the walk has written it here, under its own name
                self._sync_folder(self.root)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._unavailable(error) from None

    def _publish(self, temporary: Path, target: Path) -> None:
        self._halt("link")
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
                raise
            # a file system without links: claim the name, then move over the claim
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            temporary.rename(target)
        else:
            self._halt("unlink")
            temporary.unlink()
        self._sync_folder(self.root)

    def put(self, name: str, data: bytes) -> None:
        temporary = self.root / f"{name}.{os.getpid()}.tmp"
        try:
            self._halt("create")
            with open(temporary, "wb", opener=_private) as file:
                self._halt("write")
                file.write(data)
                file.flush()
                self._halt("fsync file")
                os.fsync(file.fileno())
            self._publish(temporary, self.root / name)
        except FileExistsError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise self._unavailable(error) from None

    def get(self, name: str) -> Iterator[bytes]:
        try:
            with open(self.root / name, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unavailable(error) from None

    def names(self) -> dict[str, int]:
        try:
            with os.scandir(self.root) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unavailable(error) from None

    def delete(self, names: list[str]) -> None:
        try:
            for name in names:
                self._halt("unlink")
                with contextlib.suppress(FileNotFoundError):
                    (self.root / name).unlink()
            if names:
                self._sync_folder(self.root)
        except OSError as error:
            raise self._unavailable(error) from None

    def close(self) -> None:
        pass

    def _unavailable(self, error: OSError) -> SnapshotUnavailable:
        why = error.strerror or str(error)
        hint = "Make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check the folder"
        return SnapshotUnavailable(self.place, f"{why}. {hint}, or choose another with `snapshots: {{to: ...}}`.")
