"""Loads the dataflow file that a command names, which with `--dora` is one of dora."""

from __future__ import annotations

import re
import uuid
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field

from noderuntime.cli import output
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.dataflow import files
from noderuntime.dataflow.model import Dataflow
from noderuntime.errors import DataflowError
from noderuntime.runtime.observer import DoraRun


@dataclass(frozen=True, slots=True)
class Loaded:
    """A dataflow, what to draw and to count of it, what is to be said about its file, the variables that win over those
    of its nodes, and what its children find when it is one of dora.
    """

    dataflow: Dataflow
    shown: Dataflow
    notes: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    dora: DoraRun | None = None


def load(options: Namespace) -> Loaded:
    """The dataflow of a command with FILE, --env, --dora and --allow-shell-nodes.

    Raises DataflowError, UsageError, and CommandError when an extra is missing.
    """
    given = dict(options.env)
    if not options.dora:
        if options.allow_shell_nodes:
            raise UsageError("--allow-shell-nodes is for dora files; it needs --dora", f"noderuntime {options.command}")
        try:
            dataflow = files.load(options.file, overrides=given)
        except DataflowError as error:
            raise _hinted(error) from None
        return Loaded(dataflow, dataflow, overrides=given)
    from noderuntime.dora import drawn, facts
    from noderuntime.dora import files as dora_files

    try:
        finishes = getattr(options, "exit_when_nodes_finish", None)
        found = dora_files.load(options.file, given, finishes, options.allow_shell_nodes)
    except dora_files.ArrowMissing as missing:
        raise CommandError(str(missing), output.USAGE) from None
    told = facts.facts_of(str(uuid.uuid4()), found.descriptor, found.nodes)
    notes = tuple(f"{options.file}: {note}" for note in found.notes)
    return Loaded(found.dataflow, drawn.as_drawn(found.dataflow), notes, dora=DoraRun(str(dora_files.PATH), told))


def _hinted(error: DataflowError) -> DataflowError:
    """The same error; where it is about what only dora's files have, with a word about them."""
    from noderuntime.dora.nodes import FIELDS

    said = [item.what for item in (error, *error.more)]
    unknown = {found[1] for what in said if (found := re.match(r"unknown field `([\w-]+)`", what))}
    if not unknown & {*FIELDS} and not any("'dora/logs" in what for what in said):
        return error
    note = DataflowError("some of this is as in files of dora: is this one? Then give `--dora`", file=error.file)
    more = (*error.more, note)
    return DataflowError(
        error.what, file=error.file, line=error.line, column=error.column, hint=error.hint, more=more
    )
