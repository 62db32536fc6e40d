"""The parts of a YAML tree: scalars, lists and mappings that know their place in the file.

A scalar keeps the text as it was written; `scalar` returns its value. YAML 1.1 and 1.2 disagree about a plain `on`,
`no` or `010`, so those are refused, and the error shows unambiguous ways to write them.
"""

from __future__ import annotations

import binascii
import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from noderuntime.dataflow.model import Place
from noderuntime.errors import DataflowError

_INT = re.compile(r"[-+]?(?:0x[0-9A-Fa-f][0-9A-Fa-f_]*|0o[0-7][0-7_]*|0b[01][01_]*|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_OCTAL_1_1 = re.compile(r"[-+]?0[0-9_]+")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), math.inf),
    "-.inf": -math.inf,
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_AMBIGUOUS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


@dataclass(slots=True)
class Scalar:
    """One value. `text` is what was written, variables expanded; `plain` when it stood without quotes."""

    text: str
    plain: bool
    tag: str  # "" where none was written
    place: Place
    expanded: bool = False
    values: int = 1
    characters: int = 1
    height: int = 0


@dataclass(slots=True)
class Items:
    """A list."""

    items: list[Tree]
    flow: bool
    place: Place
    values: int = 1
    characters: int = 1
    height: int = 1


@dataclass(slots=True)
class Fields:
    """A mapping: its keys in order, each with its place."""

    fields: dict[str, tuple[Scalar, Tree]]
    flow: bool
    place: Place
    values: int = 1
    characters: int = 1
    height: int = 1

    def get(self, name: str) -> Tree | None:
        """The value of the field; None when it is missing or written as null."""
        found = self.fields.get(name)
        if found is None or is_null(found[1]):
            return None
        return found[1]


Tree: TypeAlias = Scalar | Items | Fields


def fail(place: Place, what: str, hint: str = "") -> DataflowError:
    """An error without its file, unless the place has one: `parse` of reader.py adds that of the dataflow."""
    return DataflowError(what, file=place.file, line=place.line, column=place.column, hint=hint)


def is_null(tree: Tree) -> bool:
    """Whether this is YAML's null: nothing written, `~` or `null`."""
    if not isinstance(tree, Scalar) or tree.tag not in ("", "null"):
        return False
    return tree.plain and tree.text in _CONSTANTS and _CONSTANTS[tree.text] is None


def scalar(tree: Scalar, unquote: bool = False) -> Any:
    """What the scalar means: None, bool, int (64 bits), float, str, or bytes for `!!binary`.

    With `unquote`, quotes around a text that held variables are ignored: "${N}" can be a number.
    """
    if tree.tag == "binary":
        try:
            return binascii.a2b_base64("".join(tree.text.split()), strict_mode=True)
        except ValueError as error:
            raise fail(
                tree.place,
                f"this is not base64: {error}",
                "`!!binary` takes base64, as `base64 FILE` prints it.",
            ) from None
    if tree.tag == "str" or (not tree.tag and not tree.plain and not (unquote and tree.expanded)):
        return tree.text
    value = _plain(tree)
    if tree.tag and {"int": int, "float": (int, float), "bool": bool, "null": type(None)}[
        tree.tag
    ] is not type(value):
        if tree.tag == "float" and type(value) in (int, float):
            return float(value)
        raise fail(
            tree.place, f"{tree.text[:40]!r} is no {tree.tag}", f"The tag `!!{tree.tag}` asks for one."
        )
    return value


def plain_value(tree: Tree) -> Any:
    """The tree as None, bool, int, float, str, bytes, lists and dicts: what MessagePack carries."""
    if isinstance(tree, Scalar):
        return scalar(tree)
    if isinstance(tree, Items):
        return [plain_value(item) for item in tree.items]
    return {name: plain_value(value) for name, (_, value) in tree.fields.items()}


def describe(tree: Tree) -> str:
    """A short description of a tree, for error messages."""
    if isinstance(tree, Items):
        return "a list"
    if isinstance(tree, Fields):
        return "a mapping"
    value = scalar(tree)
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {tree.text}"
    if isinstance(value, int | float):
        return f"the number {tree.text[:40]}"
    if isinstance(value, bytes):
        return "binary data"
    return f"the text {tree.text[:40]!r}" + ("..." if len(tree.text) > 40 else "")


def _plain(tree: Scalar) -> Any:
    text = tree.text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text.lower() in _AMBIGUOUS and text in (text.lower(), text.upper(), text.title()):
        meant = _AMBIGUOUS[text.lower()]
        raise fail(
            tree.place,
            f"a plain `{text}` is the boolean {meant} to some readers of YAML and a text to others",
            f'Write {meant} for the boolean, or "{text}" for the text.',
        )
    if _OCTAL_1_1.fullmatch(text) and text.strip("+-0_"):
        raise fail(
            tree.place,
            f"the number {text[:40]} begins with 0: octal to some readers of YAML, decimal to others",
            f'Write it without the 0, as 0o... for octal, or "{text[:40]}" for a text.',
        )
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        number = int(digits, 10 if _OCTAL_1_1.fullmatch(text) else 0) if len(digits) < 70 else 1 << 64
        if not -(1 << 63) <= number < 1 << 64:
            raise fail(
                tree.place,
                f"the number {text[:40]} does not fit into 64 bits",
                "Write it in quotes, as a text.",
            )
        return number
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
