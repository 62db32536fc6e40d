"""What the design takes from LMDB without asking: if a version of it differs, these say so first."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.kit import MB
from support.procs import Child, wait_until

from noderuntime.ipc import lock_watch
from noderuntime.ipc.lock_watch import has_known_layout
from noderuntime.space.environment import Space, create, open_space

OPEN = """
import sys
from pathlib import Path
from noderuntime.space.environment import open_space
space = open_space(Path(sys.argv[1]))
"""
PUBLISHED_AT = 48  # where the lock file holds the id of the last published transaction

Spawn = Callable[..., Child]


@pytest.fixture
def space(shm: Path) -> Iterator[Space]:
    space = create(shm, 4 * MB, "boot")
    yield space
    space.close()


@pytest.fixture
def spawn(shm: Path) -> Iterator[Spawn]:
    children: list[Child] = []

    def start(code: str) -> Child:
        children.append(Child(OPEN + code, shm))
        return children[-1]

    yield start
    for child in children:
        child.close()


def holder(space: Space) -> int:
    """The thread id in the lock word."""
    return space._lock_word[0] & 0x3FFFFFFF


def put(space: Space, key: bytes, value: bytes) -> None:
    with space.write() as txn:
        txn.put(key, value)


def get(space: Space, key: bytes) -> bytes | None:
    with space.read() as txn:
        found: bytes | None = txn.get(key)
        return found


def test_the_lock_word_is_the_thread_id_of_who_holds_the_write_lock(space: Space) -> None:
    assert holder(space) == 0
    txn = space.begin()
    assert holder(space) == threading.get_native_id()
    txn.abort()
    assert holder(space) == 0


def test_a_new_space_is_one_of_the_engine_whose_locks_are_known_whatever_the_user_s_default_is(shm: Path) -> None:
    make = "import sys\nfrom pathlib import Path\nfrom noderuntime.space.environment import create\n"
    make += "create(Path(sys.argv[1]), 1 << 22, 'boot').close()"
    environ = {**os.environ, "LMDB_DEFAULT_LIB_VERSION": "1"}
    subprocess.run([sys.executable, "-c", make, str(shm)], env=environ, check=True, capture_output=True)
    assert has_known_layout((shm / "lock.mdb").read_bytes())
    space = open_space(shm)
    assert holder(space) == 0
    txn = space.begin()
    assert holder(space) == threading.get_native_id()
    txn.abort()
    space.close()


def test_a_space_of_another_engine_is_used_without_its_lock_word(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_watch, "has_known_layout", lambda _: False)
    space = create(shm, 4 * MB, "boot")
    with space.write() as txn:
        txn.put(b"k", b"v")
        assert not space.has_waiters()
    assert get(space, b"k") == b"v"
    space.close()


def test_the_lock_word_shows_holders_in_other_processes(space: Space, spawn: Spawn) -> None:
    child = spawn("txn = space.begin(); print('held', flush=True); input()")
    assert child.line() == "held"
    assert holder(space) == child.pid
    child.tell("go on")
    child.wait()
    wait_until(lambda: holder(space) == 0)


def test_the_lock_word_says_that_somebody_waits(space: Space, spawn: Spawn) -> None:
    child = spawn("print('ready', flush=True); input(); txn = space.begin(); txn.abort(); print('had it', flush=True)")
    child.line()
    txn = space.begin()
    assert not space.has_waiters()
    child.tell("now")
    wait_until(space.has_waiters)
    txn.abort()
    assert child.line() == "had it"


@pytest.mark.parametrize("how", ["killed", "stopped and killed"])
def test_a_writer_that_is_killed_lets_the_next_one_in_and_leaves_nothing(space: Space, spawn: Spawn, how: str) -> None:
    put(space, b"k", b"before")
    child = spawn("txn = space.begin(); txn.put(b'k', b'torn'); print('held', flush=True); input()")
    child.line()
    if how == "stopped and killed":
        child.signal(signal.SIGSTOP)
    child.kill()
    put(space, b"l", b"next")
    assert (get(space, b"k"), get(space, b"l")) == (b"before", b"next")


def test_reader_check_frees_the_slots_of_killed_processes(space: Space, spawn: Spawn) -> None:
    children = [spawn("txn = space.read(); print('reading', flush=True); input()") for _ in range(3)]
    for child in children:
        child.line()
    for child in children:
        child.kill()
    assert space.reader_check() == 3
    assert space.reader_check() == 0


def test_a_killed_reader_pins_pages_only_until_reader_check(space: Space, spawn: Spawn) -> None:
    child = spawn("txn = space.read(); txn.get(b'k'); print('reading', flush=True); input()")
    child.line()
    child.kill()
    space.reader_check()
    for _ in range(200):  # 20 MB through a map of 4
        put(space, b"k", os.urandom(100_000))


def test_readers_block_nobody_and_see_one_moment(space: Space, spawn: Spawn) -> None:
    put(space, b"k", b"old")
    with space.read() as txn:
        child = spawn("with space.write() as txn: txn.put(b'k', b'new')\nprint('written', flush=True)")
        assert child.line() == "written"
        assert txn.get(b"k") == b"old"
    assert get(space, b"k") == b"new"


def test_a_commit_that_was_killed_before_it_was_published_appears_when_somebody_takes_the_lock(
    space: Space, spawn: Spawn, shm: Path
) -> None:
    put(space, b"k", b"old")
    put(space, b"k", b"new")
    # A process is killed that holds the lock, when the last meta page is written and its id not yet published.
    child = spawn("txn = space.begin(); print('held', flush=True); input()")
    child.line()
    editor = spawn(
        f"import struct\nwith open(sys.argv[1] + '/lock.mdb', 'r+b') as file:\n"
        f"    file.seek({PUBLISHED_AT}); last, = struct.unpack('Q', file.read(8))\n"
        f"    file.seek({PUBLISHED_AT}); file.write(struct.pack('Q', last - 1))\n"
        "print(last, flush=True)"
    )
    assert int(editor.line()) == space.last_sequence()
    child.kill()
    assert get(space, b"k") == b"old"
    space.begin().abort()
    assert get(space, b"k") == b"new"


def test_the_published_id_stands_where_we_look_for_it(space: Space, spawn: Spawn) -> None:
    put(space, b"k", b"v")
    child = spawn("with open(sys.argv[1] + '/lock.mdb', 'rb') as file: print(file.read(64).hex(), flush=True)")
    (published,) = struct.unpack_from("Q", bytes.fromhex(child.line()), PUBLISHED_AT)
    assert published == space.last_sequence()
