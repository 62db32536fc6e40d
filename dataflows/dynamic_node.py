"""The dynamic node of dynamic.yml: `python dynamic_node.py WORD...` sends the words; without any it asks for lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from noderuntime import Node, NotRunning


def words() -> Iterator[str]:
    given = sys.argv[1:]
    if given:
        yield from given
        return
    print("words, please; an empty line or Ctrl-D ends", flush=True)
    for line in sys.stdin:
        if not line.split():
            return
        yield from line.split()


def main() -> int:
    try:
        with Node("keyboard", run="dynamic") as node:
            for word in words():
                node.send_output("word", word)
    except NotRunning as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
