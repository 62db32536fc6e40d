"""Sends on what comes in."""

from dora import Node


def main() -> None:
    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", event["value"])


main()
