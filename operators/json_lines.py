"""JSON lines: sends the values of a file that holds one JSON value a line. A Source, see `file_lines`.

    outputs   value: the value; metadata {"file", "line"}
    config    as of `file_lines`

Empty lines are passed over. A line that is no JSON ends the node with an error that names file, line and
column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from noderuntime.operators import file_lines


class Operator(file_lines.Operator):
    output = "value"

    def records(self, lines: file_lines.Lines) -> Iterator[tuple[Any, int]]:
        for line in lines:
            if not line.isspace():
                try:
                    yield json.loads(line), lines.number
                except json.JSONDecodeError as error:
                    raise ValueError(f"{lines.place}:{error.colno}: no JSON: {error.msg}") from None
                except RecursionError:
                    raise ValueError(f"{lines.place}: no JSON that can be read: nested too deeply") from None
