"""Keys and states of keyed operators as text and bytes. Floor 1, pure.

A private key is a text, so a key of any other kind becomes one: its type, a colon, its text. `noderuntime
state ls` then shows `str:left`, `int:7`, `bool:True`. Long keys become a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgpack

from noderuntime.values import decode, encode, unpack

TAG_BYTES_MAX: Final = 200  # longer keys are hashed; a private key may have 508
_VALUE: Final = 64  # MessagePack extensions from here on: a value of values.py, 64 + its kind


def key_tag(key: Any) -> str:
    """The text under which the state of `key` is saved. Keys of different type or value have different tags.

    Raises TypeError for what MessagePack cannot carry.
    """
    kind = type(key)
    if kind is str:
        tag = f"str:{key}"
    elif kind is bool or kind is int or kind is float:
        tag = f"{kind.__name__}:{key!r}"
    else:
        tag = f"msgpack:{pack(_sorted(key)).hex()}"
    if len(tag) > TAG_BYTES_MAX // 4 and len(tag.encode(errors="surrogatepass")) > TAG_BYTES_MAX:
        tag = f"sha256:{hashlib.sha256(tag.encode(errors='surrogatepass')).hexdigest()}"
    return tag


def _sorted(key: Any) -> Any:
    """`key` with all its dicts in one order: equal dicts are equal keys."""
    if isinstance(key, dict):
        return {name: _sorted(key[name]) for name in sorted(key)}
    return [_sorted(part) for part in key] if isinstance(key, list | tuple) else key


pack_plain: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, datetime=True).pack
"""What `pack` tries first, for values without arrays and the like. Raises NOT_PLAIN.

One Packer for all, since making one costs more than most packing; without a default nothing calls back into Python.
"""
NOT_PLAIN = (TypeError, ValueError, OverflowError)


def pack(value: Any) -> bytes:
    """MessagePack of a value, and of arrays and Arrow data as extensions. Raises TypeError for what cannot be saved."""
    try:
        return pack_plain(value)
    except NOT_PLAIN:  # an array, say, or what cannot be saved at all
        pass
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True, datetime=True, default=_extension)
    except OverflowError:
        raise TypeError("int: MessagePack carries 64 bits, and this one is larger") from None
    return packed


def _extension(value: Any) -> msgpack.ExtType:
    """What MessagePack does not know by itself: arrays and the like."""
    kind, head, body = encode(value)
    return msgpack.ExtType(_VALUE + kind, msgpack.packb([head, body], use_bin_type=True))


def _unextension(code: int, data: bytes) -> Any:
    head, body = unpack(data)
    return decode(code - _VALUE, head, body)


def unpack_stored(packed: bytes) -> Any:
    return msgpack.unpackb(packed, raw=False, timestamp=3, strict_map_key=False, ext_hook=_unextension)


class Codec(Protocol):
    """How a state becomes bytes and comes back. Equal states should give equal bytes."""

    def encode(self, state: Any) -> bytes: ...

    def decode(self, stored: bytes) -> Any: ...


class Functions:
    """A codec of two functions, for instance `json.dumps` (with its text as UTF-8) and `json.loads`."""

    def __init__(self, encode: Callable[[Any], bytes | str], decode: Callable[[bytes], Any]) -> None:
        self._encode = encode
        self._decode = decode

    def encode(self, state: Any) -> bytes:
        stored = self._encode(state)
        return stored.encode() if isinstance(stored, str) else bytes(stored)

    def decode(self, stored: bytes) -> Any:
        return self._decode(stored)


def codec_of(given: Any) -> Codec | None:
    """The codec that was given: an object with encode and decode, one with dumps and loads, or two functions.

    None: there is none, and states are saved as MessagePack, with all that `pack` takes.
    """
    if given is None:
        return None
    if isinstance(given, tuple) and len(given) == 2 and all(map(callable, given)):
        return Functions(*given)
    for names in (("encode", "decode"), ("dumps", "loads")):
        pair = [getattr(given, name, None) for name in names]
        if all(map(callable, pair)):
            return Functions(*pair)  # type: ignore[arg-type]
    raise TypeError(
        f"codec={given!r:.60}; it is an object with encode(state) -> bytes and decode(bytes), "
        "one with dumps and loads, or a pair of two such functions"
    )
