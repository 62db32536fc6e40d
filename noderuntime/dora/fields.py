"""Readers of single fields of a dora file, beside those of dataflow/yaml/fields.py. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Scalar, Tree, fail, plain_value
from noderuntime.dora.sources import Source, TimerSource, data_id_problem, node_id_problem

CORES_MAX: Final = 4096
_FRAMINGS: Final = ("raw", "arrow-ipc")


def written_source(source: Source) -> str:
    """A source as dora shows it again."""
    return f"dora/{source.written}" if isinstance(source, TimerSource) else source.written


def identifier(tree: Tree, label: str) -> str:
    """The id of a node or operator."""
    name = read.as_written(tree, label)
    problem = node_id_problem(name)
    if problem:
        raise fail(tree.place, f"{label}: {problem}")
    if name in ("dora", "shared", "timer"):
        hint = "Rename it: `dora`, `shared` and `timer` are names of noderuntime's own."
        raise fail(tree.place, f"{label}: {name!r} is reserved", hint)
    return name


def data_id(tree: Tree, label: str) -> str:
    """The id of an input or output."""
    name = read.as_written(tree, label)
    problem = data_id_problem(name)
    if problem:
        raise fail(tree.place, f"{label}: {problem}")
    return name


def one_text(tree: Tree, label: str) -> str:
    """A text, or a number as it is written; no list."""
    if not isinstance(tree, Scalar):
        raise fail(
            tree.place, f"{label} must be one text, not a list or mapping", "Write it in one text: `-v --count 3`."
        )
    return read.as_written(tree, label)


def seconds(tree: Tree, label: str) -> float:
    """Seconds as a number, as in dora; a text with a unit is ours."""
    return read.duration_s(tree, label, zero=True)


def number(tree: Tree | None) -> Any:
    """A number that was read already, as JSON shows it."""
    return float(tree.text) if isinstance(tree, Scalar) and tree.text.replace(".", "").isdigit() else None


def cores(tree: Tree, label: str) -> tuple[int, ...]:
    """Numbers of CPU cores."""
    numbers = tuple(read.whole(item, f"a core in {label}", 0) for item in read.items(tree, label, "Write [0, 1]."))
    for core, item in zip(numbers, read.items(tree, label), strict=True):
        if core >= CORES_MAX:
            raise fail(item.place, f"a core in {label} is {core}", f"Cores are numbered from 0 to {CORES_MAX - 1}.")
    return numbers


def framing(tree: Tree, label: str) -> dict[str, str]:
    """`output_framing`: output -> how dora frames it. Both ways carry the same values here."""
    fields = read.mapping(tree, label, "Write {OUTPUT: raw} or {OUTPUT: arrow-ipc}.")
    return {name: read.choice(value, f"`{name}` in {label}", _FRAMINGS) for name, (_, value) in fields.fields.items()}


def annotated(ports: Collection[str], tree: Tree, label: str) -> Any:
    """A mapping from ports that exist to what is said about them."""
    fields = read.mapping(tree, label)
    for name, (key, _) in fields.fields.items():
        if name not in ports:
            raise fail(
                key.place,
                f"{label} names {name[:60]!r}, which there is not",
                f"There are: {', '.join(ports) or 'none'}.",
            )
    return plain_value(fields)
