"""Seeds: the first values of an empty store, from a file or from the output of a command.

A seed is a mapping of key -> value in YAML (JSON is YAML too): text is stored as UTF-8, `!!binary` as its bytes, any
other value as MessagePack, and marked as that. Anchors are refused: a few lines of them could expand to more than
memory holds.
"""

from __future__ import annotations

import codecs
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from noderuntime.api import values
from noderuntime.dataflow.yaml import tree
from noderuntime.errors import NodeRuntimeError, StoreError
from noderuntime.space.keys import user_key
from noderuntime.space.kvs import check_value

SEED_BYTES_MAX: Final = 64 << 20
SEED_LEVELS_MAX: Final = 64  # the parser's time grows with the square of the depth
COMMAND_S: Final = 60.0


class Seed(NamedTuple):
    """A first value; `packed`: mark it as MessagePack."""

    value: bytes
    packed: bool = False


_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def from_file(path: str) -> dict[str, Seed]:
    """The values in a file. Raises StoreError, with the reason."""
    where = f"seed {path}"
    try:
        if Path(path).stat().st_size > SEED_BYTES_MAX:
            raise StoreError(f"{where} is larger than {SEED_BYTES_MAX} bytes")
        data = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{where} cannot be read: {error.strerror}") from None
    return parse(data, where)


def from_command(command: Sequence[str]) -> dict[str, Seed]:
    """The values that a command prints. Raises StoreError, with the reason."""
    where = f"seed command {' '.join(command)!r}"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=False, close_fds=True
        )
    except OSError as error:
        raise StoreError(f"{where} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"{where} has not ended within {COMMAND_S:.0f} seconds") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise StoreError(f"{where} ended with code {done.returncode}: {said or 'it printed no reason'}")
    if len(done.stdout) > SEED_BYTES_MAX:
        raise StoreError(f"{where} printed more than {SEED_BYTES_MAX} bytes")
    return parse(done.stdout, where)


def parse(data: bytes, where: str) -> dict[str, Seed]:
    """The values in a YAML or JSON text. Raises StoreError, with the reason."""
    text = _decoded(data, where)
    try:
        for event in tree.parser_events(text, SEED_LEVELS_MAX):
            if isinstance(event, yaml.AliasEvent):
                raise StoreError(f"{where}: anchors and aliases are not allowed (*{event.anchor})")
        found = yaml.load(text, Loader=_LOADER)
    except tree.TooDeep as deep:
        what = f"more than {SEED_LEVELS_MAX} levels of nesting"
        raise StoreError(f"{where}:{deep.place.line}:{deep.place.column}: {what}") from None
    except yaml.constructor.ConstructorError as error:
        place = f"{error.problem_mark.line + 1}:{error.problem_mark.column + 1}" if error.problem_mark else ""
        what = f"this value cannot be read ({error.problem}); a tag other than !!binary is not allowed"
        raise StoreError(f"{where}:{place}: {what}") from None
    except yaml.MarkedYAMLError as error:
        wrong = tree.syntax_error(error, text)
        raise StoreError(f"{where}:{wrong.line}:{wrong.column}: {wrong.what}. {wrong.hint}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise StoreError(f"{where} is no YAML: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise StoreError(f"{where} is no mapping of key: value")
    seeds: dict[str, Seed] = {}
    for key, value in found.items():
        if not isinstance(key, str):
            raise StoreError(f"{where}: the key {key!r} is no text; put it in quotes")
        try:
            user_key(key)
            seed = _encoded(value)
            check_value(f"the value of {key!r}", seed.value)
            seeds[key] = seed
        except (NodeRuntimeError, TypeError) as error:
            raise StoreError(f"{where}: {key!r}: {error}") from None
    return seeds


def _decoded(data: bytes, where: str) -> str:
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise StoreError(f"{where} is not UTF-8 text: byte {error.start} cannot be read") from None


def _encoded(value: Any) -> Seed:
    if isinstance(value, str):
        return Seed(value.encode())
    return Seed(value) if isinstance(value, bytes) else Seed(values.pack(value), packed=True)
