"""Operations take typed records: here the arguments of a request become one, before the operation is called.

Arguments that do not fit are a ProtocolError that names them (see noderuntime.ipc.typed).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from noderuntime.ipc.typed import decode

Given = Mapping[str, object]
Result = Mapping[str, object]

A = TypeVar("A")
T = TypeVar("T")

ARGUMENTS: Final = "arguments"


def taking(kind: type[A], operation: Callable[[A], Result]) -> Callable[[Given], Result]:
    """`operation`, called with what a request brings."""
    return lambda given: operation(decode(kind, given, ARGUMENTS))


def taking_txn(kind: type[A], operation: Callable[[T, A], Result]) -> Callable[[T, Given], Result]:
    """As `taking`, for an operation that is called with its transaction, too."""
    return lambda txn, given: operation(txn, decode(kind, given, ARGUMENTS))
