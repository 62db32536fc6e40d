"""Nodes that write shared state in every way, so that what they have written tells whether each write counted once."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

MODULUS = 1 << 61


def chained(before: list[int], number: int) -> list[int]:
    """[last number, digest of all in order]: what a chain holds behind one more link."""
    return [number, (before[1] * 1_000_003 + number) % MODULUS]


class Writer:
    """Writes in its events' transactions, and at once.

    What is written at once may be written again by the next life, so each of these is such that twice is once: links of
    a chain by `expect`, elements of a set, keys that are set and deleted. Only `tries` counts what is tried.
    """

    def on_event(self, event: Any, ctx: Any) -> None:
        if event["type"] != "INPUT":
            return
        from noderuntime.errors import RevisionConflict
        from noderuntime.merges import Add, Union

        while not Path("watched").exists():  # a watch sees what comes behind it
            time.sleep(0.002)
        time.sleep(0.01)  # or all of it would be one commit of the watcher
        number = int(event["uid"].rpartition("#")[2])
        kvs = ctx.kvs
        while True:
            entry = kvs.get("chain")
            held = json.loads(entry.value) if entry else [0, 0]
            if held[0] >= number:
                break
            try:
                made = json.dumps(chained(held, number)).encode()
                kvs.set("chain", made, expect=entry.revision if entry else 0)
                break
            except RevisionConflict:
                continue
        kvs.merge("tries", Add(1))
        kvs.merge("seen at once", Union({number}))
        kvs.set(f"gone/{number}", b"v")
        assert kvs.delete(f"gone/{number}")
        kvs.set(f"mortal/{number}", b"v", ttl=0.02)
        ctx.kvs_merge("count", Add(1))
        ctx.kvs_merge("seen", Union({number}))
        ctx.kvs_write(f"w/{number}", b"%d" % number)
        ctx.kvs_write("last", b"%d" % number)
        ctx.kvs_write(f"passing/{number}", b"v")
        ctx.kvs_delete(f"passing/{number - 1}")


class Watcher:
    """Counts what is written below `w/`; each key there is written once."""

    def __init__(self, ctx: Any) -> None:
        self.count = self.total = 0
        ctx.kvs.watch("w/")
        Path("watched").touch()

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.count, self.total = map(int, state["sums"].split())

    def on_event(self, event: Any, ctx: Any) -> Any:
        from noderuntime import Status

        if event["type"] == "KVS_UPDATE":
            self.count += 1
            self.total += int(event["value"])
            ctx.save_state("sums", b"%d %d" % (self.count, self.total))
            ctx.kvs_write("watched", b"%d %d" % (self.count, self.total))
        return Status.STOP if self.count >= ctx.config["count"] and all_happened() else None


def all_happened() -> bool:
    """Whether all faults of this run have."""
    return len(list(Path(os.environ["FAULTS_DIR"]).iterdir())) >= len(json.loads(os.environ["FAULTS"]))
