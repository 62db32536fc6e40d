"""Compiles the modules of an event's way with mypyc, in wheels only. Everything else is in pyproject.toml.

Where there is no C compiler, or where compiling fails, the wheel holds the same modules as Python only, and nothing is
said. NODERUNTIME_COMPILE=0 never compiles; NODERUNTIME_COMPILE=1 fails where compiling does. An editable installation
is never compiled: a compiled module beside a source that has changed since would be imported in its place. For the same
reason nothing is built in this folder, where an earlier build could have left something.

A module is not in COMPILED when users derive from its classes, or when the fault injector of the tests replaces its
functions from outside (a call within compiled modules does not go through a name that can be replaced).
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext

COMPILED = (
    "api/events.py", "api/keyed/codecs.py", "api/keyed/deadlines.py", "api/keyed/mapper.py", "api/keyed/slots.py",
    "api/keyed/states.py", "api/values.py",
    "dora/arrays.py", "dora/events.py", "dora/metadata.py",
    "node/chain.py", "node/chain_calls.py", "node/chain_context.py", "node/chain_group.py", "node/chain_host.py",
    "node/chain_links.py", "node/chain_member.py", "node/context.py", "node/group.py", "node/hands.py", "node/inbox.py",
    "node/keyed_state.py", "node/operator_host.py", "node/route.py", "node/sender.py", "node/session.py",
    "node/timers.py", "node/trial_session.py",
    "space/admission.py", "space/ahead.py", "space/batch.py", "space/commit.py", "space/ending.py", "space/keys.py",
    "space/kvs.py", "space/kvs_cells.py", "space/mailbox.py", "space/outbox.py", "space/packs.py", "space/ports.py",
    "space/records.py", "space/routing.py", "space/staging.py", "space/writer.py",
)  # fmt: skip
MYPY = "mypy>=2.4,<2.5"  # the releases that the tests have run with

WANTED = os.environ.get("NODERUNTIME_COMPILE", "")
MUST = WANTED == "1"


def has_compiler() -> bool:
    """Whether there is a C compiler, and the header of this Python."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "")
    header = Path(sysconfig.get_path("include"), "Python.h")
    return bool(command) and shutil.which(command[0]) is not None and header.is_file()


class Build(build_ext):
    """Compiles all modules or none: those that are compiled call each other directly."""

    def run(self) -> None:
        try:
            super().run()
        except Exception:
            if MUST:
                raise
            for path in self.get_outputs():
                Path(path).unlink(missing_ok=True)
            self.extensions = []
            self.distribution.ext_modules = []
            self.get_finalized_command("bdist_wheel").root_is_pure = True


def extensions(folder: str) -> list[Any]:
    """The modules in COMPILED, translated to C in `folder`. Empty if that is impossible."""
    # neither a configuration nor what else is installed decides what the types of the compiled modules are
    flags = ["--config-file=", "--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    try:
        from mypyc.build import mypycify

        found = mypycify(
            [*flags, f"--cache-dir={folder}/mypy", *(f"noderuntime/{path}" for path in COMPILED)],
            target_dir=folder,
            opt_level="2",
            debug_level="0",
        )
        for extension in found:  # a warning of a compiler that is newer than mypyc is no error
            extension.extra_compile_args = [*extension.extra_compile_args, "-Wno-error"]
        return list(found)
    except (Exception, SystemExit):  # SystemExit: mypy has found errors, and has printed them
        if MUST:
            raise
        return []


def main() -> None:
    if WANTED == "0" or not (MUST or has_compiler()):
        setup()
    elif "bdist_wheel" in sys.argv:
        folder = tempfile.mkdtemp(prefix="noderuntime-build-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        setup(
            ext_modules=extensions(folder),
            cmdclass={"build_ext": Build},
            options={"build": {"build_base": folder}},
        )
    else:  # asked what building a wheel requires, among others
        setup(setup_requires=[MYPY])


if __name__ == "__main__":
    main()
