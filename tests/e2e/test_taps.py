"""Taps on real runs: they see what flows, and nothing that happens to them is felt by the run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.harness import Folder, Running, wait_until
from support.live_cast import apply, counts, enough, flow, handled, keeps, prepare, seen, takes, wait_handled
from support.looker import left_of_taps

from noderuntime import NotRunning, Omitted, Tap, UnknownTopic

SLOW = {
    "beats_py": """
import os, time
import numpy as np
from noderuntime import Source
class Operator(Source):
    '''A number, or what `size` says, about every 2 ms, until there is a file `enough`.'''
    def produce(self, position, ctx):
        number = position or 0
        if os.path.exists("enough"):
            return Source.END
        size = ctx.config.get("size", 0)
        if size == "mixed":
            size = (10, 100_000, 9_000_000)[number % 3]
        ctx.send_output("n", np.full(size, number % 250, np.uint8) if size else number, {"nth": number, "name": "x"})
        time.sleep(0.002)
        return number + 1
""",
}

SUMS = """
from noderuntime import stateful_map
@stateful_map(output="n", key=lambda value: value, default=int)
def sums(key, value, state):
    return value, state + value
"""


@pytest.fixture
def place(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    prepare(folder)
    folder.write(**SLOW)
    monkeypatch.setenv("NODERUNTIME_HOME", str(folder.home))
    return folder


def beats(id: str = "beats", **more: Any) -> dict[str, Any]:
    return {"id": id, "operator": {"python": "beats.py", "outputs": ["n"]}, **more}


def begun(place: Folder, *nodes: dict[str, Any], **more: Any) -> Running:
    running = place.start(flow(*nodes, **more))
    running.wait_running()
    return running


def server_of(running: Running) -> int:
    """The pid of the tap server, or 0."""
    return (running.found("nr-taps") or [0])[0]


def tapped(running: Running) -> list[bytes]:
    return left_of_taps(running.folder.run_dir().space)


def wait_untapped(running: Running) -> None:
    wait_until(lambda: not server_of(running), "the tap server to go")


def finish_exact(place: Folder, running: Running, *chain: str) -> None:
    """The run ends in order, and each connection of the chain was exact."""
    enough(place)
    assert running.finish() == 0
    for sender, receiver in pairwise(chain):
        first, last, count, good = seen(running, receiver)[f"{sender}/n"]
        assert (first, count, good) == (0, last + 1, True)
    place.wait_gone()


def test_a_tap_sees_each_message_from_then_on_as_its_receivers_do_and_ends_with_the_run(place: Folder) -> None:
    running = begun(place, beats(), keeps("a", "beats/n"))
    wait_handled(running, "a", 20)
    assert not server_of(running)
    numbers: dict[str, list[int]] = {"beats/n": [], "a/n": []}
    with Tap("flow", ["beats/n", "a/*"]) as tap:
        assert sorted(tap.topics) == ["a/n", "beats/n"]
        for topic, event in tap:
            assert event.type == "INPUT" and event.id == event.source == topic
            assert event.uid == f"{topic}#{event.value + 1}"
            if topic == "beats/n":
                assert event.metadata == {"nth": event.value, "name": "x"}
            numbers[topic].append(event.value)
            if len(numbers["a/n"]) == 100:
                enough(place)
        assert tap.ended and tap.missed == 0
    assert running.finish() == 0
    for found in numbers.values():
        assert found == [*range(found[0], found[-1] + 1)] and found[0] > 0
    _, last, count, good = seen(running, "a")["beats/n"]
    assert (last, count, good) == (numbers["beats/n"][-1], last + 1, True) and numbers["a/n"][-1] == last


def test_a_task_can_wait_for_several_taps(place: Folder) -> None:
    running = begun(place, beats(), keeps("a", "beats/n"))

    async def look(topic: str) -> list[int]:
        async with Tap("flow", topic) as tap:
            found: list[int] = []
            async for name, event in tap:
                assert name == topic
                found.append(event.value)
                if len(found) == 50:
                    break
            assert tap.missed == 0
        return found

    async def both() -> list[list[int]]:
        return await asyncio.gather(look("beats/n"), look("a/n"), look("beats/n"))

    for found in asyncio.run(both()):
        assert found == [*range(found[0], found[0] + 50)]
    wait_untapped(running)
    assert tapped(running) == []
    finish_exact(place, running, "beats", "a")


def test_values_come_as_they_were_sent_and_very_large_ones_by_their_size(place: Folder) -> None:
    running = begun(place, beats(config={"size": "mixed"}), state={"size": "800 MB"})
    sizes: list[int] = []
    with Tap("flow", "*") as tap:
        for _, event in tap:
            size = (10, 100_000, 9_000_000)[event.metadata["nth"] % 3]
            if size > 8_000_000:
                assert isinstance(event.value, Omitted) and event.value.size_bytes == size
            else:
                assert event.value.dtype == np.uint8 and event.value.shape == (size,)
                assert (event.value == event.metadata["nth"] % 250).all()
            sizes.append(size)
            if len(set(sizes)) == 3 and len(sizes) > 30:
                break
    wait_untapped(running)
    finish_exact(place, running)


def test_a_topic_that_is_not_there_is_named_with_the_nearest(place: Folder) -> None:
    running = begun(place, beats(), keeps("camera", "beats/n"))
    for topics, text in (
        ("camrea/n", "there is no topic 'camrea/n'; did you mean 'camera/n'?"),
        (["beats/n", "x*"], "no topic is like 'x*'; the topics of this run are: beats/n, camera/n"),
        ([], "no topic is given"),
    ):
        with pytest.raises(UnknownTopic) as raised, Tap("flow", topics):
            pass
        assert text in str(raised.value)
    with pytest.raises(NotRunning, match=r"there is no run 'flo'\. Did you mean 'flow'\?"):
        Tap("flo", "*").open()
    with pytest.raises(TypeError, match="a topic is a text"):
        Tap("flow", [1])  # type: ignore[list-item]
    with pytest.raises(UnknownTopic, match="10000 topics are too many to name"):
        Tap("flow", ["beats/n"] * 10_000).open()
    wait_untapped(running)
    finish_exact(place, running, "beats", "camera")
    with pytest.raises(NotRunning, match="No run is running"):
        Tap("flow", "*").open()


def test_a_slow_tap_misses_exactly_what_did_not_come_and_holds_nobody_up(place: Folder) -> None:
    """It reads nothing at all for as long as 30,000 messages are sent."""
    running = begun(place, counts(), keeps("a"))
    with Tap("flow", "counts/n") as tap, Tap("flow", "counts/n") as other:
        first = tap.receive(30)
        assert first is not None
        wait_handled(running, "a", 30_000)
        while other.receive(0) is not None:
            pass
        enough(place)
        numbers = [first[1].value, *(event.value for _, event in tap)]
        assert numbers == sorted(set(numbers))
    assert running.finish() == 0
    _, last, count, good = seen(running, "a")["counts/n"]
    assert (count, good) == (last + 1, True)
    assert tap.missed == last + 1 - first[1].value - len(numbers), "gaps, and what was sent behind the last one"


LOOKER = """
import sys
from noderuntime import Tap
for topic, event in Tap("flow", "*"):
    print(topic, event.uid, flush=True)
    if sys.argv[1] == "once":
        sys.stdin.readline()
"""


@pytest.fixture
def looker(place: Folder) -> Iterator[Any]:
    """A process that looks, and that one may kill."""
    found: list[subprocess.Popen[str]] = []

    def start(how: str = "on") -> subprocess.Popen[str]:
        made = subprocess.Popen(
            [sys.executable, "-c", LOOKER, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        found.append(made)
        assert made.stdout is not None
        assert made.stdout.readline()
        return made

    yield start
    for made in found:
        made.kill()
        made.communicate()


def test_a_tap_that_is_killed_or_stopped_leaves_nothing(place: Folder, looker: Any) -> None:
    running = begun(place, beats(), keeps("a", "beats/n"))
    pids = {id: row["pid"] for id, row in running.status().items()}
    killed = looker()
    stopped = looker("once")
    stopped.send_signal(signal.SIGSTOP)
    wait_handled(running, "a", 100)
    killed.kill()
    assert server_of(running)
    wait_handled(running, "a", 100)
    stopped.kill()
    wait_untapped(running)
    assert tapped(running) == []
    assert {id: row["pid"] for id, row in running.status().items()} == pids
    finish_exact(place, running, "beats", "a")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_tap_outlives_the_tap_server_and_knows_what_it_missed(place: Folder, how: signal.Signals) -> None:
    running = begun(place, beats(), keeps("a", "beats/n"))
    with Tap("flow", "beats/n") as tap:
        found: list[int] = []
        for _ in range(3):
            found += [event.value for _, event in (tap.receive(30) or pytest.fail("nothing came") for _ in range(20))]
            victim = server_of(running)
            os.kill(victim, how)
            wait_until(lambda victim=victim: server_of(running) != victim, "the tap server to be gone")  # type: ignore[misc]
            wait_handled(running, "a", 10)
        found += [event.value for _, event in (tap.receive(30) or pytest.fail("nothing came") for _ in range(20))]
        enough(place)
        found += [event.value for _, event in tap]
        assert found == sorted(set(found))
        assert tap.missed == found[-1] + 1 - found[0] - len(found)
    assert running.finish() == 0
    assert seen(running, "a")["beats/n"][3] and running.status is not None
    assert any("tap server" in text for text in running.statuses())


def test_the_store_may_die_while_taps_come_and_go(place: Folder) -> None:
    running = begun(place, beats(), keeps("a", "beats/n"))
    for _ in range(3):
        with Tap("flow", "*") as tap:
            assert tap.receive(30)
            os.kill(running.helper("nr-store"), signal.SIGKILL)
            assert tap.receive(30)
        wait_handled(running, "a", 10)
    wait_untapped(running)
    wait_until(lambda: tapped(running) == [], "the mailboxes to go")
    finish_exact(place, running, "beats", "a")


def test_a_run_whose_runtime_was_killed_under_a_tap_is_resumed_without_it(place: Folder) -> None:
    running = begun(place, beats(), keeps("a", "beats/n"))
    with Tap("flow", "*") as tap:
        assert tap.receive(30)
        os.kill(running.runtime_pid, signal.SIGKILL)
        for _ in tap:
            pass
        assert tap.ended
    running.finish()
    place.wait_gone()
    again = place.start(resume=True)
    again.wait_running()
    assert tapped(again) == []
    with Tap("flow", "a/n") as tap:
        assert tap.receive(30)
    finish_exact(place, again, "beats", "a")


def test_patterns_see_outputs_that_come_and_a_changed_node_keeps_its_tap(place: Folder) -> None:
    running = begun(place, beats(), keeps("a", "beats/n"))
    with Tap("flow", "[ab]/n") as tap:
        assert tap.topics == ["a/n"]
        assert tap.receive(30)
        code, _, err = apply(place, flow(beats(), keeps("a", "beats/n", config={"name": "new"}), keeps("b", "a/n")))
        assert code == 0, err
        last: dict[str, int] = {}
        while len(last) < 2 or handled(running, "b") < 50:
            topic, event = tap.receive(30) or pytest.fail("nothing came")
            number = int(event.uid.rpartition("#")[2])
            assert last.setdefault(topic, number - 1) == number - 1
            last[topic] = number
        assert tap.missed == 0
        code, _, err = apply(place, flow(beats(), keeps("a", "beats/n", config={"name": "new"})), "--drop", "b")
        assert code == 0, err
        wait_until(lambda: "b" not in running.status(), "b to leave")
        assert tap.receive(30)
    finish_exact(place, running, "beats", "a")


def test_an_output_that_stays_inside_a_shared_process_can_be_tapped(place: Folder) -> None:
    shared = {"process": "p"}
    chain = beats(**shared), keeps("a", "beats/n", **shared), keeps("b", "a/n", **shared)
    running = begun(place, *chain, takes("c", "b/n"))
    wait_handled(running, "c", 10)
    before = running.status()
    for _ in range(3):
        with Tap("flow", ["beats/n", "a/n"]) as tap:
            found: dict[str, list[int]] = {"beats/n": [], "a/n": []}
            while any(len(values) < 30 for values in found.values()):
                topic, event = tap.receive(30) or pytest.fail("nothing came")
                found[topic].append(event.value)
            for values in found.values():
                assert values == [*range(values[0], values[-1] + 1)]
        wait_handled(running, "c", 50)
    after = running.status()
    assert {id: (row["pid"], row["incarnation"]) for id, row in after.items()} == {
        id: (row["pid"], row["incarnation"]) for id, row in before.items()
    }
    wait_untapped(running)
    finish_exact(place, running, "b", "c")


def sums(replicas: int) -> dict[str, Any]:
    return {
        "id": "sums", "replicas": replicas, "partition_by": "value",
        "operator": {"python": "sums.py:sums", "inputs": {"in": "beats/n"}, "outputs": ["n"]},
    }  # fmt: skip


def test_a_tap_sees_what_all_replicas_of_a_node_send_and_counts_for_each_what_it_missed(place: Folder) -> None:
    place.write(sums_py=SUMS)
    running = begun(place, beats(), sums(3), takes("end", "sums/n"))
    wait_handled(running, "end", 50)
    with Tap("flow", "sums/*") as tap:
        assert tap.topics == ["sums/n"]
        found: dict[int, list[int]] = {}

        def take(item: tuple[str, Any] | None) -> None:
            if item is not None:
                topic, event = item
                assert (topic, event.source) == ("sums/n", "sums/n")
                number = int(event.uid.rpartition("#")[2])
                found.setdefault(number >> 45, []).append(number)

        while len(found) < 3 or min(map(len, found.values())) < 20:
            take(tap.receive(20))
        assert not tap.missed
        os.kill(server_of(running), signal.SIGKILL)
        before = {replica: len(numbers) for replica, numbers in found.items()}
        while any(len(found[replica]) < count + 20 for replica, count in before.items()):
            take(tap.receive(20))
        enough(place)
        while not tap.ended:
            take(tap.receive(20))
        spans = sum(numbers[-1] - numbers[0] + 1 for numbers in found.values())
        assert all(one < two for numbers in found.values() for one, two in pairwise(numbers))
        assert sum(map(len, found.values())) + tap.missed == spans
    assert running.finish() == 0


def test_looking_needs_no_library_that_opens_the_space() -> None:
    program = "import sys, noderuntime; noderuntime.Tap('x', 'y/z'); sys.exit('lmdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
