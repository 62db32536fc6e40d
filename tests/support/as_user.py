"""A piece of Python as another user of the machine, in a process of its own. Tests of it need root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from noderuntime.ipc.entrypoints import ROOT

OTHER_USER = 54321  # nobody has this number here

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="another user can only be tried by root")


def run_as(uid: int, code: str, env: Mapping[str, str]) -> str:
    """What `code` prints as that user, without any rights of root."""
    setup = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
sys.path[:] = [*sys.path, *{sys.path!r}]
import encodings.idna, pwd, pathlib
from noderuntime.ipc import homes, rundir, runs
from noderuntime.node import custom_node as node, joining  # before: what is installed may be root's alone
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
"""
    done = subprocess.run(
        [sys.executable, "-c", setup + code], env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True,
        timeout=60, check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout
