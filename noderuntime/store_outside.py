"""The store's side of a State outside the space: applies the outbox there, and purges it. Floor 3.

A thread of its own, so that a server that does not answer holds up no claim. Entries are applied in order, each as one
change that carries its mark; what was applied is deleted here afterwards. A kind that does not derive from TableState
keeps no marks: its writes are applied at least once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from noderuntime.errors import StoreError, StoreUnreachable
from noderuntime.space import outbox
from noderuntime.space.shared import SharedWrite
from noderuntime.space.space import Space
from noderuntime.state.base import State
from noderuntime.state.common import Once, TableState

GROUP: Final = 64
IDLE_S: Final = 1.0
PAUSE_S: Final = 0.2
PURGE_STEP: Final = 200


class Outside:
    """The thread. `poke` it when something may have come."""

    def __init__(self, space: Space, state: State, purge_interval_s: float) -> None:
        self._space = space
        self._state = state
        self._who = space.outbox_id
        self._purge_interval_s = purge_interval_s
        self._poked = threading.Event()
        self._closing = threading.Event()
        self.trouble = ""  # why it cannot be reached
        self._thread = threading.Thread(target=self._run, name="noderuntime-outbox", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        self._poked.set()

    def close(self, within_s: float) -> None:
        """Apply what waits, for at most so long, and end. What is left stays for `--resume`."""
        self._closing.set()
        self._poked.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        next_purge = time.monotonic() + self._purge_interval_s
        while True:
            try:
                more = self._apply()
                if time.monotonic() >= next_purge:
                    while self._state.purge(PURGE_STEP) == PURGE_STEP:
                        pass
                    next_purge = time.monotonic() + self._purge_interval_s
                self._say("")
            except StoreError as error:
                self._say(str(error))
                if self._closing.wait(PAUSE_S):
                    return
                continue
            if not more:
                if self._closing.is_set():
                    return
                self._poked.wait(min(IDLE_S, max(0.0, next_purge - time.monotonic())))
                self._poked.clear()

    def _say(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            print(f"state: {trouble or 'reached again; shared writes are applied'}", file=sys.stderr, flush=True)
        self.trouble = trouble

    def _apply(self) -> bool:
        """Apply a group of entries; whether there were any."""
        with self._space.read() as txn:
            found = outbox.entries(txn, GROUP)
        if not found:
            return False
        done = []
        try:
            for entry in found:
                apply_entry(self._state, self._who, entry)
                done.append(entry)
        finally:
            if done:
                with self._space.write() as txn:
                    for entry in done:
                        txn.delete(entry.key)
        return True


def apply_entry(state: State, who: str, entry: outbox.Entry) -> None:
    """Apply one event's writes to a State, once. Raises StoreUnreachable."""
    if isinstance(state, TableState):
        for why in state.write_all(entry.writes, entry.node, Once(who, entry.mark, for_ever=True)):
            print(f"state: {why}", file=sys.stderr, flush=True)
        return
    for item in entry.writes:
        key = item.key.decode()
        _guarded(item, lambda key=key, item=item: _write(state, key, item))  # type: ignore[misc]


def _write(state: State, key: str, item: SharedWrite) -> None:
    if item.merge is not None:
        state.merge(key, item.merge)
    elif item.value is None:
        state.delete(key)
    else:
        state.set(key, item.value, item.ttl_ns / 1e9 if item.ttl_ns else None)


def _guarded(item: SharedWrite, write: Callable[[], None]) -> None:
    try:
        write()
    except StoreUnreachable:
        raise
    except (TypeError, StoreError) as error:
        print(f"state: a write to {item.key.decode()!r} was left out: {error}", file=sys.stderr, flush=True)
