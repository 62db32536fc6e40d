"""Logs and default snapshots belong to a dataflow file; `--resume` never continues the run of another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noderuntime.ipc.homes import RunRefused
from noderuntime.ipc.rundir import ENV_HOME, state_home
from noderuntime.ipc.state_folders import choose, folders, name_of


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {ENV_HOME: str(tmp_path / "home")}


def project(tmp_path: Path, name: str) -> Path:
    file = tmp_path / name / "dataflow.yml"
    file.parent.mkdir()
    file.write_text("nodes: []")
    return file


def used(folder: Path, file: Path, noted: bool = True) -> Path:
    folder.mkdir(parents=True)
    settings = {"run": "dataflow", "folder": str(file.parent), **({"file": str(file)} if noted else {})}
    (folder / "snapshots.json").write_text(json.dumps(settings))
    return folder


def test_two_files_with_runs_of_one_name_have_a_folder_each(tmp_path: Path, environ: dict[str, str]) -> None:
    one, two = project(tmp_path, "one"), project(tmp_path, "two")
    first = used(choose("dataflow", one, environ, resume=False).folder, one)
    second = used(choose("dataflow", two, environ, resume=False).folder, two)
    assert first == state_home(environ) / "dataflow"
    assert second != first
    assert choose("dataflow", one, environ, resume=True).folder == first
    assert choose("dataflow", two, environ, resume=True).folder == second
    assert set(folders("dataflow", environ)) == {first, second}
    assert {name_of(first), name_of(second)} == {"dataflow"}


def test_the_folder_of_an_older_version_is_found(tmp_path: Path, environ: dict[str, str]) -> None:
    file = project(tmp_path, "one")
    old = used(state_home(environ) / "dataflow", file, noted=False)
    assert choose("dataflow", file, environ, resume=True).folder == old
    assert choose("dataflow", file, environ, resume=False).folder == old


@pytest.mark.parametrize("noted", [True, False])
def test_the_run_of_a_file_elsewhere_is_refused_naming_both(
    tmp_path: Path, environ: dict[str, str], noted: bool
) -> None:
    one, two = project(tmp_path, "one"), project(tmp_path, "two")
    used(state_home(environ) / "dataflow", one, noted)
    with pytest.raises(RunRefused) as refused:
        choose("dataflow", two, environ, resume=True)
    text = str(refused.value)
    assert str(one if noted else one.parent) in text
    assert str(two) in text
    assert "--name" in text


def test_a_space_that_is_kept_of_a_file_elsewhere_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    one, two = project(tmp_path, "one"), project(tmp_path, "two")
    with pytest.raises(RunRefused, match="is that of"):
        choose("dataflow", two, environ, resume=True, kept_file=str(one))
    assert choose("dataflow", one, environ, resume=True, kept_file=str(one)).notice == ""


@pytest.mark.parametrize("kept", [True, False])
def test_a_project_that_has_moved_continues_and_is_told(tmp_path: Path, environ: dict[str, str], kept: bool) -> None:
    old, new = tmp_path / "old" / "dataflow.yml", project(tmp_path, "new")
    folder = used(state_home(environ) / "dataflow", old)
    found = choose("dataflow", new, environ, resume=True, kept_file=str(old) if kept else "")
    assert found.folder == folder
    assert str(old) in found.notice


def test_where_there_was_no_run_of_that_name_there_is_nothing_to_say(tmp_path: Path, environ: dict[str, str]) -> None:
    found = choose("dataflow", project(tmp_path, "one"), environ, resume=True)
    assert (found.folder, found.notice) == (state_home(environ) / "dataflow", "")
