"""`state ls|get|set|rm`: the shared KVS and the private state of nodes, of live, interrupted and ended runs.

`state watch` and `state diff` are in state_watch.py; the store of a run that is not running is in offline.py.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING
from noderuntime.cli.client import StoreClient, ask_runtime
from noderuntime.cli.offline import Change, Ended, choose_kept, open_store
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.cli.shown import (
    Unfit,
    from_hex,
    from_json,
    json_value,
    like,
    raw,
    shown_key,
    shown_value,
    text_of,
    unpacked,
)
from noderuntime.dataflow.identifiers import node_of
from noderuntime.errors import NotRunning
from noderuntime.ipc.control_records import RunStatus
from noderuntime.ipc.runs import Run
from noderuntime.ipc.state_records import Listed, ListedKey, Removed, Revision, Value
from noderuntime.ipc.store_records import result


def state(options: Namespace) -> int:
    """Carry out one `state` command."""
    change = Change()
    operations: dict[str, Callable[[StoreClient, Namespace], int]]
    if options.operation in ("watch", "diff"):
        from noderuntime.cli import state_watch

        operations = {"watch": state_watch.watch, "diff": state_watch.diff}
    else:
        operations = {"ls": _ls, "get": _get, "set": _set, "rm": partial(_rm, change=change)}
    for word in (options.scope, getattr(options, "key", ""), getattr(options, "prefix", "")):
        if not word.isascii() and word.encode(errors="replace").decode() != word:
            raise UsageError(f"{word!a} is not UTF-8", f"noderuntime state {options.operation}")
    run = choose_kept(options.run)
    if options.operation == "watch" and isinstance(run, Ended):
        raise NotRunning(f"the run {run.name!r} has ended: nothing changes any more")
    if options.operation == "set":
        _check_force(run, options)
    with open_store(run, options.operation, change) as store:
        return operations[options.operation](store, options)


def _ls(store: StoreClient, options: Namespace) -> int:
    keys = sorted(_listed(store, options.scope, options.prefix))
    if options.json:
        output.result_json([{"key": key, "size": size, "revision": revision} for key, size, revision in keys])
    elif keys:
        output.result_table(("KEY", "SIZE", "REVISION"), [(shown_key(key), *rest) for key, *rest in keys])
    else:
        output.tell(f"{options.scope} has no keys{' that start so' if options.prefix else ''}")
    return output.OK


def _listed(store: StoreClient, scope: str, prefix: str) -> Iterator[ListedKey]:
    """All keys with their size and revision, page by page."""
    arguments = {"scope": scope, "prefix": prefix}
    while True:
        page = store.request("state_ls", arguments, result(Listed))
        yield from page["keys"]
        if not page["more"] or not page["keys"]:
            return
        arguments = {**arguments, "after": page["keys"][-1].key}


def _get(store: StoreClient, options: Namespace) -> int:
    found = store.request("state_get", {"scope": options.scope, "key": options.key}, result(Value))
    value = found["value"]
    if value is None:
        raise CommandError(
            f"{options.scope} has no key {options.key!r}; `noderuntime state ls {options.scope}` lists them"
        )
    packed = found["packed"]
    if options.msgpack:
        try:
            unpacked(value)
        except Unfit as error:
            raise CommandError(f"{options.scope} {options.key!r}: {error}") from None
        packed = True
    if options.raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    elif options.json:
        output.result_json({"key": options.key, "revision": found["revision"], **json_value(value, packed)})
    else:
        output.result(shown_value(value, packed))
    return output.OK


def _set(store: StoreClient, options: Namespace) -> int:
    found = store.request("state_get", {"scope": options.scope, "key": options.key}, result(Value))
    try:
        value, packed = _given(options, found["value"], found["packed"])
    except Unfit as error:
        said = options.json or options.text or options.hex
        hint = "" if said else "\n  --json, --text or --hex sets it as something else."
        raise CommandError(f"{options.scope} {options.key!r}: {error}{hint}", output.USAGE) from None
    arguments: dict[str, Any] = {"scope": options.scope, "key": options.key, "value": value}
    store.request("state_set", {**arguments, "packed": True} if packed else arguments, result(Revision))
    return output.OK


def _given(options: Namespace, current: bytes | None, packed: bool) -> tuple[bytes, bool]:
    """What is to be stored, and whether it is marked as MessagePack. Raises Unfit."""
    given = sys.stdin.buffer.read() if options.value == "-" else options.value.encode(errors="surrogateescape")
    if not (options.json or options.text or options.hex):
        if options.value == "-":
            return given, raw(given, current, packed)
        return like(options.value, current, packed)
    text = text_of(given)
    if text is None:
        raise Unfit("what was given is not UTF-8; without --json, --text and --hex, - takes bytes as they are")
    if options.json:
        return from_json(text), True
    return (from_hex(text) if options.hex else given), False


def _check_force(run: Run | Ended, options: Namespace) -> None:
    """Refuse to set the private state of an operator that runs: it does not notice, and may overwrite it."""
    if options.force or options.scope == "shared" or run.state != RUNNING or isinstance(run, Ended):
        return
    for node in ask_runtime(run, "status", {}, RunStatus)["nodes"]:
        if node_of(node["id"]) == options.scope and node["state"] not in ("failed", "ended", "stopped"):
            raise CommandError(
                f"{options.scope} is {node['state']}: it does not see what is set now, and its next event may "
                "overwrite it. Stop the run first, or add --force",
                output.USAGE,
            )


def _rm(store: StoreClient, options: Namespace, change: Change) -> int:
    found = store.request("state_rm", {"scope": options.scope, "key": options.key}, result(Removed))
    change.made = found["removed"]
    if options.json:
        output.result_json({"key": options.key, "removed": found["removed"]})
    elif not found["removed"]:
        raise CommandError(f"{options.scope} has no key {options.key!r}")
    return output.OK
