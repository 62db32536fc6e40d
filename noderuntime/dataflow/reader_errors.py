"""Collects the errors of a dataflow file, so that a user sees all of them at once rather than one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from noderuntime.dataflow.links import ERRORS_MAX
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, Tree, fail
from noderuntime.errors import DataflowError

NODE_FIELDS = (
    "id", "path", "args", "operator", "env", "inputs", "outputs", "config", "restart_policy", "max_restarts",
    "restart_window", "restart_delay", "max_restart_delay", "max_attempts", "start_timeout",
    "health_check_timeout", "spawn", "process", "replicas", "partition_by",
)  # fmt: skip
_ELSEWHERE = {  # fields of other dataflow files and of docker compose, and what to write instead
    "build": "Nothing is built when a dataflow is loaded: build beforehand, and remove this field.",
    "operators": "One operator a node: write `operator:` with one mapping, in a node of its own.",
    "custom": "Write `path:` and `args:` of a custom node directly into the node.",
    "source": "Write `python: FILE` in an operator, or `path: FILE` in a custom node.",
    "command": "Write `path: EXECUTABLE` and `args: ...`.",
    "restart": "Write `restart_policy: never`, `on-failure` or `always`.",
    "shared-library": "Operators are Python: write `python: FILE` or `module: NAME`.",
}

T = TypeVar("T")
D = TypeVar("D")


class Misspelt(DataflowError):
    """A required field is missing because its name is misspelt, which `unknown` has reported: one error is enough."""


class ErrorCollector:
    """What the readers of fields share: an error in one field does not keep the others from being read."""

    def __init__(self) -> None:
        self.errors: list[DataflowError] = []

    def keep(self, call: Callable[[], T], default: D) -> T | D:
        """The result of `call`; the default if it raises a DataflowError, which is kept."""
        try:
            return call()
        except Misspelt:
            return default
        except DataflowError as error:
            self.errors.append(error)
            return default

    def take(self, fields: Fields, name: str, where: str, reader: Callable[[Tree, str], T], default: T) -> T:
        """The field `name` as `reader` reads it; the default if it is absent or wrong."""
        tree = fields.get(name)
        if tree is None:
            return default
        return self.keep(lambda: reader(tree, f"`{name}` of {where}"), default)

    def unknown(self, fields: Fields, known: tuple[str, ...], where: str, of_nodes: str = "") -> set[str]:
        """Reports unknown fields. Returns the known fields that their author probably meant. `of_nodes`: where to write
        what is a field of a node instead.
        """
        meant = set()
        for name, (key, _) in fields.fields.items():
            if name in known or len(self.errors) > ERRORS_MAX:
                continue
            near = "" if of_nodes and name in NODE_FIELDS else read.near(name, known)
            if of_nodes and name in NODE_FIELDS:
                hint = f"`{name}` is a field of a node: {of_nodes}."
            else:
                hint = _ELSEWHERE.get(name) or (f"Did you mean `{near}`?" if near else f"Known are {_listed(known)}.")
            self.errors.append(fail(key.place, f"unknown field `{name[:60]}` in {where}", hint))
            if near:
                meant.add(near)
        return meant


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def raise_all(errors: list[DataflowError], file: str) -> NoReturn:
    """Raise one error that tells all of them, in the order of their places. `file`: of those that name none."""
    named = (DataflowError(e.what, file=e.file or file, line=e.line, column=e.column, hint=e.hint) for e in errors)
    unique = list({str(error): error for error in named}.values())
    unique.sort(key=lambda error: (error.file != file, error.file, error.line, error.column))
    first = unique[0]
    left = len(unique) - ERRORS_MAX
    more = unique[1:ERRORS_MAX]
    if left > 0:
        more.append(DataflowError(f"and {left} more", file=file))
    raise DataflowError(
        first.what, file=first.file, line=first.line, column=first.column, hint=first.hint, more=more
    ) from None
