"""The end of a run is a list of steps: each happens, whatever those before it have raised."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noderuntime.ipc import process
from noderuntime.ipc.boundary import Boundary
from noderuntime.ipc.rundir import RunDir
from noderuntime.runtime.flight_recorder import THE_RUN, FlightRecorder, parse, replay
from noderuntime.runtime.keepers import GaveUp
from noderuntime.runtime.logs import RunLog, RunLogs
from noderuntime.runtime.phases import Delivered, NodesDone, RunPhase, Saved, SpaceOpened, StoreEnded
from noderuntime.runtime.runtime import Runtime


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


def test_each_step_of_the_end_happens_although_all_of_them_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    observer: Any = Fails("observer", called)
    runtime: Any = Runtime.__new__(Runtime)
    reading, writing = os.pipe()
    names = "nodes store link fork_server router lock_watch loop chaos snapshots outbox held"
    for name in names.split():
        setattr(runtime, f"_{name}", Fails(name, called))
    runtime._observer = observer
    runtime._log = RunLog(observer, RunLogs(tmp_path))
    runtime._reserve = []
    runtime._run_dir = RunDir(tmp_path / "no" / "such" / "folder")
    runtime._signals, runtime._signalled = reading, writing
    runtime._dead_letters = [{"node": "a"}]
    runtime._file = SimpleNamespace(log_dir=str(tmp_path / "gone"), name="run", file="flow.yml")
    runtime._figures = {}
    runtime._dataflow = SimpleNamespace(nodes=[SimpleNamespace(id="a")])
    runtime._phase = over(found_space=True)
    runtime._recorder = FlightRecorder()

    def kill_descendants(within_s: float) -> list[int]:
        called.append("kill")
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(process, "kill_descendants", kill_descendants)
    monkeypatch.setattr("noderuntime.runtime.runtime.signal.signal", lambda *given: None)
    runtime._end()
    wanted = ["nodes.close", "store.close", "link.close", "fork_server.close", "kill", "router.close",
              "lock_watch.close", "loop.close", "chaos.finish", "observer.summary", "held.release"]  # fmt: skip
    assert [name for name in called if name in wanted] == [*wanted, "held.release"]
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(reading)
    told = (tmp_path / "runtime.log").read_text()
    assert "nodes.close" in told and "Too many open files" in told


def over(found_space: bool = False) -> RunPhase:
    phase = RunPhase(5.0, found_space)
    for event in (SpaceOpened(), NodesDone(), Delivered(), Saved(), StoreEnded()):
        phase.handle(event, 0.0)
    return phase


def loop_of(turn: Any) -> tuple[Any, list[str]]:
    runtime: Any = Runtime.__new__(Runtime)
    told: list[str] = []
    runtime._begin = runtime._end = lambda: None
    runtime._phase = RunPhase(5.0)
    runtime._turn = turn
    runtime._boundary = Boundary(told.append, passes=(GaveUp, OSError))
    runtime._failed_turns = 0
    runtime._log = SimpleNamespace(tell=lambda text, level: told.append(text), keep=lambda text: None)
    runtime._chaos = None
    runtime._nodes, runtime._outbox = SimpleNamespace(failed=[]), SimpleNamespace(problem="")
    return runtime, told


def test_turns_of_the_loop_that_fail_now_and_then_end_no_run() -> None:
    turns = iter(range(1000))

    def turn() -> None:
        number = next(turns)
        if number == 999:
            runtime._phase = over()
        elif number % 2:
            raise ValueError("odd")

    runtime, told = loop_of(turn)
    assert runtime.run() == 0
    assert len(told) == 1 and "ValueError: odd" in told[0]


def test_a_loop_that_fails_at_each_turn_gives_up_with_the_cause() -> None:
    def turn() -> None:
        raise ValueError("always")

    runtime, told = loop_of(turn)
    assert runtime.run() == 1
    assert told[-1] == "the runtime cannot go on: ValueError: always; the run ends"


def test_what_led_to_the_first_failure_of_the_runtime_is_kept_for_a_replay() -> None:
    runtime: Any = Runtime.__new__(Runtime)
    kept: list[str] = []
    runtime._log = SimpleNamespace(warn=kept.append, keep=kept.append)
    runtime._boundary = Boundary(runtime._tell_failure)
    runtime._recorder = recorder_of(runtime)
    for kind in (ValueError, KeyError, ValueError):
        runtime._boundary.note("a turn", kind("odd"))
    assert len(kept) == 4  # two kinds of failure, and once: the phase as it was, and its step
    earlier, steps = parse(kept)
    assert replay(earlier, steps) == [(step, step.actions) for step in steps]
    assert [step.event for step in steps] == [SpaceOpened()]


def test_an_error_that_ends_the_runtime_carries_the_last_steps_into_its_report() -> None:
    def turn() -> None:
        raise RuntimeError("out of reach")

    runtime, _ = loop_of(turn)
    runtime._boundary = Boundary(print, passes=(RuntimeError,))
    runtime._recorder = recorder_of(runtime)
    with pytest.raises(RuntimeError) as caught:
        runtime.run()
    report = "".join(traceback.format_exception(caught.value))
    _, steps = parse(report.splitlines())
    assert [step.event for step in steps] == [SpaceOpened()]


def recorder_of(runtime: Any) -> FlightRecorder:
    runtime._phase = RunPhase(5.0)
    recorder = FlightRecorder()
    recorder.follow(THE_RUN, runtime._phase)
    runtime._phase.handle(SpaceOpened(), 0.0)
    return recorder
