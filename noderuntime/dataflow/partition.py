"""`partition_by`: the part of a message that decides which replica of its receiver gets it. Pure.

    value                  the whole value
    value.FIELD[.FIELD]    a field of a value that is a mapping, or of a mapping in it
    metadata.FIELD         a field of the metadata
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

FORMS: Final = "value, value.FIELD[.FIELD], metadata.FIELD"


class PartitionProblem(ValueError):
    """A text that is no partition. `hint`: what to write."""

    def __init__(self, what: str, hint: str) -> None:
        self.hint = hint
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Partition:
    """Where in a message to look: `of_metadata` or in its value, and the names of fields, one in the other."""

    of_metadata: bool
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(("metadata" if self.of_metadata else "value", *self.fields))

    def key(self, value: Any, metadata: Mapping[str, Any] | None) -> Any:
        """The part of a message; None where there is no such field."""
        found = metadata if self.of_metadata else value
        for name in self.fields:
            if not isinstance(found, Mapping):
                return None
            found = found.get(name)
        return found


def parse_partition(text: str) -> Partition:
    """Raises PartitionProblem."""
    root, *fields = text.split(".")
    if root not in ("value", "metadata"):
        hint = f"Write value.{text}, or metadata.{text}." if _is_field(text) else f"It is one of {FORMS}."
        raise PartitionProblem(f"{text[:60]!r} begins with neither `value` nor `metadata`", hint)
    bad = next((name for name in fields if not _is_field(name)), None)
    if bad is not None:
        what = f"{bad[:40]!r} in {text[:60]!r} is no name of a field" if bad else f"a name is missing in {text[:60]!r}"
        raise PartitionProblem(what, f"It is one of {FORMS}.")
    if root == "metadata" and len(fields) != 1:
        what = f"{text[:60]!r} goes deeper than one field" if fields else "`metadata` alone is no key"
        raise PartitionProblem(what, f"Write metadata.{fields[0] if fields else 'FIELD'}.")
    return Partition(root == "metadata", tuple(fields))


def _is_field(name: str) -> bool:
    return bool(name) and name.isprintable() and not any(sign in name for sign in " []()'\"")
