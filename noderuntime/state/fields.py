"""Reads the fields of a kind from its config: checks their types, and refuses unknown fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from noderuntime.dataflow.identifiers import nearest
from noderuntime.errors import StoreError

_REQUIRED: Final = object()


class Fields:
    """The fields of one config. Read the known ones, then call `end`. Raises StoreError, naming the field."""

    def __init__(self, kind: str, config: Mapping[str, Any]) -> None:
        self.kind = kind
        self._left = dict(config)
        self._known: list[str] = []

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        value: str = self._take(name, default, (str,), "a text")
        return value

    def whole(self, name: str, default: Any = _REQUIRED) -> int:
        """An int of at least 0."""
        value: int = self._take(name, default, (int,), "a whole number")
        if value < 0:
            raise StoreError(f"state: {name} of kind {self.kind!r} is {value}; write a number from 0 on")
        return value

    def number(self, name: str) -> float | None:
        """A number above 0, or None if it is not given."""
        value: float | None = self._take(name, None, (int, float, type(None)), "a number")
        if value is not None and not value > 0:
            raise StoreError(f"state: {name} of kind {self.kind!r} is {value}; write a number above 0")
        return value

    def end(self) -> None:
        """Refuse the fields that were not read."""
        for name in self._left:
            near = nearest(str(name), self._known)
            hint = f"did you mean {near!r}?" if near else f"its fields are: {', '.join(self._known)}"
            raise StoreError(f"state: kind {self.kind!r} has no field {name!r}; {hint}")

    def _take(self, name: str, default: Any, types: tuple[type, ...], what: str) -> Any:
        self._known.append(name)
        value = self._left.pop(name, default)
        if value is _REQUIRED:
            raise StoreError(f"state: kind {self.kind!r} needs the field {name!r}, {what}")
        if type(value) not in types and value is not default:
            raise StoreError(f"state: {name} of kind {self.kind!r} is {what}, not {value!r:.40}")
        return value
