"""loader.py: dataflow files from a real folder, and the files that they name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from noderuntime.dataflow.files import check_files, command, load
from noderuntime.dataflow.model import Dataflow
from noderuntime.errors import DataflowError


def write(folder: Path, text: str, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('nobody may execute this')\n")
    path = folder / "flow.yml"
    path.write_text(text)
    return path


def loaded(folder: Path, node: str, *files: str) -> Dataflow:
    return load(write(folder, f"nodes:\n- {{id: a, {node}}}\n", *files), env={})


def refused(folder: Path, node: str, *files: str) -> DataflowError:
    flow = loaded(folder, node, *files)
    with pytest.raises(DataflowError) as caught:
        check_files(flow)
    return caught.value


def test_a_file_is_read_with_its_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "nodes: [{id: a, path: $FILE}]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FILE", "a.py")
    flow = load("flow.yml")
    assert (flow.file, flow.folder, flow.nodes[0].code.path) == ("flow.yml", str(tmp_path), "a.py")
    assert load("flow.yml", overrides={"FILE": "b.py"}).nodes[0].code.path == "b.py"


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, "nodes: []")
    with pytest.raises(DataflowError, match="there is no such file") as caught:
        load(tmp_path / "flaw.yml")
    assert "flow.yml" in caught.value.hint
    with pytest.raises(DataflowError, match="there is no such file") as caught:
        load(tmp_path / "nothing" / "flow.yml")
    assert "no folder" in caught.value.hint


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(DataflowError, match="a folder"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataflowError, match="no regular file"):
        load(tmp_path / "pipe")
    with pytest.raises(DataflowError, match="cannot be read"):
        load("a\0b")
    with pytest.raises(DataflowError, match="cannot be read"):
        load("x" * 5000)


def test_ten_megabytes_are_not_even_read(tmp_path: Path) -> None:
    with open(tmp_path / "flow.yml", "wb") as file:
        file.truncate(10_000_000)
    with pytest.raises(DataflowError, match=r"flow.yml:1:\d+: the file is longer than 1048576 bytes"):
        load(tmp_path / "flow.yml")


def test_errors_name_the_file_as_the_user_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / ".", "nodes: 5")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataflowError, match=r"^\./flow\.yml:1:8: "):
        load("./flow.yml")


def test_node_files_that_exist_are_fine_and_nothing_is_executed(tmp_path: Path) -> None:
    script = tmp_path / "tool.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    text = """nodes:
- {id: a, path: a.py}
- {id: b, operator: {python: ops/b.py:Name}}
- {id: c, path: ./tool.sh}
- {id: d, path: dynamic}
- {id: e, path: sh, args: -c true}
- {id: f, operator: {module: json:Name}}
state: {seed: {file: seed.yml}}
"""
    assert check_files(load(write(tmp_path, text, "a.py", "ops/b.py", "seed.yml"))) == []


def test_a_missing_node_file_is_told_at_its_line_with_the_nearest_one(tmp_path: Path) -> None:
    error = refused(tmp_path, "path: sourse.py", "source.py")
    assert (error.line, error.column) == (2, 17)
    assert "'sourse.py' does not exist" in error.what
    assert "Did you mean 'source.py'?" in error.hint


def test_only_a_python_file_with_a_similar_name_is_suggested_for_a_missing_node_file(tmp_path: Path) -> None:
    assert "Did you mean 'sums/source.py'?" in refused(tmp_path, "path: sums/sourse", "sums/source.py").hint
    assert "Did you mean" not in refused(tmp_path, "path: nothere.py", "camera.py").hint
    assert "Did you mean" not in refused(tmp_path, "path: flow", "camera.py").hint


def test_a_missing_operator_file_is_told_at_its_line(tmp_path: Path) -> None:
    error = refused(tmp_path, "operator: {python: no/such.py:Name}")
    assert (error.line, error.column) == (2, 30)
    assert "no folder" in error.hint


def test_several_missing_files_are_told_together(tmp_path: Path) -> None:
    text = "nodes:\n- {id: a, path: a.py}\n- {id: b, path: b.py}\nstate: {seed: {file: s.yml}}"
    with pytest.raises(DataflowError) as caught:
        check_files(load(write(tmp_path, text)))
    assert [error.line for error in (caught.value, *caught.value.more)] == [2, 3, 4]


def test_a_folder_is_no_node_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").mkdir()
    assert "is a folder" in refused(tmp_path, "path: a.py").what


def test_an_executable_needs_the_permission_to_be_one(tmp_path: Path) -> None:
    error = refused(tmp_path, "path: tool.sh", "tool.sh")
    assert "not executable" in error.what
    assert "chmod +x tool.sh" in error.hint


def test_a_path_longer_than_any_file_name_is_told(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path, f"path: {'a' * 5000}.py").what


def test_a_path_through_a_file_is_told(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path, "path: a.py/b.py", "a.py").what


def test_a_node_file_that_hides_a_module_of_python_is_warned_about(tmp_path: Path) -> None:
    warnings = check_files(loaded(tmp_path, "path: queue.py", "queue.py"))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{tmp_path}/flow.yml:2:17: 'queue.py' of node 'a' hides")
    assert check_files(loaded(tmp_path, "operator: {python: random.py}", "random.py"))
    assert check_files(loaded(tmp_path, "path: noderuntime.py", "noderuntime.py"))


@pytest.mark.parametrize(
    ("restarts", "attempts", "warned"), [(2, 3, True), (3, 3, False), (0, 3, False), (2, 0, False)]
)
def test_restarts_that_are_used_up_before_a_poisonous_message_is_buried_are_warned_about(
    tmp_path: Path, restarts: int, attempts: int, warned: bool
) -> None:
    limits = f"max_restarts: {restarts}, max_attempts: {attempts}"
    fed = "operator: {python: a.py, inputs: {n: other/n}}"
    (tmp_path / "b.py").touch()
    text = f"{fed}, {limits}}}\n- {{id: other, path: b.py, outputs: [n], restart_policy: on-failure"
    warnings = check_files(loaded(tmp_path, text, "a.py"))
    assert len(warnings) == warned
    if warned:
        assert warnings[0].startswith(f"{tmp_path}/flow.yml:2:8: node 'a' fails for good before")


def test_the_command_of_a_node_is_python_a_file_or_what_the_path_finds(tmp_path: Path) -> None:
    flow = loaded(tmp_path, "path: a.py, args: [x, y z]", "a.py")
    assert command(flow, flow.nodes[0]) == [sys.executable, str(tmp_path / "a.py"), "x", "y z"]

    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    flow = loaded(tmp_path, "path: tool")
    assert command(flow, flow.nodes[0]) == [str(tmp_path / "tool")]

    flow = loaded(tmp_path, f"path: tool, env: {{PATH: {tmp_path}/bin}}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "tool").rename(tmp_path / "bin" / "tool")
    assert command(flow, flow.nodes[0]) == [str(tmp_path / "bin" / "tool")]

    flow = loaded(tmp_path, "path: nothing-like-this")
    with pytest.raises(DataflowError, match="does not exist, and no command of that name is on the PATH"):
        command(flow, flow.nodes[0])
