"""Where snapshots are kept: what `snapshots: {to: ...}` may say, and what it means.

    (nothing)                               the run's own folder below the state directory
    none                                    nowhere
    ./kept  /mnt/kept  ~/kept               a directory, relative to the dataflow file's folder
    s3://BUCKET[/PREFIX]  gs://  az://      an object store
    slatedb+<a directory or an object store>

A text that looks like an address and is none of these is refused. As the name of a directory, it would put the
snapshots where no user expects them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

NONE: Final = "none"
SLATE: Final = "slatedb+"
SCHEMES: Final = ("s3", "gs", "az")
KNOWN: Final = f"{NONE}, a directory, s3://, gs://, az://, {SLATE}<any of these>"

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(.*)", re.DOTALL)
_ALSO_CALLED = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az", "abfs": "az", "abfss": "az", "wasb": "az"}


class WrongPlace(ValueError):
    """`what` is wrong with it, and what to do instead."""

    def __init__(self, what: str, hint: str) -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}. {hint}")


@dataclass(frozen=True, slots=True)
class SnapshotPlace:
    """`where` is a directory as it was written, or an address without a slash at its end; "" for the other kinds."""

    kind: Literal["default", "none", "directory", "objects"]
    where: str = ""
    slate: bool = False

    def below(self, name: str) -> str:
        """The part of an object store, or of a directory, that belongs to the run of that name."""
        return f"{self.where}/{name}"


def parse(to: str) -> SnapshotPlace:
    """Raises WrongPlace."""
    if to == "":
        return SnapshotPlace("default")
    if to == NONE:
        return SnapshotPlace("none")
    if to.strip().lower() in (NONE, "null"):
        raise WrongPlace(f"{to!r} is not a place", f"Write `to: {NONE}` to keep no snapshots, or ./{to} for a folder")
    if to.lower().startswith(SLATE):
        if not to.startswith(SLATE):
            raise WrongPlace(f"{to!r} is not a place", f"Write {SLATE} in small letters")
        return _slate(to.removeprefix(SLATE))
    return _plain(to)


def _slate(inner: str) -> SnapshotPlace:
    if inner.lower() in ("", NONE) or inner.lower().startswith(SLATE):
        raise WrongPlace(f"{SLATE}{inner} is not a place", f"Write {SLATE} before a directory, s3://, gs:// or az://")
    found = _plain(inner)
    return SnapshotPlace(found.kind, found.where, slate=True)


def _plain(to: str) -> SnapshotPlace:
    address = _ADDRESS.fullmatch(to)
    if address is not None:
        return SnapshotPlace("objects", _address(to, address[1], address[2]))
    if to.startswith("~") and to != "~" and not to.startswith("~/"):
        raise WrongPlace(f"{to!r} names the home of another user", f"Write the path in full, or ./{to} for a folder")
    return SnapshotPlace("directory", to.rstrip("/") or "/")


def _address(to: str, scheme: str, rest: str) -> str:
    bucket = rest.lstrip("/").partition("/")[0]
    if "@" in bucket or ":" in bucket:  # first of all: the texts below say what was given, and this may be a secret
        hint = "Credentials come from the environment, and an endpoint as `snapshots: {options: {endpoint: ...}}`"
        raise WrongPlace(f"{scheme}://: {bucket.rpartition('@')[2]!r} is not the name of a bucket", hint)
    known = scheme.lower()
    known = _ALSO_CALLED.get(known, known)
    if known == "file":
        raise WrongPlace(f"{to!r} is an address of a file", "Write the path of the directory alone")
    if known not in SCHEMES:
        raise WrongPlace(f"{to!r}: {scheme}:// is not a kind of place", f"Known are: {KNOWN}")
    path = rest.lstrip("/")
    if scheme != known or not rest.startswith("/"):
        raise WrongPlace(f"{to!r} is not a place", f"Did you mean {known}://{path}? (./{to} is a folder)")
    for sign in "?#":
        if sign in rest:
            what = f"{to!r} has a part behind {sign!r}, which an address of snapshots cannot have"
            raise WrongPlace(what, "Give options such as the region as `snapshots: {options: {region: ...}}`")
    if any(ord(sign) <= 32 or ord(sign) == 127 for sign in rest):
        raise WrongPlace(f"{to!r} has spaces or control characters in it", f"Write {known}://BUCKET/PREFIX")
    parts = rest[1:].removesuffix("/").split("/")
    if not parts[0]:
        raise WrongPlace(f"{to!r} names no bucket", f"Write {known}://BUCKET/PREFIX")
    if not all(parts) or any(part in (".", "..") for part in parts):
        raise WrongPlace(
            f"{to!r} has empty parts, or dots, between its slashes",
            f"Did you mean {known}://{'/'.join(part for part in parts if part not in ('', '.', '..'))}?",
        )
    return f"{known}://{'/'.join(parts)}"
