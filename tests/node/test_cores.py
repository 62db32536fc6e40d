"""Whether a core is to spare, told from what /proc/loadavg says."""

from __future__ import annotations

from pathlib import Path

import pytest

from noderuntime.node import cores


@pytest.fixture
def load(tmp_path: Path) -> Path:
    return tmp_path / "loadavg"


def says(load: Path, running: int) -> None:
    load.write_text(f"0.52 0.58 0.59 {running}/233 12345\n")


@pytest.mark.parametrize(("running", "spare"), [(1, True), (2, False), (7, False)])
def test_a_core_is_to_spare_while_fewer_tasks_run_than_there_are_cores(load: Path, running: int, spare: bool) -> None:
    says(load, running)
    asked = cores.Cores(str(load), count=2)
    assert asked.spare() is spare
    asked.close()


def test_one_core_is_never_to_spare(load: Path) -> None:
    says(load, 1)
    asked = cores.Cores(str(load), count=1)
    assert not asked.spare()
    asked.close()


def test_it_looks_again_only_after_a_while(load: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 1
    monkeypatch.setattr(cores.time, "monotonic_ns", lambda: now_ns)
    says(load, 1)
    asked = cores.Cores(str(load), count=2)
    assert asked.spare()
    says(load, 9)
    assert asked.spare()
    now_ns += cores.LOOK_NS
    assert not asked.spare()
    asked.close()


def test_without_proc_nothing_is_to_spare(tmp_path: Path) -> None:
    asked = cores.Cores(str(tmp_path / "missing"), count=8)
    assert not asked.spare()
    asked.close()


def test_the_real_one_can_be_asked() -> None:
    asked = cores.Cores()
    assert asked.spare() in (True, False)
    asked.close()
    asked.close()
