"""Stream sockets in the folder of a run, whose path may be longer than the address of a socket can be."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

BACKLOG: Final = 64


def listen(path: Path) -> socket.socket:
    """A socket that others can connect to under `path`, in the place of one that was left there. It does not block."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with _closed_on_error(made):
        _at(path, made.bind)
        made.listen(BACKLOG)
        made.setblocking(False)
    return made


def connect(path: Path) -> socket.socket:
    """A connection to the process that listens at `path`. It does not block. Raises OSError when there is none."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with _closed_on_error(made):
        _at(path, made.connect)
        made.setblocking(False)
    return made


def _at(path: Path, call: Callable[[str], None]) -> None:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@contextlib.contextmanager
def _closed_on_error(made: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        made.close()
        raise
