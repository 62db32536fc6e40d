"""Calls into code written by others, and data that they send: frames, requests, plug-ins, background threads.

One rule holds at each boundary: every exception, except those that mean the end of our own process, is caught, counted,
and answered or reported, and the run continues. `Boundary` implements that rule; `cut` and `plain` make data from
others safe to keep and to pass on. (Rejected: a list of expected exceptions at each boundary. It is never complete,
because others write the State kinds, snapshot backends and clients, and the first one missing would end the run.)
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final

ERROR_CHARACTERS_MAX: Final = 10_000
TRACE_CHARACTERS_MAX: Final = 100_000
NAME_CHARACTERS_MAX: Final = 200
NESTING_MAX: Final = 20
ITEMS_MAX: Final = 1_000  # of one mapping or list, and of all that is nested in a value
KINDS_TOLD_MAX: Final = 100

_CUT = "\n[... {} characters left out ...]\n"


class Boundary:
    """Makes calls that may raise any exception.

    `tell` receives one sentence for the first failure of each kind, so that a peer that repeats one does not fill the
    log. `caught` counts all failures. Exceptions in `passes` mean the end of our own process and are not caught;
    neither is SystemExit.
    """

    def __init__(self, tell: Callable[[str], object], passes: tuple[type[BaseException], ...] = ()) -> None:
        self.caught = 0
        self._tell = tell
        self._passes = passes
        self._told: set[tuple[str, type, str]] = set()

    def call(self, what: str, function: Callable[..., object], *args: Any) -> BaseException | None:
        """Call `function`; returns what it raised, or None. `what` names the call in the sentence."""
        try:
            function(*args)
        except self._passes:
            raise
        except Exception as error:
            self.note(what, error)
            return error
        return None

    def note(self, what: str, error: BaseException) -> None:
        """Count `error`, and report it if it is the first of its kind."""
        self.caught += 1
        kind = what, type(error), _place(error)
        if kind in self._told or len(self._told) >= KINDS_TOLD_MAX:
            return
        self._told.add(kind)
        try:
            self._tell(f"{what}: {describe(error)} ({kind[2]}); it continues without")
        except Exception:  # reporting failed, too
            self.caught += 1


def all_of(calls: Iterable[Callable[[], object]]) -> None:
    """Make all the calls, even if some raise; then raise the first exception."""
    first: Exception | None = None
    for call in calls:
        try:
            call()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first


def describe(error: BaseException) -> str:
    """One line of at most ERROR_CHARACTERS_MAX characters: the error's class and text."""
    lines = traceback.format_exception_only(error)
    return cut(lines[-1].strip().replace("\n", " "), ERROR_CHARACTERS_MAX)


def _place(error: BaseException) -> str:
    """Where it was raised, as "file:line"."""
    at = error.__traceback__
    if at is None:
        return "place unknown"
    while at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}"


def cut(text: str, most: int) -> str:
    """`text` as valid UTF-8 (lone surrogates become "?"), of about `most` characters. The middle of a longer text is
    left out: its beginning says where an error was, its end says what it was.
    """
    if len(text) > most:
        head = most // 3
        text = f"{text[:head]}{_CUT.format(len(text) - most)}{text[head - most :]}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def plain(value: Any, text_max: int = TRACE_CHARACTERS_MAX) -> Any:
    """`value` converted to types that both JSON and MessagePack can carry: None, bool, int of 64 bits, finite float,
    text, lists, and dicts with text keys. Any other value becomes its repr; what is too long or too deep is cut.
    """
    return _plain(value, text_max, 0, [ITEMS_MAX])


def _plain(value: Any, text_max: int, depth: int, room: list[int]) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return cut(str.__str__(value), text_max)
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else _shown(value, text_max)
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if kind not in (dict, list, tuple) or depth >= NESTING_MAX:
        return _shown(value, text_max)
    items = list(value.items() if kind is dict else value)[: max(0, room[0])]
    left = len(value) - len(items)
    room[0] -= len(items)
    if kind is dict:
        made = {_name(key): _plain(item, text_max, depth + 1, room) for key, item in items}
        return {**made, "...": f"{left} more"} if left else made
    listed = [_plain(item, text_max, depth + 1, room) for item in items]
    return [*listed, f"... {left} more"] if left else listed


def _name(key: Any) -> str:
    return cut(str.__str__(key) if isinstance(key, str) else _shown(key, NAME_CHARACTERS_MAX), NAME_CHARACTERS_MAX)


def _shown(value: Any, most: int) -> str:
    try:
        if type(value) is int and value.bit_length() > 4000:  # Python refuses to write some of these as decimals
            return cut(hex(value), most)
        return cut(repr(value), most)
    except Exception as error:  # its own __repr__, or nested too deep
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
