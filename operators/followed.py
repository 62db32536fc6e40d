"""A text file that grows while it is read, through rotation: renamed and made anew, copied and truncated, truncated.

A place in it is [offset, line, check, inode]: `check` is a check sum of its first bytes and of those before the
offset, by which the file is recognised under another name, and, where inodes differ, on another machine. Places of
earlier versions have the first two only.

A file that was renamed is read to its end before the next one is begun: as soon as that has something in it, for
until then the writer may still hold the old one. Files that were rotated away between two looks, or while nothing
looked, are found by their names (NAME.1, NAME-20240131) and read in the order of their last change.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

CHECKED_BYTES = 256  # at the beginning, and before the offset
_ROTATED = re.compile(r"[.-](?:\d{1,4}|\d[\d._T:+-]{4,})")  # what rotation puts behind a name; a compressed one is not


def place_in(file: BinaryIO, offset: int, line: int) -> list[int]:
    """The place behind `line` lines of an open file."""
    return [offset, line, _check(file, offset), os.fstat(file.fileno()).st_ino]


def is_at(file: BinaryIO, place: Any) -> bool:
    """Whether `place` is one in this file, as far as can be told."""
    offset, _, *check = place
    if os.fstat(file.fileno()).st_size < offset:
        return False
    return not check or _check(file, offset) == check[0]


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it. Raises OSError, also for what is no file: a pipe would make the caller wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file")
    return open(path, "rb", opener=lambda *_: descriptor)


def _check(file: BinaryIO, offset: int) -> int:
    """Of how the file begins, and of what is before the offset."""
    start = max(0, offset - CHECKED_BYTES)
    head = os.pread(file.fileno(), min(offset, CHECKED_BYTES), 0)
    return zlib.crc32(os.pread(file.fileno(), offset - start, start), zlib.crc32(head))


class Followed:
    """The file that is read at present, and the place in it. Begin with `locate`, then `is_over` and `advance`."""

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self.path = path
        self._opened: list[BinaryIO] = []
        weakref.finalize(self, _close_all, self._opened)
        self.place: Any = [0, 0]
        self._log = log

    @property
    def file(self) -> BinaryIO | None:
        return self._opened[0] if self._opened else None

    def locate(self, place: Any) -> bool:
        """Open the file that a committed place (None: the beginning) lies in; False when there is none yet."""
        if place is None:
            return self._begin()
        inode = place[3] if len(place) > 3 else 0
        beside = sorted(self._beside(), key=self._age, reverse=True)  # the newest first
        own = [self.path, *beside]
        for path in (*(path for path in own if _inode(path) == inode), *self._of_inode(inode), *own):
            if self._open_at(path, place):
                return True
        if not self.path.exists():
            return False
        self._say_lost(place)
        return self._begin()

    def is_over(self) -> bool:
        """Whether there is a next file, so that this one gets no more; asked *before* it is read to its end."""
        assert self.file is not None
        if not self.is_unchanged():
            return True  # truncated in place
        here, mine = _identity(self.path), os.fstat(self.file.fileno())
        if here is None or here == (mine.st_dev, mine.st_ino):
            return False  # renamed and not made anew yet, or still the same
        return self._next() is not None

    def is_unchanged(self) -> bool:
        """Whether what lies before the place is still what was read there."""
        return self.file is not None and is_at(self.file, self.place)

    def advance(self) -> bool:
        """Go on to the next file, or with the same one from its beginning; False when it is gone meanwhile."""
        assert self.file is not None
        if self.is_unchanged():
            following = self._next()
            return following is not None and self._open_at(following, [0, 0])
        # truncated: who does so to rotate has made a copy before
        if any(self._open_at(path, self.place) for path in sorted(self._beside(), key=self._age, reverse=True)):
            return True
        self._say_lost(self.place)
        return self._begin()

    def _begin(self) -> bool:
        return self._open_at(self.path, [0, 0])

    def _open_at(self, path: Path, place: Any) -> bool:
        try:
            file = open_regular(path)
        except FileNotFoundError:
            return False
        if not is_at(file, place):
            file.close()
            return False
        _close_all(self._opened)
        self._opened.append(file)
        self.place = place
        return True

    def _say_lost(self, place: Any) -> None:
        self._log.warning(
            "%s was truncated or replaced behind line %d, and no rotated file beside it continues from there: what was "
            "not read of it is lost. It is read from its beginning", self.path, place[1],
        )  # fmt: skip

    def _next(self) -> Path | None:
        """The file that was begun when this one was rotated away, once there is something in it."""
        assert self.file is not None
        mine = os.fstat(self.file.fileno())
        name = next((path for path in self._beside() if _identity(path) == (mine.st_dev, mine.st_ino)), None)
        age = (mine.st_mtime_ns, -(10**6), "") if name is None else self._age(name)
        newer = [path for path in self._beside() if path != name and self._age(path) > age and _size(path)]
        if newer:
            return min(newer, key=self._age)
        return self.path if _size(self.path) else None

    def _beside(self) -> Iterator[Path]:
        """Files whose names say that they were this one."""
        for path in self.path.parent.iterdir():
            behind = path.name.removeprefix(self.path.name)
            if behind != path.name and _ROTATED.fullmatch(behind) and path.is_file():
                yield path

    def _of_inode(self, inode: int) -> Iterator[Path]:
        """Files of that inode in the folder, under whatever name."""
        for path in self.path.parent.iterdir():
            if inode and path.is_file() and _inode(path) == inode:
                yield path

    def _age(self, path: Path) -> tuple[int, int, str]:
        """Sorts rotated files from old to new: by their last change; of one moment, NAME.2 comes before NAME.1."""
        number = re.fullmatch(r"\.(\d{1,4})", path.name.removeprefix(self.path.name))
        try:
            return path.stat().st_mtime_ns, -int(number[1]) if number else 0, path.name
        except FileNotFoundError:
            return 0, 0, path.name


def _close_all(files: list[BinaryIO]) -> None:
    while files:
        files.pop().close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _inode(path: Path) -> int:
    found = _identity(path)
    return 0 if found is None else found[1]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
