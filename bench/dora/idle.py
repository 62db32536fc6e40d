"""A node that does nothing; BENCH_OUT/ready gets a line when it is connected."""

import os
from pathlib import Path

from dora import Node


def main() -> None:
    node = Node()
    with Path(os.environ["BENCH_OUT"], "ready").open("a") as ready:
        ready.write("ready\n")
    for _ in node:
        pass


main()
