"""`snapshot take|ls|verify`: the snapshots of runs, of those too that have ended or were lost.

`take` asks the store of a live run. `ls` and `verify` look where the last run of that name kept its snapshots.
"""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.choose import choose
from noderuntime.cli.client import StoreClient, take_snapshot
from noderuntime.cli.offline import settings_of
from noderuntime.cli.output import CommandError
from noderuntime.cli.text import duration
from noderuntime.errors import SnapshotCorrupt
from noderuntime.runtime.summary import letters_text
from noderuntime.snapshot.backend import Listed
from noderuntime.snapshot.retention import letters_at


def snapshot(options: Namespace) -> int:
    """Carry out one `snapshot` command."""
    return {"take": _take, "ls": _ls, "verify": _verify}[options.operation](options)


def _take(options: Namespace) -> int:
    run = choose(options.run)
    with StoreClient(run.name, run.run_dir.store_socket) as store:
        taken = take_snapshot(store, "asked")
    if options.json:
        output.result_json(taken)
    else:
        output.result(f"{taken['number']}")
        output.tell(f"{taken['kind']}, {taken['bytes']} bytes, in {taken['took_s']:.3f} s")
    return output.OK


def _ls(options: Namespace) -> int:
    settings = settings_of(options.run)
    backend = settings.open()
    try:
        listed: list[Listed] = backend.snapshots()
    finally:
        backend.close()
    if options.json:
        output.result_json([_plain(item) for item in listed])
    elif listed:
        heads = ("SNAPSHOT", "AGE", "KIND", "BYTES", "KEYS", "WHY", "DATAFLOW", "STATE")
        output.result_table(heads, [_row(item) for item in listed])
    else:
        output.tell(f"{settings.run} has no snapshots in {backend.place}")
    return output.OK


def _row(item: Listed) -> tuple[Any, ...]:
    manifest = item.manifest
    if manifest is None:
        return (item.number, "-", "-", "-", "-", "-", "-", f"damaged: {item.problem}")
    age = duration(max(0.0, (time.time_ns() - manifest.created_ns) / 1e9))
    kind = "full" if manifest.full else f"on {manifest.chain[-1]}"
    dead = sum(letters_at(manifest).values())
    state = ("finished" if manifest.finished else "can be resumed") + (f", {letters_text(dead)}" if dead else "")
    dataflow = _dataflow(manifest.dataflow)
    return (item.number, age, kind, manifest.size_bytes, manifest.keys, manifest.why, dataflow, state)


def _dataflow(found: dict[str, Any]) -> str:
    """Which dataflow a snapshot has, for a person."""
    if not found:
        return "-"
    changes = int(found["changes"])
    times = f" after {changes} change{'s' if changes > 1 else ''}" if changes else ""
    drain = f", {', '.join(found['drain'])} draining" if found["drain"] else ""
    scaled = "".join(f", {node} scaled to {replicas}" for node, replicas in found["scaled"].items())
    return f"{Path(found['file']).name}{times}{scaled}{drain}"


def _plain(item: Listed) -> dict[str, Any]:
    manifest = item.manifest
    if manifest is None:
        return {"snapshot": item.number, "problem": item.problem}
    return {
        "snapshot": item.number,
        "problem": "",
        "run": manifest.run,
        "created": manifest.created_ns / 1e9,
        "kind": "full" if manifest.full else "incremental",
        "chain": list(manifest.chain),
        "bytes": manifest.size_bytes,
        "keys": manifest.keys,
        "growth_bytes": manifest.growth_bytes,
        "why": manifest.why,
        "finished": manifest.finished,
        "fingerprint": manifest.fingerprint,
        "dataflow": manifest.dataflow or None,
        "cut": manifest.cut,
        "counts": manifest.counts,
    }


def _verify(options: Namespace) -> int:
    """Read them all, every byte. Exit code 1 when one is damaged."""
    settings = settings_of(options.run)
    backend = settings.open()
    results: list[tuple[int, str]] = []
    try:
        listed: list[Listed] = backend.snapshots()
        for item in listed:
            if options.snapshot is None or item.number == options.snapshot:
                problem = item.problem
                if item.manifest is not None:
                    try:
                        backend.verify(item.number)
                    except SnapshotCorrupt as error:
                        problem = error.what
                results.append((item.number, problem))
        if any(problem for _, problem in results):  # unless the run has pruned it, or what it builds on, meanwhile
            there = {item.number for item in backend.snapshots()}
            results = [(number, problem) for number, problem in results if not problem or number in there]
    finally:
        backend.close()
    if options.snapshot is not None and not results:
        raise CommandError(f"there is no snapshot {options.snapshot} in {backend.place}")
    if options.json:
        output.result_json([{"snapshot": number, "good": not why, "problem": why} for number, why in results])
    elif results:
        rows = [(number, f"damaged: {why}" if why else "good") for number, why in results]
        output.result_table(("SNAPSHOT", "STATE"), rows)
    else:
        output.tell(f"{settings.run} has no snapshots in {backend.place}")
    return output.FAILED if any(why for _, why in results) else output.OK
