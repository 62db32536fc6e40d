"""reruns.py: what is counted, what is kept, and when a session fails by it. Real sessions of pytest."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.reruns import FOLDER_ENV, allowed

FLAKY = """
import os, subprocess, sys
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({steady}))
def test_steady(number):
    pass

@pytest.mark.parametrize("number", range({flaky}))
def test_flaky(number, tmp_path):
    mark = Path(__file__).with_name(f"tried-{{number}}")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "node.log").write_text(f"the log of {{number}}")
    print(f"said by {{number}}")
    if not mark.exists():
        mark.touch()
        with subprocess.Popen([sys.executable, "-c", "input()  # a child of it"], stdin=subprocess.PIPE) as child:
            try:
                raise OSError("the first time")
            finally:
                child.stdin.close()
"""


KINDS = """
import pytest

def test_wrong():
    assert 6 == 3

def test_wrong_with_words():
    assert 6 == 3, "so many"

def test_too_long():
    pytest.fail("Timeout >120.0s")

def test_waited():
    assert False, "waited in vain for: its next life"

def test_stumbled():
    raise OSError("it is gone")
"""


def session(folder: Path, steady: int, flaky: int, *options: str) -> subprocess.CompletedProcess[str]:
    return session_of(FLAKY.format(steady=steady, flaky=flaky), folder, *options)


def session_of(tests: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    (folder / "conftest.py").write_text('pytest_plugins = ["support.reruns"]\n')
    (folder / "test_it.py").write_text(tests)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), FOLDER_ENV: str(folder.parent / "kept")}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID", "PYTEST_ADDOPTS"):
        environ.pop(name, None)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *options]
    return subprocess.run(
        [*line, str(folder)], env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )


def test_one_of_a_thousand_may_need_a_second_try_and_one_of_fewer() -> None:
    assert [allowed(tests) for tests in (1, 999, 1999, 2000, 3456)] == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_one_rerun_passes_and_its_log_and_stack_are_kept(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = session(tmp_path / "a", 5, 1, "--reruns", "1", *workers)
    assert done.returncode == 0, done.stdout
    assert "1 of 6 tests needed a second try, 1 may" in done.stdout
    assert f"logs and stacks: {tmp_path / 'kept'}" in done.stdout
    (place,) = (path for path in (tmp_path / "kept").iterdir() if path.is_dir())
    assert "test_flaky" in place.name
    text = (place / "1.txt").read_text()
    assert "OSError: the first time" in text and "said by 0" in text and "---- processes" in text
    assert (place / "1" / "runs" / "node.log").read_text() == "the log of 0"
    (told,) = (tmp_path / "kept").glob("tests-*.json")
    assert json.loads(told.read_text())["tests"] == 6


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_more_than_may_fail_the_session_although_all_passed_in_the_end(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    done = session(tmp_path / "a", 5, 2, "--reruns", "1", *workers)
    assert done.returncode == 1
    assert "7 passed, 2 rerun" in done.stdout
    assert "2 of 7 tests needed a second try, 1 may" in done.stdout
    assert "too many" in done.stdout


def test_sessions_that_share_a_folder_are_counted_together(tmp_path: Path) -> None:
    assert session(tmp_path / "a", 5, 1, "--reruns", "1").returncode == 0
    assert session(tmp_path / "b", 5, 0, "--reruns", "1").returncode == 0
    done = session(tmp_path / "c", 5, 1, "--reruns", "1")
    assert done.returncode == 1
    assert "2 of 18 tests needed a second try, 1 may" in done.stdout


def test_enough_tests_allow_two(tmp_path: Path) -> None:
    done = session(tmp_path / "a", 1998, 2, "--reruns", "1")
    assert done.returncode == 0, done.stdout
    assert "2 of 2000 tests needed a second try, 2 may" in done.stdout


def test_without_reruns_nothing_is_kept(tmp_path: Path) -> None:
    assert session(tmp_path / "a", 1, 1).returncode == 1
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_make_never_tries_a_wrong_result_or_a_test_without_end_again(tmp_path: Path, workers: tuple[str, ...]) -> None:
    again = re.search("^AGAIN := (.*)$", (Path(__file__).parent.parent / "Makefile").read_text(), re.MULTILINE)
    assert again is not None
    done = session_of(KINDS, tmp_path / "a", *shlex.split(again[1]), *workers)
    needed = re.findall(r"needed a second try: \S+::(\w+)", done.stdout)
    assert sorted(needed) == ["test_stumbled", "test_waited"], done.stdout
    assert "5 failed, 2 rerun" in done.stdout
