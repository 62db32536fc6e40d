"""homes.py: shared memory, large or small, or a disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from noderuntime.ipc import homes, runs


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A machine whose shared memory has 64 MB free, and a disk."""
    shm = tmp_path / "shm" / "noderuntime"
    shm.parent.mkdir()
    monkeypatch.setattr(homes, "home", lambda environ, uid: shm)
    monkeypatch.setattr(homes, "is_memory", lambda folder: folder == shm)
    monkeypatch.setattr(homes, "_free_bytes", lambda folder: 64_000_000)
    monkeypatch.setattr(homes, "memory_limit_bytes", lambda: None)
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def test_a_small_shared_memory_limits_the_default_size(shared_memory: dict[str, str]) -> None:
    folder, size, notice = homes.choose_home(shared_memory, None)
    assert (folder.name, size) == ("noderuntime", 51_200_000)
    assert "limited to 51 MB" in notice


def test_a_size_that_does_not_fit_into_shared_memory_goes_to_disk_and_says_so(shared_memory: dict[str, str]) -> None:
    folder, size, notice = homes.choose_home(shared_memory, 500_000_000)
    assert (folder.name, size) == ("spaces", 500_000_000)
    assert "it is on disk" in notice
    assert folder in homes.homes(shared_memory)


def test_a_size_that_fits_is_given_in_silence(shared_memory: dict[str, str]) -> None:
    assert homes.choose_home(shared_memory, 20_000_000)[1:] == (20_000_000, "")


def test_the_memory_limit_of_a_container_counts(
    shared_memory: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "memory_limit_bytes", lambda: 60_000_000)
    folder, size, notice = homes.choose_home(shared_memory, None)
    assert (folder.name, size) == ("noderuntime", 30_000_000)
    assert notice == "the space is limited to 30 MB: memory is limited here (cgroup)"


def test_a_space_that_stays_where_it_is_gets_no_more_than_there_is(
    shared_memory: dict[str, str], tmp_path: Path
) -> None:
    folder, _, _ = homes.choose_home(shared_memory, None)
    space = tmp_path / "space"
    assert homes.size_where_it_is(folder, None, space) == 51_200_000
    assert homes.size_where_it_is(folder, 2_000_000, space) == 2_000_000
    space.mkdir()
    (space / "data.mdb").write_bytes(b"x" * 10_000_000)
    assert homes.size_where_it_is(folder, None, space) >= 59_200_000


def test_what_is_memory_is_told_by_the_kind_of_the_file_system() -> None:
    assert homes.is_memory(Path("/dev/shm"))
    assert not homes.is_memory(Path("/proc"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR])
def test_a_folder_that_cannot_be_made_names_the_variable_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    environ = {"NODERUNTIME_HOME": str(tmp_path / "home")}
    logs = tmp_path / "home" / "flow"
    for begin in (lambda: homes.choose_home(environ, None), lambda: runs.new_log_folder(logs, environ)):
        with pytest.raises(homes.RunRefused) as caught:
            begin()
        told = str(caught.value)
        assert str(tmp_path / "home") in told and "Set $NODERUNTIME_HOME to a folder of yours." in told
        assert os.strerror(number) in told
