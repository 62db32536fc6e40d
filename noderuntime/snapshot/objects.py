"""Snapshots in an object store, through obstore: s3://, gs://, az://. Needs the extra `noderuntime[s3]`.

Every object is put with the condition that it does not exist yet (If-None-Match), by one atomic request. obstore
retries transient failures, with back-off. If a retry finds that the object exists, it may be our own first try, of
which only the answer was lost: so we compare the content.

s3:// and az:// are tested against protocol servers; gs:// uses the same code and is untested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from noderuntime.snapshot.backend import SnapshotUnavailable

CHUNK_BYTES = 1 << 20
RETRIES_MAX = 8
RETRY_S = 120
CLIENT_OPTIONS = frozenset(
    {"allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout", "user_agent"}
)

T = TypeVar("T")


class ObjectBlobs:
    """The Blobs below a URL.

    `options` go to the store: endpoint, region, ...; credentials come from the environment. `retry_s`: for how long
    transient failures are retried.
    """

    def __init__(self, url: str, options: Mapping[str, Any], retry_s: float = RETRY_S) -> None:
        self.place = url
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise SnapshotUnavailable(url, "obstore is not installed. Try: pip install 'noderuntime[s3]'") from None
        self._obstore = obstore
        client: dict[str, Any] = {key: value for key, value in options.items() if key in CLIENT_OPTIONS}
        config: dict[str, Any] = {key: value for key, value in options.items() if key not in CLIENT_OPTIONS}
        if str(config.get("endpoint", "")).startswith("http://"):
            client.setdefault("allow_http", True)
        try:
            make: Callable[..., Any] = from_url
            self._store: Any = make(
                url,
                config=config or None,
                client_options=client or None,
                retry_config={
                    "max_retries": RETRIES_MAX,
                    "retry_timeout": timedelta(seconds=retry_s),
                    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=15)},
                },
            )
        except (obstore.exceptions.BaseError, ValueError, TypeError) as error:
            raise SnapshotUnavailable(url, f"{_line(error)}. Check `snapshots: {{options: ...}}`.") from None

    def _call(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except (FileNotFoundError, FileExistsError):
            raise
        except (self._obstore.exceptions.BaseError, OSError) as error:
            hint = "Check the address, `snapshots: {options: ...}` and the credentials in the environment."
            raise SnapshotUnavailable(self.place, f"{_line(error)}. {hint}") from None

    def _create(self, name: str, data: bytes) -> None:
        try:
            self._call(lambda: self._obstore.put(self._store, name, data, mode="create"))
        except FileExistsError:
            if self._same(name, data):
                return
            raise
        except FileNotFoundError as error:
            raise SnapshotUnavailable(self.place, f"{_line(error)}. Does the bucket exist?") from None
        except SnapshotUnavailable as error:
            if isinstance(error.__context__, self._obstore.exceptions.AlreadyExistsError):
                if self._same(name, data):
                    return
                raise FileExistsError(name) from None
            raise

    def _same(self, name: str, data: bytes) -> bool:
        digest = hashlib.sha256()
        try:
            for chunk in self.get(name):
                digest.update(chunk)
        except FileNotFoundError:
            return False
        return digest.digest() == hashlib.sha256(data).digest()

    def put_file(self, name: str, path: Path) -> None:
        self._create(name, path.read_bytes())
        path.unlink()

    def put(self, name: str, data: bytes) -> None:
        self._create(name, data)

    def get(self, name: str) -> Iterator[bytes]:
        found = self._call(lambda: self._obstore.get(self._store, name))
        chunks = iter(found.stream(min_chunk_size=CHUNK_BYTES))
        while (chunk := self._call(lambda: next(chunks, None))) is not None:
            yield bytes(chunk)

    def names(self) -> dict[str, int]:
        def listed() -> dict[str, int]:
            stream = self._obstore.list(self._store)
            return {item["path"]: item["size"] for batch in stream for item in batch if "/" not in item["path"]}

        return self._call(listed)

    def delete(self, names: list[str]) -> None:
        for name in names:
            try:
                self._call(lambda name=name: self._obstore.delete(self._store, name))  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def close(self) -> None:
        pass


def _line(error: BaseException) -> str:
    """The first line of the library's error text; the rest is its inner state."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
