"""CSV rows: sends the rows of a CSV file with a header. A Source, see `file_lines`.

    outputs   row: {column: value}; metadata {"file", "line"}, the line on which the row begins
    config    path, encoding, batch   as of `file_lines`
              delimiter               default ","
              types                   {column: int | float | bool | str}; what is not named stays text.
                                      bool: true or false, yes or no, 1 or 0. An empty field that is not text
                                      is None.

A row with too few or too many fields, or a field that is not of its type, ends the node with an error that
names file, line and column.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from noderuntime.operators import file_lines

from noderuntime import Context

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TYPES: dict[str, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: _BOOLS[text.strip().lower()], "str": str,
}  # fmt: skip


class Operator(file_lines.Operator):
    output = "row"
    fields = ("path", "encoding", "batch", "delimiter", "types")

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.delimiter = ctx.config.get("delimiter", ",")
        if not isinstance(self.delimiter, str) or len(self.delimiter) != 1:
            raise ValueError(f"config: delimiter: {self.delimiter!r} is not one character")
        self.header = self.read_header()
        self.types = ctx.config.get("types", {})
        if not isinstance(self.types, dict):
            raise ValueError(f"config: types: {self.types!r} is not a mapping {{COLUMN: TYPE}}")
        for column, kind in self.types.items():
            if column not in self.header:
                raise ValueError(f"config: types: {column}: {self.path} has only {self.header}")
            if kind not in _TYPES:
                raise ValueError(f"config: types: {column}: {kind!r} is not one of {', '.join(_TYPES)}")

    def read_header(self) -> list[str]:
        with self.open() as file:
            lines = file_lines.Lines(file, [0, 0], self.encoding, follow=False)
            header = next(csv.reader(lines, delimiter=self.delimiter), [])
        if not header or len(set(header)) < len(header):
            raise ValueError(f"{self.path}:1: {header} is no header: it names each column once")
        self.header_end = [lines.offset, lines.number]
        return header

    def produce(self, position: Any, ctx: Context) -> Any:
        return super().produce(position or self.header_end, ctx)

    def records(self, lines: file_lines.Lines) -> Iterator[tuple[Any, int]]:
        for first in lines:
            if first.isspace():
                continue
            number, place = lines.number, lines.place
            try:
                # a quoted field may go on over several lines: the reader takes as many as it needs
                fields = next(csv.reader(chain([first], lines), delimiter=self.delimiter, strict=True))
            except csv.Error as error:
                raise ValueError(f"{place}: {error}") from None
            if len(fields) != len(self.header):
                raise ValueError(f"{place}: {len(fields)} fields, where the header has {len(self.header)}")
            row = zip(self.header, fields, strict=True)
            yield {column: self.convert(column, text, place) for column, text in row}, number

    def convert(self, column: str, text: str, place: str) -> Any:
        kind = self.types.get(column, "str")
        if not text and kind != "str":
            return None
        try:
            return _TYPES[kind](text)
        except (ValueError, KeyError):
            raise ValueError(f"{place}: column {column}: {text!r} is no {kind}") from None
