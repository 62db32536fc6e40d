"""Kinds of State by name: ours, and those that packages register under the entry point `noderuntime.state`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from noderuntime.errors import StoreError
from noderuntime.identifiers import nearest
from noderuntime.state.base import State

GROUP: Final = "noderuntime.state"
MEMORY: Final = "memory"


def known() -> list[str]:
    """The names of all kinds that are installed."""
    from importlib.metadata import entry_points  # slow to import, and most processes need none

    return sorted({point.name for point in entry_points(group=GROUP)} | {MEMORY})


def find(kind: str) -> type[State]:
    """The class of a kind. Raises StoreError when there is none of that name, or when it cannot be imported."""
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP, name=kind):
        try:
            found = point.load()
        except Exception as error:
            raise StoreError(f"state: kind {kind!r} ({point.value}) cannot be loaded: {error}") from error
        if not (isinstance(found, type) and issubclass(found, State)):
            raise StoreError(f"state: kind {kind!r} ({point.value}) does not derive from noderuntime.state.State")
        return found
    near = nearest(kind, known())
    hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(known())}"
    raise StoreError(f"state: there is no kind {kind!r}; {hint}. Install the package that brings it.")


def open_kind(kind: str, config: Mapping[str, Any]) -> State:
    """A State of that kind, from the fields of the `state:` section. Raises StoreError."""
    return find(kind).open(config)
