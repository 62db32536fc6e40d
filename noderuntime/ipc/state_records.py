"""What the store's operations on state take and return: see store_records.py, which lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, NotRequired, TypedDict

# ---- state: the command line


@dataclass(frozen=True, slots=True)
class Listing:
    """`scope`: "shared" or a node's id; `after`: the last key of the page before."""

    scope: str
    prefix: str = ""
    after: str = ""


class ListedKey(NamedTuple):
    key: str
    bytes: int
    revision: int


class Listed(TypedDict):
    keys: list[ListedKey]
    more: bool


@dataclass(frozen=True, slots=True)
class StateKey:
    scope: str
    key: str


class Value(TypedDict):
    """`value` nil: there is none."""

    value: bytes | None
    revision: int
    packed: bool


@dataclass(frozen=True, slots=True)
class Set:
    """`ttl`: seconds; `expect`: the revision that must be in force, 0: no key; `packed`: mark it as MessagePack."""

    key: str
    value: bytes
    ttl: float | None = None
    expect: int | None = None
    packed: bool = False


@dataclass(frozen=True, slots=True)
class StateSet(Set):
    scope: str = field(kw_only=True)


class Removed(TypedDict):
    removed: bool


# ---- state: the contract


class PlainEntry(NamedTuple):
    """An entry: `written_ns` and `expires_ns` (0: never) since the epoch, `origin` as "store/node"."""

    value: bytes
    revision: int
    written_ns: int
    expires_ns: int
    origin: str
    packed: bool


class RootEntry(NamedTuple):
    """A key, and its entry as in PlainEntry."""

    key: str
    value: bytes
    revision: int
    written_ns: int
    expires_ns: int
    origin: str
    packed: bool


class DiffEntry(NamedTuple):
    """An entry of a diff. `ttl`: seconds left."""

    value: bytes
    revision: int
    written_ns: int
    ttl: float | None
    origin: str
    packed: bool


@dataclass(frozen=True, slots=True)
class Key:
    key: str


class Found(TypedDict):
    entry: PlainEntry | None


@dataclass(frozen=True, slots=True)
class Keys:
    keys: list[str]


class FoundAll(TypedDict):
    entries: dict[str, PlainEntry | None]
    version: str


@dataclass(frozen=True, slots=True)
class Part:
    """`after`: the last key of the page before."""

    prefix: str = ""
    after: str = ""


class Root(TypedDict):
    entries: list[RootEntry]
    more: bool
    version: str


class Revision(TypedDict):
    revision: int


class Deleted(TypedDict):
    deleted: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Merging:
    """`merge`: the name of one of noderuntime.merges, and its amount."""

    key: str
    merge: tuple[str, object]


class Version(TypedDict):
    version: str


@dataclass(frozen=True, slots=True)
class Since:
    since: str


class Changes(TypedDict):
    """`diff`: for kvs_apply."""

    changed: dict[str, DiffEntry]
    deleted: list[str]
    version: str
    diff: bytes


class Everything(TypedDict):
    diff: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Applying:
    diff: bytes


class Applied(TypedDict):
    changed: list[str]


class Cursor(NamedTuple):
    """A place in the history: what a watch has seen up to."""

    revision: int
    nth: int


@dataclass(frozen=True, slots=True)
class Watching:
    """`cursor` nil: the result has one to begin with. `wait`: seconds."""

    prefixes: list[str] = field(default_factory=list)
    cursor: Cursor | None = None
    limit: int | None = None
    wait: float = 0.0


class PlainUpdate(NamedTuple):
    """`value` nil: the key is gone."""

    key: str
    value: bytes | None
    revision: int


class Updates(TypedDict):
    """`packed`: for each update, whether its value is marked as MessagePack."""

    updates: list[PlainUpdate]
    packed: NotRequired[list[bool]]
    cursor: Cursor
