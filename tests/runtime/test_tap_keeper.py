"""taps.py: when a run has a tap server, and what its keeper does when that one is stopped, hangs, or dies.

Time is a number. What it is good for is in e2e/test_taps.py, and kills of a real one in faults/test_tap_points.py.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from noderuntime.ipc.lock_watch import Holding, Pinning
from noderuntime.runtime.forkserver import Order
from noderuntime.runtime.health import LOCK_S_MAX, PIN_S_MAX, STOPPED_S_MAX
from noderuntime.runtime.keepers import PAUSE_S
from noderuntime.runtime.taps import END_S, TapKeeper

PID = 4711


class Process:
    """What the keeper sees of a process."""

    def __init__(self, owner: TapKeeper) -> None:
        self.owner = owner
        self.pid = 0
        self.reaped = False
        self.closed = False
        self.signals: list[int] = []

    def is_there(self) -> None:
        self.pid = PID

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def ends(self, status: int) -> None:
        self.reaped = True
        self.owner.exited(self, status)  # type: ignore[arg-type]

    def is_not_spawned(self, error: OSError) -> None:
        self.reaped = True
        self.owner.not_spawned(self, error)  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


class World:
    """Stands for the fork server, the link to the store, the log and the clock of one keeper."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.orders: list[Order] = []
        self.processes: list[Process] = []
        self.asked: list[str] = []
        self.said: list[str] = []
        self.warned: list[str] = []
        self.no_process: OSError | None = None
        self._answers: list[tuple[Any, Any]] = []
        here: Any = self
        self.keeper = TapKeeper(here, here, here, {"A": "1"}, Path("/run/dir"), lambda: self.now_s)

    # ---- the fork server

    def spawn(self, order: Order, owner: TapKeeper) -> Process:
        if self.no_process is not None:
            raise self.no_process
        self.orders.append(order)
        self.processes.append(Process(owner))
        return self.processes[-1]

    # ---- the link to the store

    def request(self, what: str, arguments: Any, kind: Any, done: Any, refused: Any) -> None:
        self.asked.append(what)
        self._answers.append((done, refused))

    def store_answers(self, error: str = "") -> None:
        done, refused = self._answers.pop(0)
        refused(error, "why") if error else done({})

    # ---- the log

    def tell(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def helper_line(self, helper: str, text: str) -> None:
        self.said.append(f"{helper}: {text}")

    # ---- what the tests do

    def look(self, stopped: bool = False, lock_s: float = 0.0, pinned_s: float = 0.0, of: int = PID) -> None:
        holdings = [(of, Holding(of, lock_s))] if lock_s else []
        pinnings = [Pinning(of, pinned_s)] if pinned_s else []
        self.keeper.look(self.now_s, stopped, holdings, pinnings)

    def started(self) -> Process:
        """A tap server that lives."""
        assert self.keeper.wanted(True)["why"] == ""
        process = self.processes[-1]
        process.is_there()
        return process

    def dies(self, status: int) -> None:
        """It is started, dies, and what it left is removed."""
        count = len(self.processes)
        process = self.started()
        assert len(self.processes) == count + 1
        process.ends(status)
        self.store_answers()


@pytest.fixture
def world() -> World:
    return World()


def test_there_is_none_before_a_tap_asks_for_it(world: World) -> None:
    world.look()
    assert (world.orders, world.keeper.pid, world.keeper.has_ended) == ([], 0, True)
    assert world.keeper.wanted(may_start=False) == {"why": "", "ending": False, "pid": 0}
    assert world.orders == []


def test_the_first_tap_that_asks_has_it_started_and_the_others_are_told_its_pid(world: World) -> None:
    assert world.keeper.wanted(True) == {"why": "", "ending": False, "pid": 0}
    (order,) = world.orders
    assert (order.entry, order.arguments, order.env) == ("noderuntime.watching.server:main", ["/run/dir"], {"A": "1"})
    assert not world.keeper.has_ended
    world.keeper.wanted(True)
    world.processes[0].is_there()
    assert world.keeper.wanted(True)["pid"] == world.keeper.wanted(False)["pid"] == world.keeper.pid == PID
    assert len(world.orders) == 1


def test_what_is_left_of_the_taps_is_removed_before_another_one_is_started(world: World) -> None:
    world.started().ends(-signal.SIGKILL)
    world.now_s += 60.0
    assert world.keeper.wanted(True) == {"why": "", "ending": False, "pid": 0}
    assert (world.asked, len(world.orders)) == (["taps_clear"], 1)
    world.store_answers()
    world.keeper.wanted(True)
    assert (world.asked, len(world.orders)) == (["taps_clear"], 2)
    assert world.processes[0].closed and not world.processes[1].closed


def test_a_store_that_cannot_remove_it_does_not_keep_another_one_from_starting(world: World) -> None:
    world.started().ends(-signal.SIGKILL)
    world.store_answers(error="StoreError")
    world.now_s += 60.0
    world.keeper.wanted(True)
    assert len(world.orders) == 2


def test_one_that_ends_because_nobody_looks_is_no_news_and_the_next_is_started_at_once(world: World) -> None:
    for _ in range(100):
        world.dies(0)
    assert (world.said, world.warned, len(world.orders)) == ([], [], 100)


def test_one_that_is_killed_from_outside_is_started_again_for_ever(world: World) -> None:
    for _ in range(100):
        world.dies(-signal.SIGKILL)
        assert world.keeper.wanted(True)["pid"] == 0
        assert len(world.orders) == len(world.processes) == world.said.count("the tap server died (SIGKILL)")
        world.now_s += PAUSE_S
    assert world.warned == []


def test_after_each_death_by_itself_the_next_one_waits_longer_and_then_nobody_can_look_any_more(world: World) -> None:
    for wait_s in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8):
        process = world.started()
        process.owner.said("stderr", f"line {len(world.orders)}")
        process.ends(3)
        world.store_answers()
        if wait_s:
            world.now_s += wait_s * 0.9
            assert world.keeper.wanted(True) == {"why": "", "ending": False, "pid": 0}
            assert world.processes[-1] is process
            world.now_s += wait_s * 0.2
        assert world.said[-1] == "the tap server died (exit code 3)" and world.warned == []
    process = world.started()
    process.owner.said("stderr", "line 7")
    process.ends(3)
    world.store_answers()
    why = "its tap server dies again and again (exit code 3): line 7"
    assert world.warned == [f"nobody can look at this run any more: {why}"]
    world.now_s += 3600.0
    assert world.keeper.wanted(True) == {"why": why, "ending": False, "pid": 0}
    assert len(world.orders) == 7
    assert "taps: line 1" in world.said


def test_one_that_has_ended_in_order_meanwhile_makes_the_deaths_before_it_forgotten(world: World) -> None:
    for _ in range(20):
        for wait_s in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8):
            world.dies(1)
            world.now_s += wait_s
        world.dies(0)
    assert world.warned == []


def test_when_no_process_can_be_started_the_tap_is_told_why_and_the_next_one_that_asks_has_it_tried_again(
    world: World,
) -> None:
    world.no_process = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    found = world.keeper.wanted(True)
    assert found == {"why": "no process could be started: Too many open files", "ending": False, "pid": 0}
    assert world.keeper.has_ended
    world.no_process = None
    assert world.started().pid == world.keeper.pid


def test_one_that_could_not_be_made_counts_as_a_death(world: World) -> None:
    for _ in range(7):
        world.keeper.wanted(True)
        world.processes[-1].is_not_spawned(OSError(errno.ENOMEM, "no memory"))
        world.store_answers()
        world.now_s += 1.0
    assert len(world.orders) == 7
    assert world.keeper.wanted(True)["why"] == (
        "its tap server dies again and again (it could not be started): no memory"
    )


def test_one_that_is_stopped_is_killed_and_never_counted(world: World) -> None:
    for _ in range(20):
        process = world.started()
        world.look(stopped=True)
        world.now_s += STOPPED_S_MAX * 0.9
        world.look(stopped=True)
        assert process.signals == []
        world.now_s += STOPPED_S_MAX * 0.2
        world.look(stopped=True)
        assert process.signals == [signal.SIGKILL]
        assert world.said[-1] == "the tap server was stopped (SIGSTOP): killing it"
        process.ends(-signal.SIGKILL)
        world.store_answers()
        world.now_s += PAUSE_S
    assert world.warned == []


def test_one_that_goes_on_in_between_is_not_stopped_for_long(world: World) -> None:
    process = world.started()
    for _ in range(10):
        world.look(stopped=True)
        world.now_s += STOPPED_S_MAX * 0.9
        world.look()
    assert process.signals == []


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"lock_s": LOCK_S_MAX + 0.1}, "held the write lock for more than 3 s"),
        ({"pinned_s": PIN_S_MAX + 0.1}, "kept a read transaction"),
    ],
)
def test_one_that_stays_in_the_space_is_killed_and_each_time_counted(
    world: World, held: dict[str, float], why: str
) -> None:
    for _ in range(7):
        process = world.started()
        world.look(of=PID + 1, **held)  # that is somebody else
        assert process.signals == []
        world.look(**held)
        assert process.signals == [signal.SIGKILL] and why in world.said[-1]
        process.ends(-signal.SIGKILL)
        world.store_answers()
        world.now_s += 1.0
    assert "dies again and again (SIGKILL)" in world.keeper.wanted(True)["why"]


def test_one_that_is_stopped_with_the_write_lock_is_killed_at_once(world: World) -> None:
    process = world.started()
    world.look(stopped=True, lock_s=0.01)
    assert process.signals == [signal.SIGKILL]


def test_at_the_end_of_the_run_it_ends_in_order_and_is_killed_when_it_does_not(world: World) -> None:
    process = world.started()
    world.keeper.end(world.now_s)
    assert process.signals == [signal.SIGTERM] and not world.keeper.has_ended
    world.now_s += END_S * 0.9
    world.look()
    assert process.signals == [signal.SIGTERM]
    world.now_s += END_S * 0.2
    world.look()
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    process.ends(-signal.SIGKILL)
    assert world.keeper.has_ended
    assert (world.asked, world.said, world.warned) == ([], [], [])  # a run that is resumed begins without taps


def test_one_that_has_yet_to_become_a_process_ends_with_the_run_as_well(world: World) -> None:
    world.keeper.wanted(True)
    world.keeper.end(world.now_s)
    assert world.processes[0].signals == [signal.SIGTERM]  # which is sent when its pid is known


def test_a_run_that_ends_starts_none_and_says_so(world: World) -> None:
    world.keeper.end(world.now_s)
    assert world.keeper.wanted(True) == {"why": "", "ending": True, "pid": 0}
    assert world.orders == [] and world.keeper.has_ended


def test_its_pipes_are_closed_with_the_run(world: World) -> None:
    process = world.started()
    world.keeper.close()
    world.keeper.close()
    assert process.closed
