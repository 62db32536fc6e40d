"""Settings of snapshots, and by what the stores of one run know the files that they wrote."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from noderuntime.snapshot.settings import Settings


def settings(spool: Path) -> Settings:
    return Settings(run="r", to="/shared/place", folder="/flows", spool=str(spool))


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = settings(tmp_path / "own")
    written.write(tmp_path / "some" / "snapshots.json")
    assert Settings.read(tmp_path / "some" / "snapshots.json") == written
    assert Settings.read(tmp_path / "none.json") is None


def test_the_owner_of_files_is_the_same_for_each_store_of_a_run_and_another_one_for_each_run(tmp_path: Path) -> None:
    first = settings(tmp_path / "a").owner()
    assert settings(tmp_path / "a").owner() == first
    assert settings(tmp_path / "b").owner() != first
    assert len(bytes.fromhex(first)) == 4


def test_a_home_that_two_machines_share_gives_each_an_owner_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = settings(tmp_path).owner()
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="another-machine"))
    assert settings(tmp_path).owner() != first


def test_an_owner_that_was_torn_is_drawn_anew(tmp_path: Path) -> None:
    first = settings(tmp_path).owner()
    (tmp_path / "owner").write_text("")
    second = settings(tmp_path).owner()
    assert second not in ("", first)
    assert settings(tmp_path).owner() == second


def test_without_a_place_to_keep_it_there_is_no_owner_rather_than_a_new_one_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert settings(tmp_path / "file" / "below").owner() == ""
