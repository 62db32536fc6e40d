"""snapshot verify: beside a run that prunes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.cli import main, snapshot
from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot.backend import Listed

Capture = pytest.CaptureFixture[str]


class Pruned:
    """A place in which snapshot 1 is pruned while it is read, and 2 is damaged."""

    place = "here"

    def __init__(self) -> None:
        self.numbers = [3, 2, 1]

    def snapshots(self) -> list[Listed]:
        manifest: Any = SimpleNamespace()
        return [Listed(number, manifest) for number in self.numbers]

    def verify(self, number: int) -> None:
        if number == 1:
            self.numbers.remove(1)
        if number < 3:
            raise SnapshotCorrupt(str(number), "part x is missing")

    def close(self) -> None:
        pass


def test_a_snapshot_that_is_pruned_while_it_is_verified_is_not_damaged(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(snapshot, "settings_of", lambda name: SimpleNamespace(open=Pruned, run="flow"))
    assert main(["snapshot", "verify", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(item["snapshot"], item["good"]) for item in found] == [(3, True), (2, False)]
