"""The frames of a user's traceback are the user's, wherever the file lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from noderuntime.errors import OperatorError
from noderuntime.ipc.entrypoints import PACKAGE
from noderuntime.node import user_code

HERE = PACKAGE


@pytest.mark.parametrize("file", ["noderuntime_sums.py", "noderuntime/ops.py"])
def test_a_file_whose_name_begins_like_ours_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(user_code, "_OURS", str(tmp_path / "noderuntime") + "/")
    path = tmp_path / file.replace("noderuntime/", "noderuntime_other/")
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise ValueError('while it was imported')\n")
    with pytest.raises(OperatorError) as caught:
        user_code.load(str(path), "", "Operator")
    assert f'File "{path}", line 1' in caught.value.trace


def test_our_own_frames_are_left_out_and_those_of_the_operators_of_the_package_are_not() -> None:
    assert user_code._is_ours(str(HERE / "operator_host.py"))
    assert not user_code._is_ours(str(HERE / "operators" / "running_sum.py"))
    assert not user_code._is_ours(str(HERE) + "_sums.py")
    assert user_code._is_ours("noderuntime/node/operator_host.py")  # as a compiled module names it
