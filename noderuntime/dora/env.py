"""Values of `env` in a dora file: their variables, and how a number or boolean is spelled. Pure.

Variables expand in these values alone, from the environment of the command: `$V`, `${V}`, `${V:-default}`; `$$` is a
dollar sign, and so is a `$` that begins no variable. A value without quotes that is a number is spelled as dora spells
it (`1.0` is 1, `1e3` is 1000, `0x10` is 16). A value in quotes stays as it is, which is not so in dora.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, Items, Scalar, Tree, fail, is_null

_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})")
_INT = re.compile(r"[-+]?(?:[0-9]|[1-9][0-9]+)")
_BASED = re.compile(r"[-+]?0(?:x[0-9A-Fa-f]+|o[0-7]+|b[01]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
DIGITS_MAX = 300

Value = bool | int | float | str


def read_env(tree: Tree, label: str, environ: Mapping[str, str]) -> dict[str, Value]:
    """An `env` block. Raises DataflowError."""
    made: dict[str, Value] = {}
    for name, (key, value) in read.mapping(tree, label, "Write `NAME: value` lines below it.").fields.items():
        if not name or "=" in name or "\0" in name:
            raise fail(key.place, f"{name[:60]!r} in {label} cannot be the name of a variable")
        made[name] = read_value(value, f"`{name[:60]}` in {label}", environ)
    return made


def read_value(tree: Tree, label: str, environ: Mapping[str, str]) -> Value:
    """One value: what it means. Raises DataflowError."""
    if not isinstance(tree, Scalar) or tree.tag == "binary" or is_null(tree):
        kind = "a list" if isinstance(tree, Items) else "a mapping" if isinstance(tree, Fields) else "nothing"
        hint = 'Write "" for an empty text.' if kind == "nothing" else "Write `NAME: $VAR` to take another variable's."
        raise fail(tree.place, f"{label} must be a text, a number or a boolean, not {kind}", hint)
    if "\0" in tree.text:
        raise fail(tree.place, f"{label} holds a NUL character", "No variable can hold one.")
    if "$" in tree.text:
        return _expanded(tree, label, environ)
    return _plain(tree.text) if tree.plain else tree.text


def spelled(value: Value) -> str:
    """The text that the node finds in its environment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        text = format(Decimal(repr(value)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return {"nan": "NaN"}.get(str(value), str(value)) if isinstance(value, float) else str(value)


def _plain(text: str) -> Value:
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) <= DIGITS_MAX:
        if _INT.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text) and not text.lstrip("+-").isdigit():
            return float(text)
    return text


def _expanded(tree: Scalar, label: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        dollar, bare, braced, default = match.groups()
        if dollar:
            return "$"
        name = bare or braced
        found = environ.get(name)
        if found is None:
            found = default
        if found is None:
            hint = (
                f"Set it (`{name}=... noderuntime ...`), or give a default: ${{{name}:-default}}. Only the environment "
                "of the command counts, not other entries of `env`. A dollar sign is written `$$`."
            )
            raise fail(tree.place, f"{label}: the variable {name} is not set", hint)
        return found

    return _VARIABLE.sub(value, tree.text)
