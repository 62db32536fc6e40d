"""Opening the space, its limits, and the write transaction that everything else is built on.

The space is opened without `writemap`: children map it read-only, so a wild pointer in an extension module segfaults
that child and corrupts no data, and a full tmpfs is an error from `commit` instead of a SIGBUS.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgpack

from noderuntime.errors import StoreError, StoreFull
from noderuntime.ipc import forks, lock_watch
from noderuntime.ipc.protocol import TEXT_ERRORS
from noderuntime.space import keys
from noderuntime.space.kvs_cells import ORIGIN_BITS, STORE_BITS
from noderuntime.space.transactions import ReadTxn, WriteTxn

# Format 2 is that of an earlier version's space with packs. In format 3 keyed states lie by slot (see private.py), and
# there may be packs; earlier ones are brought up to date when the run is resumed.
FORMAT = 3
FORMATS = (1, 2, FORMAT)
READERS_MAX = 4000
SIZE_BYTES_MIN = 1 << 20
MESSAGE_SHARE = 8  # one message may take an eighth of the space
EVENT_SHARE = 4  # all copies of what one event sends may take a quarter: more might never find room at once

# Three marks on the pages in use, as shares of the size, or of what the file system has room for, if that is less.
# Above the first, new work is refused: Sources, sends of custom nodes without inputs, writes of clients. Above the
# second, operators commit one event at a time. Above the third, only events that do not grow the space are committed,
# such as acknowledgements: copy-on-write needs pages even to delete, and a full LMDB could never drain.
MARK_NEW_WORK, MARK_SINGLE, MARK_DRAIN = 0.70, 0.80, 0.88

_LOOK_EVERY = 16  # writes between two looks at how full the space is, while it is far from full
_LOOK_SHARE = 0.5
_LOOK_BYTES = 256 * 1024

_WAITERS = 0x80000000
_YIELD_S = 30e-6
_WAKE_NS = 50_000  # about what a waiter takes to wake up
_ROOM_S = 0.005  # for how long a reading of the file system's free room is trusted
_NO_ROOM_ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)

BROKEN = (lmdb.PanicError, lmdb.CorruptedError, lmdb.PageNotFoundError)
"""LMDB can no longer be used in this process, which has to end: the next one finds the last commit."""


def is_no_room(error: BaseException) -> bool:
    """Whether a failed write means "abort, wait for room, retry" rather than that something is broken."""
    if isinstance(error, lmdb.MapFullError | lmdb.TxnFullError | lmdb.DiskError):
        return True
    if isinstance(error, lmdb.PanicError):
        return False
    return isinstance(error, lmdb.Error) and any(os.strerror(number) in str(error) for number in _NO_ROOM_ERRNOS)


class Space:
    """The open environment of this process. One per process and path; must not cross a fork."""

    def __init__(self, folder: Path, env: lmdb.Environment, lock_word: memoryview) -> None:
        self.folder = folder
        self._env = env
        # `with space.read() as txn` is a read transaction. Keep it short, and never hold it while user code runs.
        # This is LMDB's own method: events read so often that a call of ours around it would be felt.
        self.read: Callable[[], ReadTxn] = env.begin
        self._lock_word = lock_word
        self._let_in_ns = 0  # when we last left the lock to a waiting process; 0: none waited
        info = env.info()
        self.size_bytes: int = info["map_size"]
        self.page_bytes: int = env.stat()["psize"]
        self.pages_max = self.size_bytes // self.page_bytes
        self.message_bytes_max = self.size_bytes // MESSAGE_SHARE
        self.event_bytes_max = self.size_bytes // EVENT_SHARE
        facts = self.facts()
        if facts.get("format") not in FORMATS:
            known = ", ".join(map(str, FORMATS))
            raise StoreError(
                f"{folder} has format {facts.get('format')!r}; this noderuntime reads {known}. "
                "Run it with the version that made it, or remove it with `noderuntime clean`."
            )
        self.base: int = facts["base"]
        self.clock: tuple[int, int] = (facts["wall_ns"], facts["boot_ns"])
        # this store's number among all stores, above the bits that number a node (see noderuntime.space.kvs_cells)
        self.origin: int = facts.get("store", 0) << ORIGIN_BITS
        self.outbox_id: str = facts.get("outbox", "")
        # {"kind", "config", "folder"} of the external State that shared writes go to; None: they stay in this space
        self.external: dict[str, Any] | None = facts.get(keys.EXTERNAL[1:].decode())
        self._room_pages = 1
        self._room_until_s = 0.0  # other programs fill the file system too, but not within milliseconds
        self._data = os.open(folder / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)  # (LMDB's fcntl locks are on lock.mdb)
        forks.watch(self)

    def forked(self) -> None:
        """See noderuntime.ipc.forks. Closing the environment could free reader slots that the parent uses."""
        forks.keep(self._env)
        self._env = self.read = forks.GONE

    def facts(self) -> dict[str, Any]:
        with self._env.begin() as txn:
            return {
                key[1:].decode(): msgpack.unpackb(value, strict_map_key=False, unicode_errors=TEXT_ERRORS)
                for key, value in scan(txn, b"M")
            }

    def now_ns(self) -> int:
        """Nanoseconds since the epoch by the space's clock: the wall clock at its creation plus the time since boot.

        So a jump of the wall clock neither revives nor expires anything.
        """
        return self.booted_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    @property
    def booted_ns(self) -> int:
        """When this machine booted, by the space's clock: what `now_ns` adds to CLOCK_BOOTTIME."""
        wall, boot = self.clock
        return wall - boot

    def advance_clock(self, txn: WriteTxn) -> None:
        """For a run that is resumed: continue from the larger of the saved and the present time."""
        now_ns, boot_ns = max(self.now_ns(), time.time_ns()), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.clock = now_ns - boot_ns + self.clock[1], self.clock[1]
        txn.put(keys.fact("wall_ns"), msgpack.packb(self.clock[0]))

    def begin(self) -> WriteTxn:
        """A write transaction: waits for the write lock. The caller commits or aborts it.

        LMDB's mutex is unfair: one writer at full speed would keep the others out for long. So a writer that comes back
        at once, after another process has waited for the lock, gives way here first. It does not at the commit: mostly
        it has other work to do before its next transaction, and the waiter has the lock by then.
        """
        if self._let_in_ns:
            if time.monotonic_ns() - self._let_in_ns < _WAKE_NS:
                time.sleep(_YIELD_S)
            self._let_in_ns = 0
        txn: WriteTxn = self._env.begin(write=True)
        return txn

    def has_waiters(self) -> bool:
        """Whether another process waits for the write lock that we hold."""
        return bool(self._lock_word[0] & _WAITERS)

    @contextmanager
    def write(self) -> Iterator[WriteTxn]:
        """A write transaction that commits at the end. Without room it raises StoreFull and writes nothing."""
        txn = self.begin()
        try:
            yield txn
            self.commit(txn)
        except BaseException as error:
            self.abort(txn, error)
            raise

    def commit(self, txn: WriteTxn) -> None:
        """Commit a write transaction, and note whether another process waits for its lock."""
        crowded = self.has_waiters()
        txn.commit()
        if crowded:
            self._let_in_ns = time.monotonic_ns()

    def abort(self, txn: ReadTxn, error: BaseException) -> None:
        """Abort a write transaction that failed with `error`. Raises StoreFull if the cause was lack of room."""
        txn.abort()
        if is_no_room(error):
            on_disk = not isinstance(error, lmdb.MapFullError | lmdb.TxnFullError)
            raise StoreFull(self.size_bytes, self.used_bytes(), str(error), on_disk) from error

    def copy(self, folder: Path, txn: ReadTxn) -> None:
        """Copy what `txn` sees into an empty folder, at memory speed, without blocking other Python threads."""
        env: Any = self._env  # its annotations allow neither a path in bytes nor a protocol
        env.copy(os.fsencode(folder), compact=True, txn=txn)

    def used_share(self, txn: ReadTxn) -> float:
        """The share of the space that live pages take, as `txn` sees it. O(1)."""
        stat = txn.stat()
        pages: int = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        now_s = time.monotonic()
        if now_s > self._room_until_s:
            around = os.fstatvfs(self._data)
            room = os.fstat(self._data).st_blocks * 512 + around.f_bavail * around.f_frsize
            self._room_pages = max(1, min(self.pages_max, room // self.page_bytes))
            self._room_until_s = now_s + _ROOM_S
        return pages / self._room_pages

    def used_bytes(self) -> int:
        stat = self._env.stat()
        pages: int = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return pages * self.page_bytes

    def last_sequence(self) -> int:
        """The sequence of the last commit."""
        last: int = self._env.info()["last_txnid"]
        return self.base + last

    def last_page(self) -> int:
        """The number of the last page in use or free: later pages have never been written."""
        last: int = self._env.info()["last_pgno"]
        return last

    def readers(self) -> int:
        """How many reader slots are taken, including those of processes that died."""
        taken: int = self._env.info()["num_readers"]
        return taken

    def reader_check(self) -> int:
        """Free the reader slots of processes that died: they keep pages from being reused. Returns how many."""
        freed: int = self._env.reader_check()
        return freed

    def close(self) -> None:
        self._env.close()
        os.close(self._data)
        self._lock_word.release()


def format_of(txn: ReadTxn) -> int:
    """The format of the space; 1 where a snapshot of the first version does not say it."""
    packed = txn.get(keys.fact("format"))
    number: int = FORMATS[0] if packed is None else msgpack.unpackb(packed)
    return number


def scan(txn: ReadTxn, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """All (key, value) whose key starts with `prefix` and is greater than `after`, in order."""
    cursor = txn.cursor()
    if not cursor.set_range(max(prefix, after + b"\0") if after else prefix):
        return
    for key, value in cursor:
        if not key.startswith(prefix):
            return
        yield key, value


def create(folder: Path, size_bytes: int, boot_id: str) -> Space:
    """Make the space, or open an existing one. Raises StoreError when that cannot be done."""
    facts = {
        "format": FORMAT,
        "base": 0,
        "boot": boot_id,
        "store": secrets.randbits(STORE_BITS),  # a new one when it is restored: see noderuntime.space.kvs_cells
        "outbox": secrets.token_hex(8),  # kept: under it the external State knows what it has applied
        "wall_ns": time.time_ns(),
        "boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    }
    size_bytes = max(size_bytes, SIZE_BYTES_MIN)
    options = _options(create=True)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / "data.mdb").exists():
            options |= _engine()
        with lmdb.open(os.fsencode(folder), map_size=size_bytes, max_readers=READERS_MAX, **options) as env, \
                env.begin(write=True) as txn:
            if txn.get(keys.fact("format")) is None:
                for name, value in facts.items():
                    txn.put(keys.fact(name), msgpack.packb(value))
    except (OSError, OverflowError, lmdb.Error) as error:
        raise StoreError(
            f"a space of {size_bytes} bytes cannot be made at {folder}: {error}. Free some memory there, "
            "set a smaller `state: {size: ...}`, or choose another place with $NODERUNTIME_HOME."
        ) from error
    return open_space(folder)


def open_space(folder: Path) -> Space:
    """Open the space that the store process has made. Raises StoreError when there is none."""
    lock_word = _map_lock_word(folder / "lock.mdb")
    try:
        # 0: the size in force is the one that the store process has written into the meta page
        env = lmdb.open(os.fsencode(folder), map_size=0, max_readers=READERS_MAX, **_options(create=False))
    except lmdb.Error as error:
        lock_word.release()
        raise StoreError(f"no space at {folder}: {error}. Is the run still there? See `noderuntime ps -a`.") from error
    try:
        return Space(folder, env, lock_word)
    except BaseException:
        env.close()
        lock_word.release()
        raise


class Fullness:
    """How full the space is, for a process that writes into it repeatedly: looked up only every few writes while the
    space is far from full, and after a large write.
    """

    __slots__ = ("_look_bytes", "_look_in", "_space", "share")

    def __init__(self, space: Space) -> None:
        self._space = space
        self._look_bytes = min(_LOOK_BYTES, space.size_bytes // 256)
        self._look_in = 0
        self.share = 0.0  # as last looked up

    def look(self, txn: ReadTxn) -> float:
        """`share`, as it is before `txn` writes."""
        self._look_in -= 1
        if self._look_in <= 0 or self.share > _LOOK_SHARE:
            self.share = self._space.used_share(txn)
            self._look_in = _LOOK_EVERY
        return self.share

    def wrote(self, size_bytes: int) -> None:
        """About `size_bytes` were written; if that is much, the next call of `look` looks again."""
        if size_bytes > self._look_bytes:
            self._look_in = 0

    def ran_out(self) -> None:
        """A write found no room; the next call of `look` looks again."""
        self._look_in = 0


@contextmanager
def read_copy(folder: Path) -> Iterator[ReadTxn]:
    """A read transaction on the copy that `Space.copy` made in `folder`."""
    env = lmdb.open(os.fsencode(folder), readonly=True, lock=False, max_dbs=0, create=False)
    try:
        with env.begin() as txn:
            yield txn
    finally:
        env.close()


def _engine() -> dict[str, int]:
    """The option that makes a new space use LMDB 0.9, where the binding has a second engine.

    The binding's default is the user's choice ($LMDB_DEFAULT_LIB_VERSION). An existing space is opened by the engine
    that made it.
    """
    try:
        lmdb.version(lib_version=0)
    except (TypeError, lmdb.Error):
        return {}  # the binding has one engine
    return {"lib_version": 0}


def _options(create: bool) -> dict[str, Any]:
    return {
        "create": create,
        "max_dbs": 0,
        "max_spare_txns": 8,
        "meminit": False,
        "metasync": False,
        "mode": 0o600,
        "readahead": False,
        "sync": False,
    }


def _map_lock_word(path: Path) -> memoryview:
    """The futex word of LMDB's write mutex: bytes 64 to 67 of the lock file, owner's thread id and a waiters bit.

    A word that stays zero where the layout is not known: then no process seems to wait, and writers do not give way.

    Mapped before the environment is opened: closing a descriptor of the lock file later would drop this process's
    fcntl locks on it, and a second writer could enter.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StoreError(f"no space at {path.parent}. Is the run still there? See `noderuntime ps -a`.") from None
    try:
        mapped = mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    if not lock_watch.has_known_layout(mapped):
        mapped.close()
        return memoryview(bytes(4)).cast("I")
    return memoryview(mapped)[lock_watch.WRITER_AT : lock_watch.WRITER_AT + 4].cast("I")
