"""Which fault points exist: a fault at a point that nothing passes would make its test silently weaker."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import get_args

from noderuntime.ipc import entrypoints, protocol
from noderuntime.runtime import lifecycle_events
from noderuntime.store import service

INJECTOR = Path(__file__).parent / "inject" / "sitecustomize.py"


@cache
def plain_points() -> frozenset[str]:
    """The points that are named in full: by the injector, or by the modules that call their points themselves: `hook`
    is `point`, where it is passed often.
    """
    places = [INJECTOR, *entrypoints.PACKAGE.rglob("*.py")]
    return frozenset(name for place in places for name in _named(ast.parse(place.read_text())) if name)


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        names = {"point": node.args, "hook": node.args, "around": node.args[2:]}.get(node.func.id, [])
        yield from (str(name.value) for name in names if isinstance(name, ast.Constant))


def exists(point: str) -> bool:
    """Whether some process can pass this point."""
    family, _, name = point.partition(" ")
    if point in plain_points():
        return True
    if family in ("send", "sent", "received"):
        return isinstance(getattr(protocol, name, None), type)
    if family == "event":
        return name in {event.__name__ for event in lifecycle_events.EVENTS}
    if family in ("do", "done"):
        return name in {action.__name__ for action in get_args(lifecycle_events.Action)}
    if family in ("request", "answer"):
        folder = Path(service.__file__).parent
        return any(f'"{name}"' in path.read_text() for path in folder.glob("*.py"))
    return False


def missing(points: Iterable[str]) -> list[str]:
    """Those of `points` that do not exist."""
    return [point for point in points if not exists(point)]
