"""Stored values as text: how `state` shows a value, and how a text becomes a value of the same kind. Pure.

A value that is marked as MessagePack (a merge, a seed that is not text, `set --json`) is that. What is not marked is
text where it is printable UTF-8, else bytes, which are shown as hexadecimal digits.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from typing import Any, Final

from noderuntime.api import values
from noderuntime.cli.text import plain

MSGPACK, TEXT, BYTES = "msgpack", "text", "bytes"

_NAMES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "a mapping"),
    (bytes, "bytes"),
    (dt.datetime, "a time"),
)


class Unfit(Exception):
    """A text that cannot be a value of the kind that was asked for. Its text says why."""


def kind_of(value: bytes, packed: bool) -> str:
    """msgpack | text | bytes."""
    if packed and _decoded(value) is not None:
        return MSGPACK
    return BYTES if text_of(value) is None or not _is_printable(value.decode()) else TEXT


def shown_value(value: bytes, packed: bool = False) -> str:
    """MessagePack as JSON, text as it is; anything else (control characters included) as `0x` and hex digits."""
    kind = kind_of(value, packed)
    if kind == MSGPACK:
        return json.dumps(plain_value(unpacked(value)), ensure_ascii=False)
    return value.decode() if kind == TEXT else f"0x{value.hex()}"


def json_value(value: bytes, packed: bool = False) -> dict[str, Any]:
    """`kind`; `value`: MessagePack decoded, the text, or null for bytes; `base64` always, `text` where it is UTF-8
    (else null), `size` in bytes."""
    kind = kind_of(value, packed)
    found = plain_value(unpacked(value)) if kind == MSGPACK else value.decode() if kind == TEXT else None
    encoded = base64.b64encode(value).decode()
    return {"kind": kind, "value": found, "text": text_of(value), "base64": encoded, "size": len(value)}


def unpacked(value: bytes) -> Any:
    """The MessagePack value in `value`. Raises Unfit when it is not one."""
    found = _decoded(value)
    if found is None:
        raise Unfit(f"the {len(value)} bytes are not MessagePack")
    return found[0]


def _decoded(value: bytes) -> tuple[Any] | None:
    try:
        return (values.unpack(value),)
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None
    except Exception as error:  # msgpack's own, some of which derive from nothing narrower
        if type(error).__module__.partition(".")[0] != "msgpack":
            raise
        return None


def text_of(value: bytes) -> str | None:
    """`value` decoded as UTF-8; None when it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _is_printable(text: str) -> bool:
    line = text.replace("\n", "")
    return plain(line) == line


def plain_value(value: Any) -> Any:
    """A MessagePack value as JSON can hold it: bytes as {"base64": ...}, times as texts, numbers that JSON does not
    have as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and not hasattr(value, "code"):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


def shown_key(key: str) -> str:
    """A key on one line: as it is where it can be printed, else quoted with escapes."""
    return key if key.isprintable() and key == key.strip() and key else ascii(key)


# --- a text becomes a value -----------------------------------------------------------------------------------------


def from_json(text: str) -> bytes:
    """MessagePack of a JSON text. Raises Unfit."""
    try:
        return values.pack(json.loads(text, parse_constant=_no_number))
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{_cut(text)} is not JSON: {error}") from None
    except TypeError as error:
        raise Unfit(f"{_cut(text)} cannot be stored: {error}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def from_hex(text: str) -> bytes:
    """The bytes that hexadecimal digits stand for, with or without `0x` before them. Raises Unfit."""
    try:
        return bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        raise Unfit(f"{_cut(text)} is not an even number of hexadecimal digits") from None


def like(text: str, current: bytes | None, packed: bool) -> tuple[bytes, bool]:
    """`text` as a value of the kind of the `current` one (None: there is none), and whether it is to be marked as
    MessagePack. Raises Unfit when it is not of that kind."""
    encoded = text.encode(errors="surrogateescape")
    if current is None:
        return encoded, False
    kind = kind_of(current, packed)
    if kind == TEXT:
        return encoded, False
    if kind == BYTES:
        if not text.startswith("0x"):
            raise Unfit(f"it holds bytes that are not text, and {_cut(text)} is not of the form 0x...")
        return from_hex(text), False
    before = unpacked(current)
    if isinstance(before, str):
        try:
            return values.pack(text), True
        except TypeError as error:
            raise Unfit(f"it holds a text, and {_cut(text)} is none: {error}") from None
    wanted = _name_of(before)
    try:
        made = from_json(text)
    except Unfit:
        raise Unfit(f"it holds {wanted}, and {_cut(text)} is not") from None
    if before is not None and _name_of(unpacked(made)) != wanted:
        raise Unfit(f"it holds {wanted}, and {_cut(text)} is not")
    return made, True


def raw(given: bytes, current: bytes | None, packed: bool) -> bool:
    """Whether bytes that are set as they are stay MessagePack: on a key that is marked so, where they are one."""
    return current is not None and packed and _decoded(given) is not None


def _name_of(value: Any) -> str:
    return next((name for kinds, name in _NAMES if isinstance(value, kinds)), "a MessagePack value")


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
