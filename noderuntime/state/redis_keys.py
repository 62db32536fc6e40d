"""The keys of a store on a Redis server, in order, for as long as listings use them.

The server keeps keys by revision, not in order of key; ordering them there would take its time, in which it does
nothing else, and would be of no use to versions that do not keep that order. So a listing that begins reads all keys
once, without values. Each of its pages then asks only for the keys that have changed since, and listings at one time
share the keys. They are let go when a listing has come to its end, or when none has asked for a while.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, NamedTuple

IDLE_S: Final = 60.0


class Known(NamedTuple):
    """What the server says of its keys: see redis_scripts.KEYS. `whole`: `keys` are all of them."""

    store: bytes
    revision: bytes
    whole: bool
    keys: list[bytes]


class SortedKeys:
    """Any number of threads may use one. `ask(store, revision)` gets what has changed since from the server."""

    def __init__(self, ask: Callable[[bytes, bytes], Known]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._store, self._revision = b"", b"0"
        self._keys: list[bytes] = []
        self._used_s = 0.0

    def from_key(self, start: bytes, prefix: bytes, most: int) -> list[bytes]:
        """Up to `most` keys that start with `prefix`, `start` and those after it, as the server has them now. Some
        may be gone.
        """
        with self._lock:
            known = self._ask(self._store, self._revision)
            if known.whole:
                self._keys = sorted(known.keys)
            else:
                new = [key for key in known.keys if not self._has(key)]
                self._keys += new
                self._keys.sort()  # fast: all but the new ones are in order
            self._store, self._revision = known.store, known.revision
            self._used_s = time.monotonic()
            place = bisect_left(self._keys, start)
            found = self._keys[place : place + most]
        return found[: _end(found, prefix)]

    def _has(self, key: bytes) -> bool:
        place = bisect_left(self._keys, key)
        return place < len(self._keys) and self._keys[place] == key

    def forget(self) -> None:
        with self._lock:
            self._store, self._revision = b"", b"0"
            self._keys = []

    def tidy(self) -> None:
        """Forget them if no listing has asked for them lately."""
        if self._keys and time.monotonic() - self._used_s > IDLE_S:
            self.forget()


def _end(keys: list[bytes], prefix: bytes) -> int:
    """How many of the first keys start with `prefix`; they are in order, and none is less than it."""
    return next((place for place, key in enumerate(keys) if not key.startswith(prefix)), len(keys))
