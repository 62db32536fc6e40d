"""A node that does nothing; BENCH_OUT/ready gets its pid when it is connected."""

import os
from pathlib import Path

from dora import Node


def main() -> None:
    node = Node()
    with Path(os.environ["BENCH_OUT"], "ready").open("a") as ready:
        ready.write(f"{os.getpid()}\n")
    for _ in node:
        pass


main()
