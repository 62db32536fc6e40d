"""`build`: run the build commands of a dora file, one after the other, in the folder of the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping

from noderuntime.cli import output
from noderuntime.cli.output import CommandError
from noderuntime.dora import files
from noderuntime.dora.reader import Build

_PIP = ("pip", "pip3")


def build(options: Namespace) -> int:
    """Run what `build` of each node says. The first command that fails ends it, with exit code 1."""
    try:
        found = files.load(options.file, dict(options.env), allow_shell=True)
    except files.ArrowMissing as missing:
        raise CommandError(str(missing), output.USAGE) from None
    for item in found.builds:
        _build(item, found.dataflow.folder, options.uv)
    commands = sum(len(item.commands) for item in found.builds)
    if not commands:
        output.tell(f"{options.file} has nothing to build")
    return output.OK


def _build(item: Build, folder: str, uv: bool) -> None:
    env = {**os.environ, **item.env}
    for written in item.commands:
        output.tell(f"{item.node}: {written}")
        line = command(written, uv, env)
        try:
            done = subprocess.run(line, cwd=folder, env=env, check=False)
        except OSError as error:
            why = error.strerror or str(error)
            raise CommandError(f"{item.node}: {written!r} cannot be run: {why}") from None
        if done.returncode:
            raise CommandError(f"{item.node}: {written!r} ended with exit code {done.returncode}")


def command(written: str, uv: bool, env: Mapping[str, str]) -> list[str]:
    """One line as a command: words with spaces between them, as in dora. `pip` is that of this interpreter."""
    line = written.split()
    if line[0] in _PIP:
        return ["uv", "pip", *line[1:]] if uv else [sys.executable, "-m", "pip", *line[1:]]
    if line[0] in ("python", "python3") and shutil.which(line[0], path=env.get("PATH")) is None:
        return [sys.executable, *line[1:]]
    return line
