"""The store's outbox thread: applies the writes of events to the external State, and purges that State.

It is a thread of its own, so that a server that does not answer delays no claim. Entries are applied in order, each as
one change that carries its mark; an applied entry is then deleted from the space. A kind that does not derive from
TableState keeps no marks: its writes are applied at least once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from noderuntime.errors import StoreError, StoreUnreachable
from noderuntime.ipc.boundary import Boundary, describe
from noderuntime.space import outbox
from noderuntime.space.environment import Space
from noderuntime.space.kvs import SharedWrite
from noderuntime.state.base import State
from noderuntime.state.common import PURGE_STEP, Once, TableState

GROUP: Final = 64
IDLE_S: Final = 1.0
PAUSE_S: Final = 0.2
REFUSALS: Final = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, NotImplementedError)
REFUSED_MAX: Final = 3  # times: a garbled answer of a server may raise these, too


class OutboxThread:
    """The thread. Call `poke` when the outbox may have a new entry."""

    def __init__(self, space: Space, state: State, purge_interval_s: float) -> None:
        self._space = space
        self._state = state
        self._who = space.outbox_id
        self._purge_interval_s = purge_interval_s
        self._poked = threading.Event()
        self._closing = threading.Event()
        self._purging = Boundary(lambda text: print(f"state: {text}", file=sys.stderr, flush=True))
        self._refused_key = b""  # the entry that was refused last, and how often in a row
        self._refused = 0
        self._left_out: set[int] = set()  # of the entry at hand, for kinds without marks
        self.trouble = ""  # why it cannot be reached
        self._thread = threading.Thread(target=self._run, name="noderuntime-outbox", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        self._poked.set()

    def close(self, within_s: float) -> None:
        """Apply what waits, for at most `within_s` seconds, and end. What is left stays for `--resume`."""
        self._closing.set()
        self._poked.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        next_purge = time.monotonic() + self._purge_interval_s
        while True:
            more = False
            try:
                more = self._apply()
                if time.monotonic() >= next_purge:
                    next_purge = time.monotonic() + self._purge_interval_s
                    self._purge()
                self._say("")
            except BaseException as error:  # of a user's kind; nothing would report the end of this thread
                self._say(str(error) if isinstance(error, StoreError) else describe(error))
                if self._closing.wait(PAUSE_S):
                    return
                continue
            if not more:
                if self._closing.is_set():
                    return
                self._poked.wait(min(IDLE_S, max(0.0, next_purge - time.monotonic())))
                self._poked.clear()

    def _purge(self) -> None:
        try:
            while self._state.purge(PURGE_STEP) == PURGE_STEP:
                pass
        except StoreError:
            raise
        except BaseException as error:  # what cannot be purged keeps no write from its place
            self._purging.note("purging the state", error)

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
                self._apply_entry(entry)
                done.append(entry)
        finally:
            if done:
                with self._space.write() as txn:
                    for entry in done:
                        txn.delete(entry.key)
        return True

    def _apply_entry(self, entry: outbox.Entry) -> None:
        """Apply an entry. One that the kind refuses again and again is left out and named: the others must not wait for
        it for ever. What looks like a server that is away is tried for as long as it takes.
        """
        try:
            apply_entry(self._state, self._who, entry, self._left_out)
        except REFUSALS as error:
            self._refused = self._refused + 1 if entry.key == self._refused_key else 1
            self._refused_key = entry.key
            if self._refused < REFUSED_MAX:
                raise
            names = ", ".join(repr(item.key.decode()) for item in entry.writes)
            print(f"state: writes to {names} were left out: {describe(error)}", file=sys.stderr, flush=True)
        self._left_out.clear()


def apply_entry(state: State, who: str, entry: outbox.Entry, left_out: set[int] | None = None) -> None:
    """Apply one event's writes to a State, once. Raises StoreUnreachable, and whatever the kind raises.

    `left_out`: the places of writes that are done, or refused, when the entry is tried again; kept by the caller.
    """
    if isinstance(state, TableState):
        for why in state.write_all(entry.writes, entry.node, Once(who, entry.mark, for_ever=True)):
            print(f"state: {why}", file=sys.stderr, flush=True)
        return
    settled = set() if left_out is None else left_out
    for place, item in enumerate(entry.writes):
        if place not in settled:
            _guarded(item, lambda item=item: _write(state, item.key.decode(), item))  # type: ignore[misc]
            settled.add(place)


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
        print(f"state: a write to {item.key.decode()!r} was left out: {describe(error)}", file=sys.stderr, flush=True)
