"""The entry point of an operator's process: join the run, restore the state, handle events, report why it ends.

hello -> welcome, restore_state -> load, make, restore -> ready -> *(ticks, messages, commit) -> bye
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from pathlib import Path

from noderuntime.errors import Fenced, NodeRuntimeError, OperatorError
from noderuntime.ipc import forks, process
from noderuntime.ipc.boundary import ERROR_CHARACTERS_MAX, TRACE_CHARACTERS_MAX, cut, describe
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import (
    EXIT_FENCED,
    VERSION,
    WELCOME_S,
    Edge,
    Failed,
    Hello,
    Log,
    Ready,
    RestoreState,
    Welcome,
)
from noderuntime.ipc.rundir import ENV_LIFE, ENV_NODE, ENV_PATIENT, ENV_RUN_DIR, RunDir
from noderuntime.ipc.wiring import Wiring
from noderuntime.node.chain_host import ChainHost
from noderuntime.node.operator_host import OperatorHost
from noderuntime.node.remote_log import LogHandler
from noderuntime.node.session import NodeSession
from noderuntime.space.writer import MessageGone


def main() -> int:
    """Run one life of the operator that the environment names. Returns the exit code."""
    process.sleep_exactly()
    process.keep_heap()
    run_dir = RunDir(Path(os.environ[ENV_RUN_DIR]))
    node = os.environ[ENV_NODE]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with Dealer(run_dir.runtime_socket, Edge.RUNTIME_TO_CHILD) as dealer:
        try:
            return _live(run_dir, node, dealer)
        except MessageGone as gone:
            dealer.send(Log(time.time(), logging.WARNING, str(gone), {}))
            return EXIT_FENCED
        except Fenced:
            return EXIT_FENCED
        except forks.Forked as forked:
            print(f"noderuntime: {forked}; it ends here", file=sys.stderr, flush=True)
            os._exit(1)


def _live(run_dir: RunDir, node: str, dealer: Dealer) -> int:
    dealer.send(Hello(VERSION, node, "operator", os.getpid(), int(os.environ.get(ENV_LIFE, "0"))))
    welcome = dealer.receive(None if ENV_PATIENT in os.environ else WELCOME_S)
    if not isinstance(welcome, Welcome):
        return EXIT_FENCED
    state: dict[str, bytes] = {}
    by_reference = False
    for _ in range(welcome.states):
        part = dealer.receive(WELCOME_S)
        if not isinstance(part, RestoreState):
            return EXIT_FENCED
        state.update(part.state)
        by_reference |= part.by_reference
    wiring = Wiring.from_plain(welcome.wiring)
    log = LogHandler(dealer)
    level = logging.getLevelNamesMapping().get(os.environ.get("LOG_LEVEL", "").upper(), logging.INFO)
    logging.basicConfig(level=level, handlers=[log], force=True)
    try:
        session = NodeSession(run_dir, wiring, welcome.incarnation, welcome.attempts)
        host: OperatorHost | ChainHost
        if wiring.others:
            incarnation, attempts = welcome.incarnation, welcome.attempts
            others = [NodeSession(run_dir, other, incarnation, attempts, first=session) for other in wiring.others]
            host = ChainHost([session, *others], dealer, log)
            host.prepare()
        else:
            host = OperatorHost(session, dealer, log)
            host.prepare(host.ctx.own_state() if by_reference else state)
        dealer.send(Ready(welcome.incarnation))
        code = host.run()
    except OperatorError as error:
        permanent = error.where == "import" or (error.where == "init" and not error.trace)
        _send_failed(dealer, error.where, error.error, error.trace, permanent, error.node)
        return 1
    except (Fenced, forks.Forked):
        raise
    except NodeRuntimeError as error:
        _send_failed(dealer, "commit", str(error))
        return 1
    except Exception as error:  # ours, not the user's: it is unknown whether a commit took effect, so end
        _send_failed(dealer, "commit", describe(error), "".join(traceback.format_exception(error)))
        return 1
    log.pass_on()
    host.close()
    return code


def _send_failed(
    dealer: Dealer, where: str, error: str, trace: str = "", permanent: bool = False, node: str = ""
) -> None:
    """Report why this process ends, in a frame within the limit, however long the user's exception is."""
    dealer.send(Failed(where, cut(error, ERROR_CHARACTERS_MAX), cut(trace, TRACE_CHARACTERS_MAX), permanent, node))
