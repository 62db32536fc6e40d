"""File descriptors of the runtime: the limit that a run needs, and a few that are kept in reserve."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from noderuntime.errors import NodeRuntimeError

NEEDED: Final = 64
NEEDED_PER_NODE: Final = 14
LIMIT_MAX: Final = 65_536
RESERVED: Final = 8


def raise_limit(nodes: int) -> None:
    """Raise the soft limit of this process as far as it may be of use to a run of so many nodes.

    Raises NodeRuntimeError if the hard limit is too low: ZeroMQ would abort the process later, when it cannot accept a
    connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, LIMIT_MAX)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    needed = NEEDED + NEEDED_PER_NODE * nodes
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise NodeRuntimeError(
            f"this process may open {soft} files, too few for {nodes} nodes, which need about {needed}. "
            f"Raise the limit: `ulimit -n {needed}`."
        )


class Reserve:
    """Descriptors that are released when the run ends. If they ran out before, cleaning up needs some."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def take(self) -> None:
        """Open them. Raises OSError if there are not so many."""
        for _ in range(RESERVED):
            self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> None:
        """Close them. A second call does nothing."""
        while self._fds:
            os.close(self._fds.pop())
