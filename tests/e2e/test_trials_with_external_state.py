"""An operator that `apply` tries reads the external State of the run, and writes nothing to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.harness import Folder, wait_until
from support.live_cast import apply, counts, enough, flow, keeps, prepare, wait_handled
from support.redis_server import RedisServer

from noderuntime.merges import Add, decode
from noderuntime.state.redis import RedisState

READS = """
import os
from noderuntime.errors import RevisionConflict
from noderuntime.merges import Add, Union
class Operator:
    '''Reads and writes shared keys when it is made.'''
    def __init__(self, ctx):
        kvs = ctx.kvs
        entry = kvs.get("limit")
        assert entry.value == ctx.kvs_read("limit") == kvs.get_root()["limit"].value
        revision = kvs.set("limit", b"8", expect=entry.revision)
        assert revision > entry.revision
        try:
            kvs.set("limit", b"9", expect=12345)
        except RevisionConflict:
            pass
        else:
            raise AssertionError("a revision that was never there")
        kvs.merge("made", Add(1))
        kvs.watch("x")
        try:
            kvs.merge("limit", Union({"x"}))
        except TypeError:
            pass
        else:
            raise AssertionError("a set merged into a number")
        if os.path.exists("fails"):
            assert kvs.delete("limit")
            raise RuntimeError(f"the limit was {entry.value.decode()}")
    def on_event(self, event, ctx):
        pass
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with TemporaryDirectory(prefix="noderuntime-redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.kill()


def test_a_trial_reads_the_server_and_what_it_writes_goes_nowhere(folder: Folder, server: RedisServer) -> None:
    prepare(folder)
    folder.write(reads_py=READS)
    state = RedisState.open({"url": server.url})
    state.init()
    state.set("limit", b"7")
    state.merge("count", Add(1))
    shared = {"kind": "redis", "url": server.url}
    running = folder.start(flow(counts(), keeps("a"), state=shared))
    running.wait_running()
    wait_handled(running, "a")
    before = state.version()
    reads = {"id": "reads", "operator": {"python": "reads.py", "inputs": {"in": "counts/n"}}}
    new = flow(counts(), keeps("a"), reads, state=shared)
    (folder.folder / "fails").touch()
    code, _, err = apply(folder, new)
    assert code == 1 and "reads is not ready: init: RuntimeError: the limit was 7" in err
    assert state.version() == before
    (folder.folder / "fails").unlink()
    code, _, err = apply(folder, new)
    assert code == 0, err
    wait_until(lambda: state.get_or("limit", b"") == b"8", "its first life to be made")
    wait_handled(running, "reads")
    assert decode(state.get_or("made", b"")) == 1  # by that life, and not by the trials
    enough(folder)
    assert running.finish() == 0
    state.close()
