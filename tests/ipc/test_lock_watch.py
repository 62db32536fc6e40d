"""lockwatch.py against a real LMDB environment."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from noderuntime.ipc import process
from noderuntime.ipc.lock_watch import WRITER_AT, LockWatch, Pinning, has_known_layout


@pytest.fixture
def env(tmp_path: Path) -> Iterator[lmdb.Environment]:
    env = lmdb.open(str(tmp_path), map_size=1 << 20)
    yield env
    env.close()


@pytest.fixture
def watch(env: lmdb.Environment, tmp_path: Path) -> Iterator[LockWatch]:
    watch = LockWatch(tmp_path / "lock.mdb")
    yield watch
    watch.close()


def test_nobody_holds_a_lock_that_nobody_took(watch: LockWatch) -> None:
    assert watch.look(0.0) == []


def test_the_writer_is_seen_by_its_thread_and_for_how_long(env: lmdb.Environment, watch: LockWatch) -> None:
    with env.begin(write=True):
        (holding,) = watch.look(10.0)
        assert holding.thread == threading.get_native_id()
        assert process.process_of_thread(holding.thread) == os.getpid()
        assert 0 < holding.held_s < 0.001
        assert watch.look(12.5)[0].held_s == 2.5
    assert watch.look(13.0) == []


def test_a_busy_writer_makes_progress_and_holds_for_no_time(env: lmdb.Environment, watch: LockWatch) -> None:
    for now_s in range(10):
        with env.begin(write=True) as txn:
            txn.put(b"key", str(now_s).encode())
            assert watch.look(float(now_s))[0].held_s < 0.001


def test_a_writer_in_another_process_is_seen(env: lmdb.Environment, watch: LockWatch, tmp_path: Path) -> None:
    code = "import lmdb, sys\nt = lmdb.open(sys.argv[1]).begin(write=True)\nprint('in', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "in\n"
        assert [holding.thread for holding in watch.look(0.0)] == [writer.pid]
        writer.kill()
        writer.wait()
        with env.begin(write=True):
            assert [holding.thread for holding in watch.look(0.0)] == [threading.get_native_id()]


def test_a_file_that_is_no_lock_file_is_not_watched(tmp_path: Path) -> None:
    path = tmp_path / "lock.mdb"
    path.write_bytes(os.urandom(8192))
    watch = LockWatch(path)
    assert watch.look(0.0) == []
    watch.close()


def test_a_lock_file_of_another_engine_is_not_watched(tmp_path: Path) -> None:
    make = "import lmdb, sys\nlmdb.open(sys.argv[1], map_size=1 << 20).close()"
    environ = {**os.environ, "LMDB_DEFAULT_LIB_VERSION": "1"}
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], env=environ, check=True, capture_output=True)
    data = bytearray((tmp_path / "lock.mdb").read_bytes())
    if has_known_layout(bytes(data)):  # a binding with one engine: what LMDB 1.0 writes there
        struct.pack_into("<I", data, 4, 0x2C2F6002)
    struct.pack_into("<I", data, WRITER_AT, threading.get_native_id())
    (tmp_path / "lock.mdb").write_bytes(data)
    watch = LockWatch(tmp_path / "lock.mdb")
    assert watch.look(0.0) == []
    assert watch.look_at_readers(0.0) == []
    watch.close()


def test_on_another_machine_nothing_is_watched(
    env: lmdb.Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    watch = LockWatch(tmp_path / "lock.mdb")
    with env.begin(write=True):
        assert watch.look(0.0) == []
    watch.close()


def test_a_reader_that_others_have_written_behind_pins_pages(env: lmdb.Environment, watch: LockWatch) -> None:
    with env.begin() as reader:
        assert watch.look_at_readers(0.0) == []
        with env.begin(write=True) as txn:
            txn.put(b"key", b"value")
        assert watch.look_at_readers(1.0) == [Pinning(os.getpid(), 0.0)]
        assert watch.look_at_readers(3.5) == [Pinning(os.getpid(), 2.5)]
        assert reader.get(b"key") is None
    assert watch.look_at_readers(4.0) == []
    with env.begin():
        assert watch.look_at_readers(5.0) == []


def test_readers_that_come_and_go_pin_for_no_time(env: lmdb.Environment, watch: LockWatch) -> None:
    for now_s in range(5):
        with env.begin():
            with env.begin(write=True) as txn:
                txn.put(b"key", str(now_s).encode())
            assert watch.look_at_readers(float(now_s)) == [Pinning(os.getpid(), 0.0)]
