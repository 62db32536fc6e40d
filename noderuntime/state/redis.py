"""The kind `redis`: a shared KVS on a Redis server, for state that several hosts share. Needs `noderuntime[redis]`.

    state: {kind: redis, url: redis://127.0.0.1:6379/0}          # or unix:///run/redis.sock, rediss://...

All hosts that name the same server and `name` share one store: the server orders all changes, and its clock counts the
times to live. Setting, comparing, merging, deleting and expiring are each one script there (see redis_scripts.py): one
round trip, without retries. Some changes only a client can make: another store's cells, and a user's own kind of merge.
The client reads, computes, and commits if the keys that it read are unchanged. A change carries a number of its client,
so that one that is repeated because the answer was lost counts once. Watches are woken by the server's publications and
then read what is new, so they do not miss changes while the connection is lost. A call retries a server that does not
answer, with doubling pauses, for `timeout` seconds; then it raises StoreUnreachable, and the next call tries again.

Rejected: keyspace notifications (off by default, and one for each of our keys), and a stream of changes (it would have
to be trimmed for the slowest reader; the order by revision in a sorted set needs no trimming).
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgpack

from noderuntime.errors import HistoryLost, RevisionConflict, StoreError, StoreUnreachable
from noderuntime.merges import Merge
from noderuntime.space import kvs_cells
from noderuntime.space.keys import VALUE_BYTES_MAX, user_key
from noderuntime.space.kvs import SharedWrite, ttl_to_ns
from noderuntime.space.kvs_cells import DIGEST_BYTES, ORIGIN_BITS, STORE_BITS, Cell, Part
from noderuntime.state import base, redis_scripts
from noderuntime.state.base import Diff, Entry, State
from noderuntime.state.common import Decide, Done, Moment, Once, Page, Put, Row, TableState, digest_now
from noderuntime.state.diffs import diff_of, entry_of
from noderuntime.state.fields import Fields
from noderuntime.state.redis_cells import DIGITS
from noderuntime.state.redis_keys import Known, SortedKeys
from noderuntime.state.redis_listener import PAUSE_FIRST_S, PAUSE_MAX_S, Listener

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

TIMEOUT_S: Final = 5.0
PAGE_KEYS: Final = 10_000


class RedisState(TableState):
    """Fields: `url`; `name` (of the store on that server), `history`, `ttl`, `timeout` (seconds)."""

    def __init__(self, url: str, name: str, history: int, ttl_ns: int, timeout_s: float) -> None:
        super().__init__()
        try:
            import redis
        except ImportError:
            raise StoreError("state: kind 'redis' needs redis-py: pip install 'noderuntime[redis]'") from None
        self.url = url
        self.name = name
        self.history = history
        self.ttl_ns = ttl_ns
        self.timeout_s = timeout_s
        try:
            self._redis: redis.Redis = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=None, protocol=2
            )
        except ValueError as error:
            raise StoreError(f"state: url of kind 'redis': {error}") from None
        self._lost = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, OSError)
        self._failed = redis.RedisError
        self._keys = [f"{{{name}}}:{part}" for part in redis_scripts.NAMES]
        self._channel = f"{{{name}}}:changed"
        self._origin: int | None = None
        self._client = secrets.token_hex(8)
        self._token_lock = threading.Lock()
        self._tokens = 0
        self._own = threading.local()
        self._listener: Listener | None = None
        self._sorted = SortedKeys(self._changed_keys)
        self._start = threading.Lock()

    @classmethod
    def open(cls, config: Mapping[str, Any]) -> Self:
        return cls(*cls.read_config(config))

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> tuple[str, str, int, int, float]:
        if find_spec("redis") is None:
            raise StoreError("state: kind 'redis' needs redis-py: pip install 'noderuntime[redis]'")
        fields = Fields("redis", config)
        url = fields.text("url")
        name = fields.text("name", "noderuntime")
        history = fields.whole("history", base.HISTORY)
        ttl_ns = ttl_to_ns(fields.number("ttl"))
        timeout_s = fields.number("timeout") or TIMEOUT_S
        fields.end()
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise StoreError(f"state: url of kind 'redis': {url!r} does not begin with redis://, rediss:// or unix://")
        return url, name, history, ttl_ns, timeout_s

    def init(self) -> None:
        self._check_open()
        arguments = [str(secrets.randbits(STORE_BITS)), bytes(DIGEST_BYTES), _digits(0), redis_scripts.FORMATS[0]]
        store, format = self._run(redis_scripts.INIT, arguments)
        if format.decode() not in redis_scripts.FORMATS:
            raise StoreError(
                f"{self._name()}: the store {self.name!r} there has format {format.decode()}; this noderuntime knows "
                f"{' and '.join(redis_scripts.FORMATS)}. Give `name:` of a new one, or use the version that made it."
            )
        self._origin = int(store) << ORIGIN_BITS

    @property
    def origin(self) -> int:
        if self._origin is None:  # the server could not be reached when it was first asked
            self.init()
        assert self._origin is not None
        return self._origin

    @origin.setter
    def origin(self, origin: int) -> None:
        self._origin = origin

    def close(self) -> None:
        if not self._closed:
            super().close()
            if self._listener is not None:
                self._listener.close()
            self._redis.close()

    def _name(self) -> str:
        return f"the Redis server at {self.url.rpartition('@')[2]}"

    def _now_ns(self) -> int:
        """The server's clock, as this thread last saw it."""
        return int(self._own.now_ns)

    # --- talking to the server --------------------------------------------------------------------------------------

    def _run(self, script: str, arguments: Sequence[Any], extra_keys: Sequence[str] = ()) -> Any:
        keys = [*self._keys, *extra_keys]
        return self._reach(lambda: self._evaluate(script, keys, arguments))

    def _evaluate(self, script: str, keys: list[str], arguments: Sequence[Any]) -> Any:
        import redis

        try:
            return self._redis.evalsha(_sha(script), len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return self._redis.eval(script, len(keys), *keys, *arguments)

    def _reach(self, call: Callable[[], T]) -> T:
        """The result of `call`, retried while the server is lost. Raises StoreUnreachable, StoreError."""
        self._check_open()
        deadline = time.monotonic() + self.timeout_s
        pause_s = PAUSE_FIRST_S
        stop = threading.Event()
        while True:
            try:
                return call()
            except self._lost as error:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise StoreUnreachable(self._name(), str(error), self.timeout_s) from error
                stop.wait(min(left_s, pause_s * random.uniform(0.5, 1.0)))
                pause_s = min(PAUSE_MAX_S, 2 * pause_s)
            except self._failed as error:
                raise StoreError(f"{self._name()}: {error}") from error

    def _changed_keys(self, store: bytes, revision: bytes) -> Known:
        known = Known(*self._run(redis_scripts.KEYS, [store, revision]))
        if known.store is None:
            raise self._no_store()
        return known

    def _moment_of(self, answer: list[Any]) -> _Moment:
        moment = _Moment(answer)
        self._own.now_ns = moment.now_ns
        return moment

    # --- the primitives ---------------------------------------------------------------------------------------------

    @contextmanager
    def _moment(self) -> Iterator[Moment]:
        """All rows at once: a moment on a server lasts only as long as one script."""
        yield self._moment_of(self._run(redis_scripts.ALL, []))

    def _transact(
        self, keys: list[str], decide: Decide, once: Once | None = None, note: Callable[[], bytes] = bytes
    ) -> Done:
        start, token_keys = self._begin(once)
        while True:
            moment = self._moment_of(self._run(redis_scripts.READ, [key.encode() for key in keys]))
            rows = {key: moment.row(key) for key in keys}
            stamp = max(moment.stamp + 1, moment.now_ns)
            made = decide(rows, moment.digest, stamp, moment.now_ns)
            found, latest = self.puts(rows, made, moment.now_ns)
            if not found and once is None:
                return Done(moment.revision, note())
            wanted: list[Any] = []
            for key, row in rows.items():
                wanted += [key.encode(), str(row.revision if row else 0)]
            arguments = [
                *start, _digits(max(latest, moment.stamp)), note(), len(rows), len(found), *wanted,
                *(part for put in found for part in _plain(put)),
            ]  # fmt: skip
            answer = self._run(redis_scripts.COMMIT, arguments, token_keys)
            if answer[0] == b"ok":
                return Done(int(answer[1]), answer[2])
            self._refused(once, answer)

    def _begin(self, once: Once | None) -> tuple[list[Any], list[str]]:
        """The first arguments of a change, and the key under which its client's last change is kept."""
        with self._token_lock:
            self._tokens += 1
            number = self._tokens
        who, mark = f"{self._client}:{threading.get_ident()}", _digits(number)
        for_ever = False
        if once is not None:
            who, mark, for_ever = once
        start = [self._channel, str(self.history), "mark" if for_ever else "token", who, mark]
        return start, [f"{{{self.name}}}:token:{who}"]

    def _refused(self, once: Once | None, answer: list[Any]) -> None:
        """Raise the error in an answer, unless it only says that the client must make the change itself."""
        if answer[0] == b"stale":
            raise self.stale(once or Once("this client", "0"), answer[1].decode())
        if answer[0] == b"absent":
            raise self._no_store()

    def _no_store(self) -> StoreError:
        return StoreError(f"there is no store {self.name!r} on {self._name()}; call init() first")

    def _change(self, once: Once | None, origin: int, writes: list[list[Any]]) -> list[Any]:
        """Let the server make a change. Raises ProtocolError if it is stale."""
        start, token_keys = self._begin(once)
        arguments = [
            *start, _digits(origin), _digits(origin >> ORIGIN_BITS), _digits(self.ttl_ns), str(VALUE_BYTES_MAX),
            len(writes), *(part for write in writes for part in write),
        ]  # fmt: skip
        answer: list[Any] = self._run(redis_scripts.CHANGE, arguments, token_keys)
        self._refused(once, answer)
        return answer

    def _set(self, once: Once | None, key: str, value: bytes, ttl_ns: int, expect: int | None, packed: bool) -> int:
        expected = "" if expect is None else str(expect)
        write = ["pack" if packed else "set", key.encode(), value, "", _digits(ttl_ns), expected]
        done, revision, *_ = self._change(once, self.origin, [write])
        if done == b"conflict":
            assert expect is not None
            raise RevisionConflict(key, expect, int(revision))
        return int(revision)

    def _delete(self, once: Once | None, key: str) -> bool:
        answer = self._change(once, self.origin, [["delete", key.encode(), b"", "", _NEVER, ""]])
        return bool(answer[2] == b"1")

    def _merge(self, once: Once | None, key: str, merge: Merge) -> int:
        kind = kvs_cells.kind_of(merge)
        if kind is not None:
            write = ["merge", key.encode(), merge.apply(None), str(kind), _NEVER, ""]
            answer = self._change(once, self.origin, [write])
            if answer[0] == b"ok":
                return int(answer[1])
        return super()._merge(once, key, merge)

    def write_all(self, writes: Sequence[SharedWrite], node: int, once: Once) -> list[str]:
        plain = []
        for item in writes:
            if item.merge is not None:
                kind = kvs_cells.kind_of(item.merge)
                plain.append(["merge", item.key, item.merge.apply(None), str(kind), _digits(item.ttl_ns), ""])
            elif item.value is not None:
                plain.append(["pack" if item.packed else "set", item.key, item.value, "", _digits(item.ttl_ns), ""])
            else:
                plain.append(["delete", item.key, b"", "", _NEVER, ""])
        if self._change(once, self.origin | node, plain)[0] == b"ok":
            return []
        return super().write_all(writes, node, once)

    def purge(self, limit: int = 1000) -> int:
        purged = self._run(redis_scripts.PURGE, [self._channel, str(self.history), "", "", "", str(limit)], [""])
        if not isinstance(purged, int):
            raise self._no_store()
        self._sorted.tidy()
        return purged

    def _await_change(self, revision: int, timeout_s: float, closed: threading.Event) -> None:
        with self._start:
            if self._listener is None:
                self._listener = Listener(self._redis, self._channel)
        self._listener.wait(revision, timeout_s, closed)

    def _wake(self) -> None:
        if self._listener is not None:
            self._listener.wake()

    # --- methods of the base class, without reading all rows --------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        moment = self._moment_of(self._run(redis_scripts.READ, [user_key(key)]))
        row = moment.row(key)
        return None if row is None else entry_of(row, moment.now_ns)

    def page(self, prefix: str, after: str, room: int) -> Page:
        self._check_open()
        self._purge_all()
        start = max(prefix, after, key=str.encode).encode()
        while True:
            keys = self._sorted.from_key(start, prefix.encode(), PAGE_KEYS)
            answer, due = self._run(redis_scripts.PAGE, [room, *keys])
            moment, expired = self._moment_of(answer), self._moment_of(due)
            read = (len(answer) - _HEAD_FIELDS) // 2
            found = [
                (key, entry)
                for key, row in moment.rows()
                if not (after and key == after) and (entry := entry_of(row, moment.now_ns)) is not None
            ]
            more = read < len(keys) or len(keys) == PAGE_KEYS
            if found or not more:
                break
            start = keys[read - 1] + b"\0"  # all of these are gone
        if not more:
            self._sorted.forget()
        return Page(found, more, kvs_cells.version_text(digest_now(expired, expired.now_ns)))

    def version(self) -> str:
        self._purge_all()
        moment = self._moment_of(self._run(redis_scripts.DUE, [1_000_000]))
        return kvs_cells.version_text(digest_now(moment, moment.now_ns))

    def diff(self, since: str | State) -> Diff:
        if not isinstance(since, str):
            return super().diff(since)
        self._purge_all()
        digest = kvs_cells.digest_of(since)
        if digest < 0:
            raise HistoryLost(since)
        (answer,) = self._run(redis_scripts.SINCE, [digest.to_bytes(DIGEST_BYTES, "little")])
        moment = self._moment_of(answer)
        version = kvs_cells.version_text(moment.digest)
        if since == version:
            return Diff({}, frozenset(), version)
        if len(answer) == _HEAD_FIELDS:
            raise HistoryLost(since)
        return diff_of(list(moment.rows()), version, moment.now_ns)

    def revision(self) -> int:
        return self._moment_of(self._run(redis_scripts.READ, [])).revision

    def _after(self, revision: int, limit: int) -> tuple[list[tuple[str, Row]], int]:
        moment = self._moment_of(self._run(redis_scripts.AFTER, [revision, limit]))
        return list(moment.changed_after(revision)), moment.now_ns


_HEAD_FIELDS: Final = 7


class _Moment(Moment):
    """The answer of a script: the head, then keys and rows."""

    def __init__(self, answer: list[Any]) -> None:
        seconds, micros, digest, revision, stamp, _, _ = answer[:_HEAD_FIELDS]
        if digest is None:
            raise StoreError("there is no store of that name on the Redis server; call init() first")
        self.now_ns = (int(seconds) * 1_000_000 + int(micros)) * 1000
        self.digest = int.from_bytes(digest, "little")
        self.revision = int(revision)
        self.stamp = int(stamp)
        self._rows = {
            key.decode(): _row(packed)
            for key, packed in zip(answer[_HEAD_FIELDS::2], answer[_HEAD_FIELDS + 1 :: 2], strict=True)
            if packed is not None
        }

    def row(self, key: str) -> Row | None:
        return self._rows.get(key)

    def rows(self) -> Iterator[tuple[str, Row]]:
        return iter(sorted(self._rows.items(), key=lambda pair: pair[0].encode()))

    def due(self, now_ns: int) -> Iterator[tuple[str, Row]]:
        return ((key, row) for key, row in self._rows.items() if 0 < row.changes_ns <= now_ns)

    def find_digest(self, digest: int) -> int | None:
        raise NotImplementedError("RedisState.diff asks the server")

    def changed_after(self, revision: int) -> Iterator[tuple[str, Row]]:
        later = ((key, row) for key, row in self._rows.items() if row.revision > revision)
        return iter(sorted(later, key=lambda pair: pair[1].revision))


def _row(packed: bytes) -> Row:
    revision, _, rest = packed.partition(b":")
    contributed = int.from_bytes(rest[:DIGEST_BYTES], "little")
    written, changes, stamp, origin, expires, value, parts, *mark = msgpack.unpackb(rest[DIGEST_BYTES:], raw=True)
    cell = Cell(
        int(stamp), int(origin), int(expires), None if value is False else value,
        tuple([Part(kind, int(store), int(first), int(merges), amount, int(over))
               for kind, store, first, merges, amount, over in parts]),
        bool(mark),
    )  # fmt: skip
    return Row(cell, int(revision), int(written), kvs_cells.writer(cell), contributed, int(changes))


def _plain(put: Put) -> list[Any]:
    """A change as the arguments of the script."""
    cell = put.cell
    parts = [
        [kind, _digits(store), _digits(first), _digits(count), amount, _digits(expires)]
        for kind, store, first, count, amount, expires in cell.parts
    ]
    body = [
        _digits(put.written_ns), _digits(put.changes_ns), _digits(cell.stamp), _digits(cell.origin),
        _digits(cell.expires_ns), False if cell.value is None else cell.value, parts,
        *([True] if cell.packed else []),
    ]  # fmt: skip
    packed = msgpack.packb(body, use_bin_type=False)
    expires_us = -(-put.changes_ns // 1000)
    contribution = put.contribution.to_bytes(DIGEST_BYTES, "little")
    return [put.key.encode(), packed, contribution, str(expires_us), _flag(put.gone), _flag(cell.packed)]


def _flag(is_so: bool) -> str:
    return "1" if is_so else "0"


def _digits(number: int) -> str:
    """The number with leading zeros, as the scripts need it: such texts compare as the numbers do."""
    return f"{number:0{DIGITS}d}"


def _sha(script: str) -> str:
    import hashlib

    found = _SHAS.get(script)
    if found is None:
        found = _SHAS[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    return found


_SHAS: Final[dict[str, str]] = {}
_NEVER: Final = "0" * DIGITS
