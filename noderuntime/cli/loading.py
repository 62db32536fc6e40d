"""Loads the dataflow file that a command names, which with `--dora` is one of dora."""

from __future__ import annotations

import uuid
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field

from noderuntime.cli import output
from noderuntime.cli.output import CommandError, UsageError
from noderuntime.dataflow import files
from noderuntime.dataflow.model import Dataflow
from noderuntime.runtime.observer import DoraRun


@dataclass(frozen=True, slots=True)
class Loaded:
    """A dataflow, what is to be said about its file, the variables that win over those of its nodes, and what its
    children find when it is one of dora.
    """

    dataflow: Dataflow
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
        return Loaded(files.load(options.file, overrides=given), overrides=given)
    from noderuntime.dora import facts
    from noderuntime.dora import files as dora_files

    try:
        finishes = getattr(options, "exit_when_nodes_finish", None)
        found = dora_files.load(options.file, given, finishes, options.allow_shell_nodes)
    except dora_files.ArrowMissing as missing:
        raise CommandError(str(missing), output.USAGE) from None
    told = facts.facts_of(str(uuid.uuid4()), found.descriptor, found.nodes)
    notes = tuple(f"{options.file}: {note}" for note in found.notes)
    return Loaded(found.dataflow, notes, dora=DoraRun(str(dora_files.PATH), told))
