"""`iterable_source`: a replayable Source from a function that returns an iterable.

    @iterable_source(output="n")
    def numbers(ctx):
        return range(ctx.config["count"])

The position is the number of items sent. After a crash, or on another machine, the function is called again and that
many items are skipped, so it must give the same items in the same order each time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, overload

from noderuntime.api.operator import Context, Source, make

_NOTHING = object()


class IterableSource(Source):
    """The base of the classes that `iterable_source` makes, one for each function."""

    function: Callable[..., Iterable[Any]]
    output: str
    batch: int

    def __init__(self) -> None:
        self._items: Iterator[Any] | None = None
        self._sent = 0

    def produce(self, position: Any, ctx: Context) -> Any:
        done = position or 0
        if self._items is None or self._sent != done:
            self._items = iter(make(type(self).function, ctx))
            for number in range(done):
                if next(self._items, _NOTHING) is _NOTHING:
                    raise ValueError(
                        f"{type(self).__name__} gave {done} items before, and now only {number}: "
                        "it has to give the same ones each time"
                    )
            self._sent = done
        for item in islice(self._items, self.batch):
            ctx.send_output(self.output, item)
            self._sent += 1
        return Source.END if self._sent == done else self._sent


@overload
def iterable_source(
    function: Callable[..., Iterable[Any]], *, output: str, batch: int = 1
) -> type[IterableSource]: ...


@overload
def iterable_source(
    function: None = None, *, output: str, batch: int = 1
) -> Callable[[Callable[..., Iterable[Any]]], type[IterableSource]]: ...


def iterable_source(
    function: Callable[..., Iterable[Any]] | None = None, *, output: str, batch: int = 1
) -> type[IterableSource] | Callable[[Callable[..., Iterable[Any]]], type[IterableSource]]:
    """Makes a Source class from a function that takes nothing or `ctx` and returns an iterable. Use it as a decorator,
    or call it with the function.

    The items are sent on `output`, `batch` of them in one transaction. Raises TypeError and ValueError.
    """
    if not isinstance(output, str) or not output:
        raise TypeError(f"iterable_source: output={output!r}; it is the name of an output")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"iterable_source: batch={batch!r}; it is a whole number above 0")

    def derive(function: Callable[..., Iterable[Any]]) -> type[IterableSource]:
        if not callable(function):
            raise TypeError(f"iterable_source: {function!r} is no function that gives an iterable")
        name = getattr(function, "__name__", "iterable_source")
        body = {
            "__module__": getattr(function, "__module__", __name__),
            "__qualname__": getattr(function, "__qualname__", name),
            "__doc__": inspect.getdoc(function),
            "function": staticmethod(function),
            "output": output,
            "batch": batch,
        }
        return type(name, (IterableSource,), body)

    return derive if function is None else derive(function)
