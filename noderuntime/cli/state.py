"""`state ls|get|set|rm`: the shared KVS and the private state of nodes, of live, interrupted and ended runs.

`watch` and `diff` are in state_watch.py.

A live run's store is asked. For an interrupted one a store is started for this one command, under the run's
lock, so that nobody can resume or clean the run meanwhile. For one whose space is gone see ended.py.
"""

from __future__ import annotations

import base64
import contextlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.ask import StoreClient
from noderuntime.cli.choose import RUNNING, hold
from noderuntime.cli.ended import Ended, choose_kept, open_ended
from noderuntime.cli.one_store import one_store
from noderuntime.cli.output import CommandError
from noderuntime.cli.text import plain
from noderuntime.errors import NotRunning
from noderuntime.runs import Run

WRITES = ("set", "rm", "replay", "drop")  # operations of `state` and `dead-letters` that change something


def state(options: Namespace) -> int:
    """Carry out one `state` command."""
    if options.operation in ("watch", "diff"):
        from noderuntime.cli import state_watch

        operation = {"watch": state_watch.watch, "diff": state_watch.diff}[options.operation]
    else:
        operation = {"ls": _ls, "get": _get, "set": _set, "rm": _rm}[options.operation]
    run = choose_kept(options.run)
    if options.operation == "watch" and isinstance(run, Ended):
        raise NotRunning(f"the run {run.name!r} has ended: nothing changes any more")
    with open_store(run, options.operation) as store:
        return operation(store, options)


def _ls(store: StoreClient, options: Namespace) -> int:
    result = store.request("state_ls", {"scope": options.scope, "prefix": options.prefix})
    keys = sorted(result["keys"])
    if options.json:
        output.result_json([{"key": key, "size": size, "revision": revision} for key, size, revision in keys])
    elif keys:
        output.result_table(("KEY", "SIZE", "REVISION"), [(shown_key(key), *rest) for key, *rest in keys])
    else:
        output.tell(f"{options.scope} has no keys{' that start so' if options.prefix else ''}")
    return output.OK


def _get(store: StoreClient, options: Namespace) -> int:
    result = store.request("state_get", {"scope": options.scope, "key": options.key})
    value = result["value"]
    if value is None:
        raise CommandError(
            f"{options.scope} has no key {options.key!r}; `noderuntime state ls {options.scope}` lists them"
        )
    if options.json:
        output.result_json({"key": options.key, "revision": result["revision"], **json_value(value)})
    else:
        output.result(shown_value(value))
    return output.OK


def _set(store: StoreClient, options: Namespace) -> int:
    text = options.value
    value = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
    result = store.request("state_set", {"scope": options.scope, "key": options.key, "value": value})
    if options.json:
        output.result_json({"key": options.key, "revision": result["revision"]})
    return output.OK


def _rm(store: StoreClient, options: Namespace) -> int:
    result = store.request("state_rm", {"scope": options.scope, "key": options.key})
    if options.json:
        output.result_json({"key": options.key, "removed": result["removed"]})
    elif not result["removed"]:
        raise CommandError(f"{options.scope} has no key {options.key!r}")
    return output.OK


def text_of(value: bytes) -> str | None:
    """The text that `value` is as UTF-8; None when it is none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def shown_value(value: bytes) -> str:
    """Text as it is; anything else (control characters included) as `0x` and hex digits."""
    text = text_of(value)
    if text is None or plain(text.replace("\n", "")) != text.replace("\n", ""):
        return f"0x{value.hex()}"
    return text


def shown_key(key: str) -> str:
    """A key on one line: as it is where it can be printed, else quoted with escapes."""
    return key if key.isprintable() and key == key.strip() and key else ascii(key)


def json_value(value: bytes) -> dict[str, Any]:
    """`base64` always, `text` where it is UTF-8 (else null), `size` in bytes."""
    return {"text": text_of(value), "base64": base64.b64encode(value).decode(), "size": len(value)}


@contextlib.contextmanager
def open_store(run: Run | Ended, operation: str) -> Iterator[StoreClient]:
    """A client of the run's store, for one operation; where none is running, of one that lives only for this."""
    if isinstance(run, Ended):
        with open_ended(run, operation in WRITES) as client:
            yield client
        return
    if run.state == RUNNING:
        with StoreClient(run.name, run.run_dir.store_socket) as client:
            yield client
        return
    if not run.trusted:
        raise CommandError(f"the machine was restarted since {run.name!r} was interrupted: its space is not trusted")
    # size 0: the one that the space already has
    with hold(run) as lock, one_store(run.name, run.run_dir, lock, ["--size", "0"]) as client:
        yield client
