"""Merges: updates of a shared value that commute, so that concurrent writers need not read it first.

    ctx.kvs_merge("seen", Add(1))            ctx.kvs_merge("ids", Union({"a", "b"}))
    merges.decode(ctx.kvs_read("seen"))      # 1

Guarantees, each covered by a test:

1. `apply` is a pure function of the merge and the current bytes; None means that the key does not exist.
2. Two merges of one class give the same bytes in either order (float sums: up to rounding).
3. `Max`, `Min` and `Union` may be applied twice with the effect of once.
4. A value that a merge cannot work on raises TypeError at the call.

The stored bytes are one MessagePack value: a number, or for `Union` a list, sorted and without repetition.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

Number = int | float  # numpy scalars too, but not bool
Element = None | bool | int | float | str | bytes

_ELEMENT_ORDER: dict[type, int] = {
    kind: rank for rank, kind in enumerate((type(None), bool, int, float, str, bytes))
}


class Merge(Protocol):
    """Anything with a commuting `apply`."""

    def apply(self, current: bytes | None) -> bytes:
        """The value that follows `current` (None: the key does not exist). Raises TypeError."""


def decode(stored: bytes) -> Any:
    """The number or list that a merge has stored. Raises TypeError for bytes that are not MessagePack."""
    try:
        return msgpack.unpackb(stored, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        raise TypeError(f"{stored[:40]!r} was not stored by a merge: it is not MessagePack") from None


def _number(name: str, value: object) -> Number:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        whole = int(value)
        if not -(2**63) <= whole < 2**64:
            raise TypeError(f"{name}: {whole} does not fit the 64 bits of a MessagePack integer; use a float")
        return whole
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        if math.isnan(value):
            raise TypeError(f"{name}: not-a-number has no place in an order or a sum")
        return float(value) + 0.0  # so that -0.0 is 0.0: equal numbers must be equal bytes
    raise TypeError(f"{name}: needs an int or a float, not {value!r:.40} ({type(value).__name__})")


def _rank(number: Number) -> tuple[Number, bool]:
    """The order of numbers. 1 and 1.0 are ordered too: otherwise the bytes would depend on the order of the merges."""
    return number, isinstance(number, int)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


@dataclass(frozen=True, slots=True)
class _NumberMerge:
    amount: Number

    def __post_init__(self) -> None:
        object.__setattr__(self, "amount", _number(type(self).__name__, self.amount))

    def apply(self, current: bytes | None) -> bytes:
        """The value that follows `current` (None: the key does not exist). Raises TypeError."""
        if current is None:
            return _pack(self.amount)
        name = f"{type(self).__name__} on what the key holds"
        return _pack(_number(name, self.combine(_number(name, decode(current)))))

    def combine(self, stored: Number) -> Number:
        raise NotImplementedError


class Add(_NumberMerge):
    """The sum of all amounts. Ints add exactly, floats with their rounding."""

    def combine(self, stored: Number) -> Number:
        return stored + self.amount


class Max(_NumberMerge):
    """The greatest amount so far."""

    def combine(self, stored: Number) -> Number:
        return max(stored, self.amount, key=_rank)


class Min(_NumberMerge):
    """The smallest amount so far."""

    def combine(self, stored: Number) -> Number:
        return min(stored, self.amount, key=_rank)


@dataclass(frozen=True, slots=True)
class Union:
    """The set of all elements so far: None, bool, int, float, str or bytes. True, 1 and 1.0 differ."""

    elements: Set[Element]

    def __post_init__(self) -> None:
        if not isinstance(self.elements, set | frozenset):
            raise TypeError(f"Union: needs a set, not {self.elements!r:.40} ({type(self.elements).__name__})")
        _ordered(self.elements)
        object.__setattr__(self, "elements", frozenset(self.elements))

    def apply(self, current: bytes | None) -> bytes:
        """The value that follows `current` (None: the key does not exist). Raises TypeError."""
        stored = [] if current is None else decode(current)
        if not isinstance(stored, list):
            raise TypeError(f"Union on what the key holds: needs a list, not {type(stored).__name__}")
        return _pack(_ordered([*stored, *self.elements]))


def _ordered(elements: Iterable[Any]) -> list[Element]:
    """Without repetition, by type and then by value: Python cannot order 1 and "1", nor tell 1 from True."""
    found: dict[bytes, Element] = {}
    for element in elements:
        if type(element) is float:
            element += 0.0  # -0.0 is 0.0
        if type(element) not in _ELEMENT_ORDER or element != element:
            raise TypeError(
                f"Union: {element!r:.40} ({type(element).__name__}) cannot be an element; "
                "these can: None, bool, int, float, str, bytes"
            )
        try:
            found[_pack(element)] = element
        except (OverflowError, ValueError) as error:
            raise TypeError(f"Union: {element!r:.40} cannot be an element: {error}") from None
    return sorted(found.values(), key=_place)


def _place(element: Element) -> tuple[int, Any]:
    return _ELEMENT_ORDER[type(element)], 0 if element is None else element
