"""JSON lines: sends the values of a file that holds one JSON value a line. A Source, see `file_lines`.

    outputs   value: the value; metadata {"file", "line"}
    config    as of `file_lines`

Empty lines are passed over. A line that is not JSON ends the node with an error that names file, line and
column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from noderuntime.operators import file_lines

CONFIG = file_lines.CONFIG


class Operator(file_lines.Operator):
    output = "value"

    def records(self, lines: file_lines.Lines) -> Iterator[tuple[Any, int]]:
        for line in lines:
            if not line.isspace():
                yield self.parse(line, lines.place), lines.number

    def parse(self, line: str, place: str) -> Any:
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}:{error.colno}: no JSON: {error.msg}") from None
        except RecursionError:
            raise ValueError(f"{place}: no JSON that can be read: nested too deeply") from None
        except ValueError as error:  # a number of too many digits
            raise ValueError(f"{place}: no JSON that can be read: {error}") from None
