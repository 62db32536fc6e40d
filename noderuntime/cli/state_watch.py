"""`state watch` and `state diff`: the changes of a live run's shared KVS."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from noderuntime.cli import output
from noderuntime.cli.client import StoreClient
from noderuntime.cli.output import UsageError
from noderuntime.cli.shown import json_value, shown_key, shown_value
from noderuntime.errors import NotRunning, ProtocolError
from noderuntime.ipc.state_records import Changes, Updates, Version
from noderuntime.ipc.store_records import ANSWER, result

WAIT_S = 0.5


def watch(store: StoreClient, options: Namespace) -> int:
    """Print each change of the keys that start with the prefix, until `--count` of them, Ctrl-C or the run's end."""
    _check(options)
    left = options.count
    for key, value, revision, packed in _updates(store, options.key):
        if options.json:
            shown = {"deleted": True} if value is None else {"deleted": False, **json_value(value, packed)}
            output.result_json({"key": key, "revision": revision, **shown})
        else:
            output.result(f"{revision} {shown_key(key)} {'(deleted)' if value is None else shown_value(value, packed)}")
        left -= 1
        if left == 0:
            break
    return output.OK


def _updates(store: StoreClient, prefix: str) -> Iterator[tuple[str, bytes | None, int, bool]]:
    arguments: dict[str, object] = {"prefixes": [prefix], "cursor": None}
    while True:
        try:
            found = store.request("kvs_watch", arguments, result(Updates))
        except NotRunning:  # it has ended
            return
        if arguments["cursor"] is None:
            output.tell(f"watching the keys that start with {prefix!r}" if prefix else "watching all keys")
        marks = found.get("packed", [False] * len(found["updates"]))
        if len(marks) != len(found["updates"]):
            raise ProtocolError(f"{ANSWER}: packed has {len(marks)} items, not {len(found['updates'])}")
        yield from ((*update, packed) for update, packed in zip(found["updates"], marks, strict=True))
        arguments = {"prefixes": [prefix], "cursor": found["cursor"], "wait": WAIT_S}


def diff(store: StoreClient, options: Namespace) -> int:
    """Print what has changed since a version; without one, the present version."""
    _check(options)
    if not options.since:
        version = store.request("kvs_version", {}, result(Version))["version"]
        if options.json:
            output.result_json({"version": version, "changed": {}, "deleted": []})
        else:
            output.result(version)
        return output.OK
    found = store.request("kvs_diff", {"since": options.since}, result(Changes))
    if options.json:
        changed = {
            key: {"revision": entry.revision, **json_value(entry.value, entry.packed)}
            for key, entry in found["changed"].items()
        }
        output.result_json({"version": found["version"], "changed": changed, "deleted": found["deleted"]})
        return output.OK
    for key, entry in sorted(found["changed"].items()):
        output.result(f"{entry.revision} {shown_key(key)} {shown_value(entry.value, entry.packed)}")
    for key in found["deleted"]:
        output.result(f"- {shown_key(key)} (deleted)")
    output.tell(f"the version is now {found['version']}")
    return output.OK


def _check(options: Namespace) -> None:
    if options.scope != "shared":
        raise UsageError(
            f"only `shared` can be watched and compared, not the private state of {options.scope!r}",
            f"noderuntime state {options.operation}",
        )
