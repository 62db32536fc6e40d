"""What the store does before it answers `open`: tries the place of snapshots, reads the seed, and opens the
external State.

A seed command and a server may take long, so a thread does all of this, and the store answers other requests meanwhile.
An error becomes the answer to `open`: the run does not start, and says why. In a run that has started already, the
server may be away when the store process is restarted: the thread tries again until the server is back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack

from noderuntime.errors import NodeRuntimeError, StoreError, StoreUnreachable
from noderuntime.ipc.boundary import describe
from noderuntime.snapshot.settings import Settings
from noderuntime.space import keys, kvs, kvs_cells, outbox
from noderuntime.space.environment import Space
from noderuntime.space.kvs_cells import Cell
from noderuntime.space.transactions import WriteTxn
from noderuntime.state import kinds, seeds
from noderuntime.state.base import State
from noderuntime.state.common import Row, TableState
from noderuntime.state.seeds import Seed
from noderuntime.store.outbox import REFUSALS, OutboxThread

AGAIN_S: Final = 0.2
TRY_S: Final = 10.0  # for a place of snapshots that cannot be reached


class Start:
    """The `state:` section of the dataflow file, carried out. `ready` is set when it is; then `error` may say why not
    (yet). `is_external`: whether shared state is in an external State, reached or not.

    `spec`: kind, options, ttl, history, seed_file, seed_command; None leaves everything as it is in the space, which
    knows of an external State: this is a store process for one command, on a run that does not run.

    `snapshots`: whose place is tried when a run begins anew. One that continues was told of its place long ago.
    """

    def __init__(
        self,
        space: Space,
        spec: Mapping[str, Any] | None,
        purge_interval_s: float,
        wake: Callable[[], None],
        snapshots: Settings | None = None,
    ) -> None:
        self.ready = threading.Event()
        self.error: NodeRuntimeError | None = None
        self.seeds: dict[str, Seed] = {}
        self.outbox: OutboxThread | None = None
        self.state: State | None = None  # the external one, once it is open
        self._space = space
        self._spec = spec or {}
        self._purge_interval_s = purge_interval_s
        self._wake = wake
        self._snapshots = snapshots
        self._kind = kinds.MEMORY
        self._config: dict[str, Any] = {}
        self._folder: str | None = None  # to go to first
        self._seeds: dict[str, Seed] | None = None
        if spec is not None:
            self._kind = str(spec.get("kind", kinds.MEMORY))
            self._config = kinds.config_of(spec)
            self._note_kind()
        elif space.external is not None:
            self._kind, self._config = space.external["kind"], space.external["config"]
            self._folder = space.external.get("folder")
        self.is_external = self._kind != kinds.MEMORY
        self._closed = threading.Event()
        if spec is None and not self.is_external:
            self.ready.set()
            return
        self._thread = threading.Thread(target=self._run, name="noderuntime-start", daemon=True)
        self._thread.start()

    def _note_kind(self) -> None:
        """Record in the space, for every process that opens it, where shared state is."""
        space = self._space
        with space.write() as txn:
            if self._kind == kinds.MEMORY:
                txn.delete(keys.EXTERNAL)
                space.external = None
            else:
                # relative paths in it are meant from here, where the dataflow file is
                space.external = {"kind": self._kind, "config": self._config, "folder": os.getcwd()}
                txn.put(keys.EXTERNAL, msgpack.packb(space.external))

    def _run(self) -> None:
        while not self._closed.is_set():
            again = False
            try:
                self._carry_out()
                self.error = None
            except NodeRuntimeError as error:
                self.error = error
                again = isinstance(error, StoreUnreachable)
            except BaseException as error:  # a user's kind may raise anything; the thread's end would go unseen
                self.error = StoreError(f"state: kind {self._kind!r}: {describe(error)}")
                # such a kind says in its own words that its server is away
                again = self.is_external and not isinstance(error, REFUSALS)
            self.ready.set()
            self._wake()
            if not again:
                return
            self._closed.wait(AGAIN_S)

    def _carry_out(self) -> None:
        self._try_place()
        with self._space.read() as txn:
            seeded = txn.get(keys.fact("seeded")) is not None
            if not self.is_external:
                outbox.refuse_unless_empty(txn)
        if self._seeds is None:
            self._seeds = {} if seeded else self._read_seeds()
        if not self.is_external:
            self.seeds = self._seeds
            return
        if self._folder is not None:
            try:
                os.chdir(self._folder)
            except OSError as error:
                text = f"state: kind {self._kind!r} belongs to a dataflow file in another folder: {error}"
                raise StoreError(text) from None
        state = kinds.open_kind(self._kind, self._config)
        try:
            state.init()
            if self._seeds and not state.cells():
                sow(state, self._seeds)
        except BaseException:
            state.close()
            raise
        self.state = state
        self.outbox = OutboxThread(self._space, state, self._purge_interval_s)

    def _try_place(self) -> None:
        """Raises SnapshotUnavailable: a mistyped bucket is to be known now, not when the state is to be saved."""
        with self._space.read() as txn:
            begun = txn.get(keys.fact("fingerprint")) is not None
        if begun or self._snapshots is None:
            return
        backend = self._snapshots.open(TRY_S)
        try:
            backend.snapshots()
        finally:
            backend.close()

    def _read_seeds(self) -> dict[str, Seed]:
        if self._spec.get("seed_file"):
            return seeds.from_file(self._spec["seed_file"])
        if self._spec.get("seed_command"):
            return seeds.from_command(self._spec["seed_command"])
        return {}

    def close(self, within_s: float) -> None:
        self._closed.set()
        if self.outbox is not None:
            self.outbox.close(within_s)


def sow(state: State, found: Mapping[str, Seed]) -> None:
    """Write the seeds into an empty external State, all at one moment where the kind can."""
    if not isinstance(state, TableState):
        for key, seed in found.items():
            (state.set_packed if seed.packed else state.set)(key, seed.value)
        return

    def decide(rows: dict[str, Row | None], digest: int, stamp: int, now_ns: int) -> list[tuple[str, Cell]]:
        if any(row is not None for row in rows.values()):
            return []
        expires_ns = now_ns + state.ttl_ns if state.ttl_ns else 0
        return [
            (key, kvs_cells.written(stamp + number, state.origin, seed.value, expires_ns, seed.packed))
            for number, (key, seed) in enumerate(found.items())
        ]

    state._transact(list(found), decide)


def sow_here(txn: WriteTxn, changes: kvs.Changes, found: Mapping[str, Seed]) -> None:
    """Write the seeds into the shared KVS of the space, if that is empty; once in the life of a space."""
    empty = next(kvs.all_stored(txn), None) is None
    if empty and txn.get(keys.fact("seeded")) is None:
        for key, seed in found.items():
            changes.write(kvs.SharedWrite(keys.user_key(key), seed.value, packed=seed.packed))
    txn.put(keys.fact("seeded"), msgpack.packb(True))
