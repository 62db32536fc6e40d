"""Entry points: the functions that a new process of a run calls, whether a fresh interpreter or one of the fork server.

They are named as text, because the process that starts another one must not import its code.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parent.parent
ROOT: Final = PACKAGE.parent  # for a checkout that is not installed

FORK_SERVER: Final = "noderuntime.runtime.forkserver_main:main"
OPERATOR: Final = "noderuntime.node.operator_main:main"
STORE: Final = "noderuntime.store.__main__:main"
RELOAD_CHECK: Final = "noderuntime.node.reload_check:main"
TRIAL: Final = "noderuntime.node.trial:main"
TAPS: Final = "noderuntime.watching.server:main"
CHAOS_PROBE: Final = "noderuntime.runtime.chaos:probe"
DORA_SCRIPT: Final = "noderuntime.dora.script:main"
ALL: Final = (FORK_SERVER, OPERATOR, STORE, RELOAD_CHECK, TRIAL, TAPS, CHAOS_PROBE, DORA_SCRIPT)

PRELOAD: Final = tuple(entry.partition(":")[0] for entry in (OPERATOR, STORE, TRIAL))  # the fork server imports them
WARM: Final = ("noderuntime.ipc.channel",)  # modules whose warm_up() each spare calls while it waits


def is_compiled() -> bool:
    """Whether the modules of an event's way are compiled here (setup.py lists them), instead of interpreted."""
    spec = importlib.util.find_spec("noderuntime.space.commit")
    return spec is not None and isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)


def command(entry: str, *arguments: str) -> list[str]:
    """The command line of a fresh interpreter that calls `entry` with these arguments and exits with what it returns.

    -P: a file of the user's called queue.py must not become the standard library's queue.
    """
    module, _, function = entry.partition(":")
    code = f"import sys; sys.path.append(sys.argv.pop(1)); from {module} import {function}; sys.exit({function}())"
    return [sys.executable, "-P", "-c", code, str(ROOT), *arguments]
