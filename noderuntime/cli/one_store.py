"""A store process that lives for one command, on the space of a run that is not running."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from noderuntime.cli.client import STORE_ANSWERS_WITHIN_S, StoreClient
from noderuntime.ipc.rundir import RunDir

STORE_ENDS_WITHIN_S = 15.0


@contextlib.contextmanager
def one_store(
    run: str, run_dir: RunDir, lock: int, arguments: Sequence[str], within_s: float = STORE_ANSWERS_WITHIN_S
) -> Iterator[StoreClient]:
    """A client of it. `lock`: the descriptor of the run's lock, which the store holds too while it lives.

    So nobody else opens the space while it still does. It ends with this process, however that ends.
    """
    store = [sys.executable, "-m", "noderuntime.store.service"]
    command = [*store, str(run_dir.root), "--parent", str(os.getpid()), *arguments]
    process = subprocess.Popen(command, pass_fds=[lock], stdin=subprocess.DEVNULL)
    try:
        with StoreClient(run, run_dir.store_socket, within_s, lost=lambda: _ended(process)) as client:
            yield client
            client.request("quit", {})
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STORE_ENDS_WITHIN_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _ended(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    return "" if code is None else f"the store process ended with code {code} before it answered"
