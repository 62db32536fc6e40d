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
from typing import Any, ClassVar

from noderuntime.operators import file_lines, settings

from noderuntime import Context

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TYPES: dict[str, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: _BOOLS[text.strip().lower()], "str": str,
}  # fmt: skip


csv.field_size_limit(max(csv.field_size_limit(), file_lines.LINE_BYTES_MAX))


def _types(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a mapping {{COLUMN: TYPE}}")
    for column, kind in value.items():
        if not isinstance(kind, str) or kind not in _TYPES:
            raise ValueError(f"{column}: {kind!r} is not one of {', '.join(_TYPES)}")
    return value


CONFIG = settings.Schema(
    {
        **{name: field for name, field in file_lines.CONFIG.fields.items() if name != "follow"},
        "delimiter": settings.match(r"[^\r\n\"]", "one character", ","),
        "types": settings.Field(_types, {}),
    }
)


class Operator(file_lines.Operator):
    output = "row"
    schema: ClassVar[Any] = CONFIG

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        config = CONFIG.read(ctx.config)
        self.delimiter: str = config["delimiter"]
        self.types: dict[str, str] = config["types"]
        self.header = self.read_header()
        for column in self.types:
            if column not in self.header:
                raise ValueError(f"config: types: {column}: {self.path} has only {self.header}")
        # what an empty line may consist of: in a file of one column, spaces are a value
        self.blank = " \t\v\f".replace(self.delimiter, "") if len(self.header) > 1 else ""

    def read_header(self) -> list[str]:
        with self.open() as file:
            lines = file_lines.Lines(file, [0, 0], self.encoding, follow=False)
            try:
                header = next(csv.reader(lines, delimiter=self.delimiter, strict=True), [])
            except csv.Error as error:
                raise ValueError(f"{self.path}:1: {error}") from None
            self.header_end = [lines.offset, lines.number]
        if not header or len(set(header)) < len(header):
            raise ValueError(f"{self.path}:1: {header} is no header: it names each column once")
        return header

    def produce(self, position: Any, ctx: Context) -> Any:
        return super().produce(position or self.header_end, ctx)

    def records(self, lines: file_lines.Lines) -> Iterator[tuple[Any, int]]:
        for first in lines:
            if not first.rstrip("\r\n").strip(self.blank):
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
