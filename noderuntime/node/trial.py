"""The entry point of a trial: whether an operator that `apply` would add or change can be imported, made and restored.

The process has no incarnation and takes no part in the run. The operator gets a copy of the committed state. Sending
raises, as it always does outside of an event; `ctx.kvs` reads, and what it writes goes nowhere. The process exits
with 0 when the operator is ready; otherwise with 1, or with 2 if it can have no replicas and is to have some, and its
last line on stderr says why. What the operator has printed
before is shown as that of its node.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Final

import msgpack

from noderuntime.errors import NodeRuntimeError, OperatorError
from noderuntime.ipc.boundary import ERROR_CHARACTERS_MAX, cut, describe
from noderuntime.ipc.protocol import TEXT_ERRORS
from noderuntime.ipc.rundir import ENV_RUN_DIR, ENV_TRIAL, RunDir
from noderuntime.ipc.wiring import Wiring
from noderuntime.node.context import OperatorContext
from noderuntime.node.making import NoReplicas, make_operator
from noderuntime.node.trial_session import TrialSession
from noderuntime.node.trial_state import trial_state
from noderuntime.space import keys, records
from noderuntime.space.environment import open_space, scan
from noderuntime.state.external import open_external

SAYS: Final = "noderuntime trial: "  # how the last line of a trial begins that has failed
REFUSED: Final = 2  # see the head of this module


def main() -> int:
    """Carry out one trial; the environment names it. Returns the exit code."""
    run_dir = RunDir(Path(os.environ[ENV_RUN_DIR]))
    wiring = Wiring.from_plain(msgpack.unpackb(Path(os.environ[ENV_TRIAL]).read_bytes(), unicode_errors=TEXT_ERRORS))
    logging.basicConfig(level=logging.WARNING)
    try:
        space = open_space(run_dir.space)
        external = open_external(space)
        session = TrialSession(space, wiring, trial_state(space, wiring.number, external), external)
        prefix = keys.private_prefix(wiring.number)
        with space.read() as txn:
            found = [(key[len(prefix) :].decode(), value) for key, value in scan(txn, prefix)]
        state = {key: bytes(value[records.PRIVATE_BYTES :]) for key, value in found}
        make_operator(session, OperatorContext(session, wiring.config, logging.getLogger(wiring.node)), state)
    except NoReplicas as error:
        return _failed(error.error, REFUSED)
    except OperatorError as error:
        print(error.trace, file=sys.stderr)
        return _failed(f"{error.where}: {error.error}")
    except NodeRuntimeError as error:
        return _failed(describe(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever threads the operator has begun


def _failed(why: str, status: int = 1) -> int:
    sys.stdout.flush()
    print(f"{SAYS}{cut(' '.join(why.split()), ERROR_CHARACTERS_MAX)}", file=sys.stderr, flush=True)
    os._exit(status)
