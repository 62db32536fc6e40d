"""Kinds of State by name: ours, and those that packages register under the entry point `noderuntime.state`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from noderuntime.dataflow.identifiers import nearest
from noderuntime.errors import StoreError
from noderuntime.state.base import State

GROUP: Final = "noderuntime.state"
MEMORY: Final = "memory"


def known() -> list[str]:
    """The names of all kinds that are installed."""
    from importlib.metadata import entry_points  # slow to import, and most processes need none

    return sorted({point.name for point in entry_points(group=GROUP)} | {MEMORY})


def find(kind: str) -> type[State]:
    """The class of a kind. Raises StoreError if there is none of that name, or it cannot be imported."""
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
    hint = f"Did you mean {near!r}?" if near else f"There are: {', '.join(known())}."
    raise StoreError(f"state: there is no kind {kind!r}. {hint} A kind of others comes with its package.")


def check(kind: str, plain: Mapping[str, Any]) -> None:
    """Whether a run could open that kind, as far as can be told without running code of others. Raises StoreError.

    `plain`: what StateSpec.to_plain gives. Only a user's kind itself knows its fields.
    """
    if kind not in known():
        find(kind)  # which raises, and lists the kinds
    if kind == MEMORY or plugin(kind) is not None:
        return
    find(kind).read_config(config_of(plain))


def config_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `state:` section that `open` of a kind gets."""
    config = {name: plain[name] for name in ("history", "ttl") if plain.get(name) is not None}
    return {**config, **plain.get("options", {})}


def plugin(kind: str) -> tuple[str, str] | None:
    """(module, class) of a kind that another package brings; None for our own kinds."""
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP, name=kind):
        if point.module.partition(".")[0] != "noderuntime":
            return point.module, point.attr
    return None


def open_kind(kind: str, config: Mapping[str, Any]) -> State:
    """A State of that kind, from the fields of the `state:` section. Raises StoreError."""
    return find(kind).open(config)
