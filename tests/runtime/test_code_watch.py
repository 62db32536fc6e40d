"""Changes of files, as `--watch` sees them look by look."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from noderuntime.runtime.code_watch import Changes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "op.py"
    path.write_text("one")
    return path


@pytest.fixture
def changes(file: Path) -> Changes:
    made = Changes()
    made.watch({file})
    return made


def test_a_change_counts_once_and_when_it_has_been_still_for_a_look(changes: Changes, file: Path) -> None:
    assert changes.look() == set()
    file.write_text("another")
    assert changes.look() == set()
    assert changes.look() == {file}
    assert changes.look() == set()


def test_while_a_file_is_being_written_it_has_not_changed_yet(changes: Changes, file: Path) -> None:
    for size in range(10, 15):
        file.write_text("x" * size)
        assert changes.look() == set()
    assert changes.look() == {file}


def test_an_editor_that_removes_and_renames_changes_a_file_once(changes: Changes, file: Path) -> None:
    file.unlink()
    assert changes.look() == changes.look() == set()
    new = file.with_suffix(".new")
    new.write_text("two")
    new.rename(file)
    assert changes.look() == set()
    assert changes.look() == {file}


def test_a_file_that_was_not_there_changes_when_it_appears(tmp_path: Path) -> None:
    changes = Changes()
    changes.watch({tmp_path / "late.py"})
    (tmp_path / "late.py").write_text("")
    assert changes.look() == set()
    assert changes.look() == {tmp_path / "late.py"}


def test_a_touch_is_a_change_and_a_second_watch_is_none(changes: Changes, file: Path) -> None:
    os.utime(file, ns=(1, 1))
    changes.watch({file})
    assert changes.look() == set()
    assert changes.look() == {file}
