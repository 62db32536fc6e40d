"""The end of a run is a list of steps: each happens, whatever those before it have raised."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.ipc import process
from noderuntime.ipc.rundir import RunDir
from noderuntime.runtime import signals
from noderuntime.runtime.descriptors import Reserve
from noderuntime.runtime.ending import RunEnd
from noderuntime.runtime.logs import RunLog, RunLogs
from noderuntime.runtime.outcome import Outcome
from noderuntime.runtime.phases import Delivered, NodesDone, RunPhase, Saved, SpaceOpened, StoreEnded
from noderuntime.runtime.signals import Signals


class Fails:
    """Whatever is called is noted, and raises."""

    def __init__(self, name: str, called: list[str]) -> None:
        self._name = name
        self._called = called

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            self._called.append(f"{self._name}.{name}")
            raise ValueError(f"{self._name}.{name}")

        return call


def over() -> RunPhase:
    phase = RunPhase(5.0, found_space=True)
    for event in (SpaceOpened(), NodesDone(), Delivered(), Saved(), StoreEnded()):
        phase.handle(event, 0.0)
    return phase


def failing(folder: Path, called: list[str], outcome: Any) -> RunEnd:
    """The end of a run whose parts all raise when they are closed."""
    names = "held loop router link nodes taps store fork_server lock_watch chaos"
    parts: dict[str, Any] = {name: Fails(name, called) for name in names.split()}
    observer: Any = Fails("observer", called)
    file: Any = SimpleNamespace(log_dir=str(folder / "gone"), name="run", file="flow.yml")
    dataflow: Any = SimpleNamespace(nodes=[SimpleNamespace(id="a", helper=False)])
    return RunEnd(
        **parts,
        dataflow=dataflow,
        file=file,
        run_dir=RunDir(folder / "no" / "such" / "folder"),
        reserve=Reserve(),
        log=RunLog(observer, RunLogs(folder)),
        signals=Signals(),
        last=SimpleNamespace(nodes={}, letters=[{"node": "a"}]),  # type: ignore[arg-type]
        outcome=outcome,
        keep_steps=Fails("steps", called).keep,
        notice=lambda: None,
    )


CLOSED = ["nodes.close", "taps.close", "store.close", "link.close", "fork_server.close", "kill", "router.close",
          "lock_watch.close", "loop.close", "steps.keep", "chaos.finish"]  # fmt: skip


@pytest.mark.parametrize("is_known", [True, False])
def test_each_step_of_the_end_happens_although_all_of_them_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    called: list[str] = []

    def kill_descendants(within_s: float) -> list[int]:
        called.append("kill")
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(process, "kill_descendants", kill_descendants)
    monkeypatch.setattr(signals.signal, "signal", lambda *given: None)
    outcome = (lambda: Outcome(over(), node_failed=True, undelivered="no room")) if is_known else Fails("it", []).known
    end = failing(tmp_path, called, outcome)
    pipe = end.signals.fd
    end.carry_out()
    shown = ["observer.summary"] if is_known else []  # without an outcome there is no row for a run without nodes
    wanted = [name for name in CLOSED if is_known or name != "steps.keep"] + [*shown, "held.release"]
    # twice, and never removed: what cannot be decided is kept
    assert [name for name in called if name in wanted or name == "held.remove"] == [*wanted, "held.release"]
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(pipe)
    told = (tmp_path / "runtime.log").read_text()
    assert "nodes.close" in told and "Too many open files" in told
