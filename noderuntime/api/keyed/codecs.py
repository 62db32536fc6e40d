"""Keys and states of keyed operators as text and bytes.

The keys of private state are texts, so each key is converted to a *tag*: its type, a colon, its text.
`noderuntime state ls` shows `str:left`, `int:7`, `bool:True`. A long key becomes a hash. An instance of a subclass and
a numpy scalar are the same key as the plain value that they equal: numpy.int64(7) is 7, a member of an Enum of texts is
its text. True, 1, 1.0 and "1" are four keys.

A saved value comes back equal, except that tuples come back as lists. A value for which that is impossible is refused.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from noderuntime.api.values import BYTES, KINDS, MSGPACK, VIEW, decode, encode, exact, moment, unpack

TAG_BYTES_MAX: Final = 200  # longer tags are hashed; a private key may have 508
NESTING_MAX: Final = 100  # of a state or key that contains anything but exact plain types
TAG_KINDS: Final = frozenset({"str", "int", "bool", "float", "msgpack", "sha256"})  # what a tag begins with
TAGGED: Final = frozenset({bool, int, float, str})  # keys whose tag shows their text
_VALUE: Final = 64  # a value of values.py is the MessagePack extension 64 + its kind


def key_tag(key: Any) -> str:
    """The text under which the state of `key` is saved. Keys of different type or value have different tags.

    Raises TypeError for a key that MessagePack cannot carry.
    """
    kind = type(key)
    if kind is str:
        tag = f"str:{key}"
    elif kind is bool or kind is int or kind is float:
        tag = f"{kind.__name__}:{key!r}"
    else:
        try:
            packed = pack_plain(_sorted(key))
        except NOT_PLAIN:
            key = _packable(key, 0)
            if type(key) in TAGGED:
                return key_tag(key)
            packed = _pack_exact(_sorted(key))
        tag = f"msgpack:{packed.hex()}"
    return _bounded(tag)


def old_tag(key: Any) -> str | None:
    """The tag that versions up to 0.1 gave to a key that is not of exact types; None if they refused the key."""
    try:
        packed = msgpack.packb(_sorted(key), use_bin_type=True, datetime=True, default=_extension)
    except NOT_PLAIN:
        return None
    return _bounded(f"msgpack:{packed.hex()}")


def _bounded(tag: str) -> str:
    if len(tag) > TAG_BYTES_MAX // 4 and len(tag.encode(errors="surrogatepass")) > TAG_BYTES_MAX:
        tag = f"sha256:{hashlib.sha256(tag.encode(errors='surrogatepass')).hexdigest()}"
    return tag


def _sorted(key: Any) -> Any:
    """`key` with all its dicts sorted, so that equal dicts give equal tags."""
    if isinstance(key, dict):
        return {name: _sorted(key[name]) for name in sorted(key, key=_order)}
    if isinstance(key, list | tuple) and type(key) is not msgpack.ExtType:
        return [_sorted(part) for part in key]
    return key


def _order(name: Any) -> tuple[str, Any]:
    return ("", name) if isinstance(name, str) else (type(name).__name__, name)


pack_plain: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, strict_types=True).pack
"""What `pack` tries first: packs values of exact types, which come back unchanged. Raises NOT_PLAIN for all others.

One Packer serves every call, because creating one costs more than packing most values; it has no default function, so
nothing calls back into Python. It is strict: a value that needs a closer look (a tuple, also as a dict's key; an
instance of a subclass; a datetime) is refused.
"""
NOT_PLAIN = (TypeError, ValueError, OverflowError, BufferError)
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})


def pack(value: Any) -> bytes:
    """MessagePack of a value; arrays and Arrow data are extensions. Raises TypeError if it cannot be saved."""
    try:
        return pack_plain(value)
    except NOT_PLAIN:  # an array, for example, or a value that cannot be saved at all
        pass
    return _pack_exact(_packable(value, 0))


_packer: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, datetime=True).pack


def _pack_exact(value: Any) -> bytes:
    try:
        return _packer(value)
    except OverflowError:
        raise TypeError("int: MessagePack carries 64 bits, and this one is larger") from None
    except UnicodeEncodeError as error:
        raise TypeError(f"str: cannot be saved as UTF-8 ({error.reason})") from None


def _packable(value: Any, depth: int) -> Any:
    """`value` converted to exact types, arrays and the like to extensions. Raises TypeError if that is impossible."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth > NESTING_MAX:
        raise TypeError(f"{kind.__name__}: nested more than {NESTING_MAX} deep, or in itself")
    if kind is msgpack.ExtType and not _VALUE <= value.code < _VALUE + KINDS:
        return value
    if isinstance(value, list | tuple):
        items = list.copy(value) if isinstance(value, list) else list(tuple.__iter__(value))
        return items if _SCALARS.issuperset(map(type, items)) else [_packable(item, depth + 1) for item in items]
    if isinstance(value, dict):
        plain = exact(value)
        made = {_packable_name(name): _packable(item, depth + 1) for name, item in plain.items()}
        if len(made) < len(plain):
            raise TypeError("dict: two of its keys are saved as the same one, and one of their values would be lost")
        return made
    if kind is dt.datetime and value.tzinfo is not None:
        return moment(value)
    try:
        code, head, body = encode(value)
    except TypeError as error:
        raise TypeError(str(error).replace("cannot travel", "cannot be saved", 1)) from None
    if code in (BYTES, VIEW):
        return bytes(body)
    if code == MSGPACK and type(plain := unpack(body)) is not dt.datetime:
        return plain
    return _extended(code, head, body)


def _packable_name(name: Any) -> Any:
    """The key of a dict. A tuple is refused: it would come back as a list, which is not hashable."""
    if isinstance(name, tuple):
        raise TypeError(f"dict: the key {name!r:.60} is a tuple: it would come back as a list, which cannot be a key")
    return _packable(name, 0)


def _extension(value: Any) -> msgpack.ExtType:
    """Packs types that MessagePack itself does not know: arrays and the like."""
    return _extended(*encode(value))


def _extended(code: int, head: bytes, body: Any) -> msgpack.ExtType:
    return msgpack.ExtType(_VALUE + code, msgpack.packb([head, body], use_bin_type=True))


def _unextension(code: int, data: bytes) -> Any:
    if not _VALUE <= code < _VALUE + KINDS:  # the user's own
        return msgpack.ExtType(code, data)
    head, body = unpack(data)
    return decode(code - _VALUE, head, body)


def unpack_stored(packed: bytes) -> Any:
    return msgpack.unpackb(packed, raw=False, timestamp=3, strict_map_key=False, ext_hook=_unextension)


def packable(value: Any) -> Any:
    """`value` converted to exact types, arrays and the like to MessagePack extensions. Raises TypeError."""
    return _packable(value, 0)


def packed_exactly(value: Any) -> bytes:
    """MessagePack of what `packable` returned. Raises TypeError."""
    return _pack_exact(value)


# --- the saved value of a key -----------------------------------------------------------------------------------------


UNPACK_ERRORS: Final = (msgpack.UnpackException, ValueError)


class Saved(NamedTuple):
    """The saved value of a key, taken apart: [state, time of its latest event, timer, key, due].

    `state`: its bytes. `due`: the time of the key's entry in the index of what is due, or None if it has none.
    """

    state: bytes
    last: float
    timer: float | None
    key: Any
    due: float | None


def take_apart(stored: bytes) -> Saved:
    """Without decoding the state. Raises ValueError when `stored` is not the saved value of a key."""
    unpacker = msgpack.Unpacker(
        raw=False, timestamp=3, strict_map_key=False, ext_hook=_unextension, max_buffer_size=len(stored)
    )
    unpacker.feed(stored)
    try:
        count = unpacker.read_array_header()
        start = unpacker.tell()
        unpacker.skip()
        end = unpacker.tell()
        last, timer, key, *rest = (unpacker.unpack() for _ in range(count - 1))
    except (TypeError, *UNPACK_ERRORS) as error:
        raise ValueError(f"not the saved value of a key: {error}") from None
    due = rest[0] if rest else None
    if unpacker.tell() != len(stored) or len(rest) > 1 or not _is_time(last):
        raise ValueError("not the saved value of a key")
    if not (timer is None or _is_time(timer)) or not (due is None or _is_time(due)):
        raise ValueError("not the saved value of a key")
    return Saved(stored[start:end], last, timer, key, due)


def _is_time(value: Any) -> bool:
    return type(value) is float or type(value) is int


def with_due(saved: Saved, due: float | None) -> bytes:
    """The value as it is saved, with another `due`."""
    rest = [saved.last, saved.timer, saved.key]
    if due is None:
        return b"\x94" + saved.state + pack(rest)[1:]
    return b"\x95" + saved.state + pack([*rest, due])[1:]


class Codec(Protocol):
    """Converts a state to bytes and back. Equal states should give equal bytes."""

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
    """The Codec for `given`: an object with encode and decode, one with dumps and loads, or a pair of functions.

    None if `given` is None: states are then saved as MessagePack and may hold everything that `pack` takes.
    Raises TypeError for anything else.
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
