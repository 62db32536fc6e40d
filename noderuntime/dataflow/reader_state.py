"""Reads the sections `state` and `snapshots` of a dataflow file."""

from __future__ import annotations

from functools import partial
from typing import Any

from noderuntime.dataflow import snapshot_place
from noderuntime.dataflow.model import SnapshotSpec, StateSpec
from noderuntime.dataflow.reader_errors import ErrorCollector
from noderuntime.dataflow.yaml import fields as read
from noderuntime.dataflow.yaml.nodes import Fields, Tree, fail, plain_value

STATE_FIELDS = ("kind", "size", "ttl", "purge_interval", "seed", "history")
SNAPSHOT_FIELDS = ("every", "to", "keep", "options")


def read_state(errors: ErrorCollector, tree: Tree, label: str) -> StateSpec:
    """The section `state`. Fields of another kind than memory are its options: only that kind knows them."""
    fields, where = read.mapping(tree, label), "`state`"
    default = StateSpec()
    kind = errors.take(fields, "kind", where, read.text, default.kind)
    if kind == "memory":
        errors.unknown(fields, STATE_FIELDS, where)
    no_seed: tuple[str, tuple[str, ...]] = ("", ())
    seed_file, seed_command = errors.take(fields, "seed", where, partial(_seed, errors), no_seed)
    return StateSpec(
        kind=kind,
        size_bytes=errors.take(fields, "size", where, read.size_bytes, default.size_bytes),
        ttl_s=errors.take(fields, "ttl", where, read.duration_s, default.ttl_s),
        purge_interval_s=errors.take(fields, "purge_interval", where, read.duration_s, default.purge_interval_s),
        seed_file=seed_file,
        seed_command=seed_command,
        history=errors.take(fields, "history", where, lambda t, text: read.whole(t, text, 0), default.history),
        options=errors.keep(lambda: _rest(fields, STATE_FIELDS), {}),
        place=fields.place,
    )


def _seed(errors: ErrorCollector, tree: Tree, label: str) -> tuple[str, tuple[str, ...]]:
    """The file of a seed, or the command that makes it; the other of the two is empty."""
    hint = "Write {file: seed.yml} or {command: [./make-seed, --site, a]}."
    fields = read.mapping(tree, label, hint)
    errors.unknown(fields, ("file", "command"), label)
    file, command = fields.get("file"), fields.get("command")
    if (file is None) == (command is None):
        raise fail(fields.place, f"{label} needs either `file` or `command`", hint)
    if file is not None:
        return read.text(file, f"`file` in {label}"), ()
    assert command is not None
    split = read.words(command, f"`command` in {label}")
    if not split or not split[0]:
        raise fail(command.place, f"`command` in {label} is empty", hint)
    return "", split


def read_snapshots(errors: ErrorCollector, tree: Tree, label: str) -> SnapshotSpec:
    """The section `snapshots`."""
    fields, where = read.mapping(tree, label), "`snapshots`"
    default = SnapshotSpec()
    errors.unknown(fields, SNAPSHOT_FIELDS, where)
    return SnapshotSpec(
        every_s=errors.take(fields, "every", where, read.duration_s, default.every_s),
        to=errors.take(fields, "to", where, _snapshot_place, default.to),
        keep=errors.take(fields, "keep", where, lambda t, text: read.whole(t, text, 1), default.keep),
        options=errors.take(fields, "options", where, read.plain_mapping, {}),
        place=fields.place,
    )


def _snapshot_place(tree: Tree, label: str) -> str:
    to = read.text(tree, label)
    try:
        snapshot_place.parse(to)
    except snapshot_place.WrongPlace as error:
        raise fail(tree.place, f"{label}: {error.what}", error.hint) from None
    return to


def _rest(fields: Fields, known: tuple[str, ...]) -> dict[str, Any]:
    return {name: plain_value(value) for name, (_, value) in fields.fields.items() if name not in known}
