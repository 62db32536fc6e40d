"""Decodes what a message carries by name into typed records, once, where it arrives. Pure.

`decode(kind, given, what)` returns `given` as a `kind`, or raises ProtocolError with the place, the type found there
and the type that belongs there. What a record's annotations mean on the wire:

    str, bytes, int, float, bool, None     text, binary, a whole number, a number (whole ones too), a boolean, nil
    list[X], dict[K, X]                    an array, a map
    NamedTuple, tuple[X, Y]                an array of exactly these
    dataclass                              a map. A field with a default may be absent, or nil
    TypedDict                              a map, which stays one
    X | None, Literal[...], object         as they say; `object` is whatever came

Keys that a record does not name are passed over: a newer peer may send them. A map that stays one keeps them.
(Rejected: a list of isinstance checks in each operation. They differ in what they let through, and a type checker
cannot see what they have established.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    Any,
    Final,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from noderuntime.errors import ProtocolError

R = TypeVar("R")
Convert = Callable[[Any], Any]

NAME_CHARACTERS_MAX: Final = 40
_NAMES: Final[dict[type, str]] = {
    str: "text", bytes: "binary", int: "a whole number", float: "a number", bool: "a boolean", NoneType: "nil",
    list: "an array", tuple: "an array", dict: "a map",
}  # fmt: skip


def decode(kind: type[R], given: object, what: str) -> R:
    """`given`, as MessagePack gives it, as a `kind`. `what` names it in the text of the ProtocolError."""
    try:
        convert: Callable[[object], R] = _converter(cast(Any, kind))
        return convert(given)
    except _Mismatch as mismatch:
        raise ProtocolError(mismatch.text(what)) from None


class _Mismatch(Exception):
    """A value of another type. Each container that it is in puts its own part before the path."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path = ""

    def within(self, part: str) -> _Mismatch:
        self.path = part + self.path
        return self

    def text(self, what: str) -> str:
        path = self.path.lstrip(".")
        return f"{what}: {path} {self.problem}" if path else f"{what} {self.problem}"


def _other(value: object, wanted: str) -> _Mismatch:
    return _Mismatch(f"is {_NAMES.get(type(value), type(value).__name__)}, not {wanted}")


@cache
def _converter(hint: Any) -> Convert:
    """What makes a value of the wire one of type `hint`; it raises _Mismatch."""
    if hint is object or hint is Any:
        return lambda value: value
    if hint is float:
        return _number
    if hint in (str, bytes, int, bool, NoneType):
        return _plain(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _optional(arguments)
    if origin is Literal:
        return _one_of(arguments)
    if origin is list:
        return _array(*arguments)
    if origin is dict:
        return _map(*arguments)
    if origin is tuple:
        return _items([_converter(each) for each in arguments], tuple)
    if is_typeddict(hint):
        return _typed_map(hint)
    if is_dataclass(hint):
        return _record(hint)
    if issubclass(hint, tuple):
        hints = get_type_hints(hint)
        return _items([_converter(each) for each in hints.values()], lambda found: hint(*found))
    raise TypeError(f"a record cannot hold {hint}")


def _number(value: Any) -> Any:
    if type(value) is not float and type(value) is not int:
        raise _other(value, _NAMES[float])
    return value


def _plain(kind: type) -> Convert:
    def convert(value: Any) -> Any:
        if type(value) is not kind:  # a bool is an int in Python, not on the wire
            raise _other(value, _NAMES[kind])
        return value

    return convert


def _optional(arguments: tuple[Any, ...]) -> Convert:
    (some,) = (each for each in arguments if each is not NoneType)
    inner = _converter(some)

    def convert(value: Any) -> Any:
        try:
            return None if value is None else inner(value)
        except _Mismatch as mismatch:
            if not mismatch.path and mismatch.problem.startswith("is "):
                mismatch.problem += " or nil"
            raise

    return convert


def _one_of(words: tuple[Any, ...]) -> Convert:
    listed = f"one of {', '.join(map(repr, words))}"

    def convert(value: Any) -> Any:
        if type(value) is not str:
            raise _other(value, listed)
        if value not in words:
            raise _Mismatch(f"is {value[:NAME_CHARACTERS_MAX]!r}, not {listed}")
        return value

    return convert


def _array(item: Any) -> Convert:
    inner = _converter(item)

    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise _other(value, _NAMES[list])
        made: list[Any] = []
        try:
            for each in value:
                made.append(inner(each))
        except _Mismatch as mismatch:
            raise mismatch.within(f"[{len(made)}]") from None
        return made

    return convert


def _items(inners: list[Convert], build: Callable[[list[Any]], Any]) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _other(value, _NAMES[list])
        if len(value) != len(inners):
            raise _Mismatch(f"has {len(value)} items, not {len(inners)}")
        made: list[Any] = []
        try:
            for inner, each in zip(inners, value, strict=True):
                made.append(inner(each))
        except _Mismatch as mismatch:
            raise mismatch.within(f"[{len(made)}]") from None
        return build(made)

    return convert


def _map(key: Any, item: Any) -> Convert:
    of_key, of_item = _converter(key), _converter(item)

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise _other(value, _NAMES[dict])
        made = {}
        for name, each in value.items():
            try:
                known = of_key(name)
            except _Mismatch as mismatch:
                raise _KeyMismatch(mismatch.problem) from None
            try:
                made[known] = of_item(each)
            except _Mismatch as mismatch:
                raise mismatch.within(f".{str(name)[:NAME_CHARACTERS_MAX]}") from None
        return made

    return convert


class _KeyMismatch(_Mismatch):
    """A key of a map is of another type."""

    def text(self, what: str) -> str:
        path = self.path.lstrip(".")
        return f"{what}: a key of {path} {self.problem}" if path else f"{what}: a key {self.problem}"


def _typed_map(kind: Any) -> Convert:
    inners = {name: _converter(hint) for name, hint in get_type_hints(kind).items()}
    # (__required_keys__ does not know of NotRequired in annotations that are strings)
    hints = get_type_hints(kind, include_extras=True)
    required = {name for name, hint in hints.items() if get_origin(hint) is not NotRequired}

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise _other(value, _NAMES[dict])
        made = dict(value)
        for name, inner in inners.items():
            if name in value:
                made[name] = _of_field(name, inner, value[name])
            elif name in required:
                raise _Mismatch("is missing").within(f".{name}")
        return made

    return convert


def _record(kind: Any) -> Convert:
    hints = get_type_hints(kind)
    known = [
        (item.name, _converter(hints[item.name]), item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    ]

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise _other(value, _NAMES[dict])
        made = {}
        for name, inner, required in known:
            each = value.get(name)
            if each is not None or (required and name in value):
                made[name] = _of_field(name, inner, each)
            elif required:
                raise _Mismatch("is missing").within(f".{name}")
        return kind(**made)

    return convert


def _of_field(name: str, inner: Convert, value: Any) -> Any:
    try:
        return inner(value)
    except _Mismatch as mismatch:
        raise mismatch.within(f".{name}") from None
