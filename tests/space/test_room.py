"""A space that fills up refuses new work first, always takes acknowledgements, and recovers when it is drained."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kit import MB, Make, Net, StoreRefused, commit, send, staged, take

from noderuntime.errors import StoreError, StoreFull
from noderuntime.merges import Add, Union
from noderuntime.space.commit import Commits
from noderuntime.space.environment import MARK_DRAIN, MARK_NEW_WORK, MARK_SINGLE, Space, create, open_space
from noderuntime.space.kvs import SharedWrite
from noderuntime.state import MemoryState

BIG = b"x" * 3000
CHAIN: Any = {
    "a": {"outputs": ["out"]},
    "b": {"inputs": {"in": {"source": "a/out", "queue_size": 100_000}}, "outputs": ["out"]},
    "c": {"inputs": {"in": {"source": "b/out", "queue_size": 100_000}}, "outputs": ["out"]},
    "d": {"inputs": {"in": {"source": "c/out", "queue_size": 100_000}}},
}


@pytest.fixture
def net(make: Make) -> Net:
    return make(CHAIN, 1 * MB)


def share(net: Net) -> float:
    return net.space.used_bytes() / net.space.size_bytes


def fill(sender: Commits, output: str = "out", value: bytes = BIG) -> int:
    """Send until there is no room any more; how many were sent."""
    sent = 0
    while send(sender, value, output=output):
        sent += 1
    return sent


def fill_with_state(net: Net, commits: Commits) -> int:
    """Let an operator save new keys until even that does not fit any more."""
    for number in range(100_000):
        if not commit(commits, staged(commits, private={f"key-{number}": b"s" * 1500})):
            return number
    raise AssertionError("the space never filled up")


# --- the marks ------------------------------------------------------------------------------------------------------


def test_above_the_first_mark_new_work_is_refused(net: Net) -> None:
    a = net.begin("a")
    assert fill(a) > 100
    assert MARK_NEW_WORK < share(net) < MARK_SINGLE
    assert "room in the space" in a.waits_for
    with pytest.raises(StoreFull):
        MemoryState(net.space, 0, a.check).set("k", b"v")
    with pytest.raises(StoreRefused) as refused:
        net.ask("state_set", scope="shared", key="k", value=b"v")
    assert refused.value.kind is StoreFull


def test_above_the_first_mark_work_that_is_there_goes_on(net: Net) -> None:
    fill(net.begin("a"))
    b, d = net.begin("b"), net.begin("c")
    for _ in range(50):
        assert take(net, b, ("out", BIG)) == BIG
        assert take(net, d) == BIG


def test_a_timer_that_sends_nothing_and_an_end_are_no_new_work(make: Make) -> None:
    nodes = {"t": {"inputs": {"tick": "timer/secs/1"}, "outputs": ["out"]}, "b": {"inputs": {"in": "t/out"}}}
    net = make(nodes, 1 * MB)
    t = net.begin("t")
    fill(t)
    counters = {t.inputs["tick"].counter: 5}
    assert commit(t, staged(t, counters=counters), staged(t, ("out", 1))) == 1
    assert commit(t, staged(t, ends=True)) == 1


def test_above_the_second_mark_events_are_committed_one_at_a_time_without_waiting(net: Net) -> None:
    b = net.begin("b")
    number = 0
    while share(net) <= MARK_SINGLE:
        assert commit(b, staged(b, private={f"k{number}": b"s" * 1500})) == 1
        number += 1
    group = [staged(b, private={"k0": bytes(8)}), staged(b, private={"k0": bytes(9)})]
    assert commit(b, *group) == 1
    assert b.waits_for == ""


def test_above_the_third_mark_acknowledgements_pass_and_what_grows_does_not(net: Net) -> None:
    send(net.begin("a"), *range(20))
    b, c = net.begin("b"), net.begin("c")
    send(b, *range(20))
    fill_with_state(net, b)
    assert share(net) > MARK_DRAIN
    assert "room in the space" in b.waits_for
    message = net.messages(b, 1)[0]
    assert commit(b, staged(b, ("out", BIG), ack=message)) == 0
    assert commit(b, staged(b, private={"more": BIG}, ack=message)) == 0
    assert commit(b, staged(b, shared=[SharedWrite(b"more", BIG)], ack=message)) == 0
    assert commit(b, staged(b, shared=[SharedWrite(b"more", merge=Union({BIG}))], ack=message)) == 0
    assert [take(net, c) for _ in range(20)] == list(range(20))
    assert [take(net, b) for _ in range(20)] == list(range(20))


def test_above_the_third_mark_what_does_not_grow_passes(net: Net) -> None:
    send(net.begin("a"), *[b"x" * 200] * 5)
    b = net.begin("b")
    commit(b, staged(b, private={"total": bytes(8)}, shared=[SharedWrite(b"n", merge=Add(1))]))
    fill_with_state(net, b)
    event = staged(
        b,
        private={"total": bytes(8)},
        shared=[SharedWrite(b"n", merge=Add(1)), SharedWrite(b"gone")],
        ack=net.messages(b, 1)[0],
    )
    assert commit(b, event) == 1
    assert commit(b, staged(b, private={"key-0": None})) == 1
    assert net.shared()["n"] == b"\x02"


def test_above_the_third_mark_a_chain_still_drains_from_its_end(net: Net) -> None:
    """Everybody in the middle of a chain only passes on: nobody may wait for room that only the others could make."""
    a, b, c, d = (net.begin(id) for id in "abcd")
    fill(a)
    while net.messages(b) and take(net, b, *[("out", BIG)] * 2) and share(net) <= MARK_DRAIN:
        pass  # it sends two for one, until it may not any more
    assert share(net) > MARK_DRAIN
    waiting = len(net.queued("b", "in")) + len(net.queued("c", "in"))
    moved = {b: 0, c: 0, d: 0}
    for _ in range(3 * waiting):
        for node, sends in ((b, [("out", BIG)]), (c, [("out", BIG + b"larger")]), (d, [])):
            found = net.messages(node, 1)
            if found and commit(node, staged(node, *sends, ack=found[0])):
                moved[node] += 1
    assert net.messages(b) == net.messages(c) == net.messages(d) == []
    assert moved[c] == moved[d] >= waiting


def test_a_custom_node_with_inputs_can_pass_on_in_a_space_full_of_its_own_messages(net: Net) -> None:
    fill(net.begin("a"))
    b = net.begin("b")
    message = net.messages(b, 1)[0]
    assert commit(b, staged(b, ("out", BIG))) == 1
    assert commit(b, staged(b, ack=message)) == 1


# --- the map itself -------------------------------------------------------------------------------------------------


def test_a_group_that_does_not_fit_into_the_map_is_committed_in_parts(make: Make) -> None:
    wide = {"source": "a/out", "queue_size": 100_000, "queue_bytes": "1GB"}
    net = make({"a": {"outputs": ["out"]}, "b": {"inputs": {"in": wide}}, "c": {"inputs": {"in": wide}}}, 2 * MB)
    a = net.begin("a")
    group = [staged(a, ("out", bytes(60_000))) for _ in range(20)]
    done = tries = 0
    while done < len(group) and tries < 30:
        done += commit(a, *group[done:])
        tries += 1
        if done and a.waits_for:
            break
    assert done >= 5, (done, a.waits_for)
    assert net.queued("b", "in") == [bytes(60_000)] * done


def test_a_full_space_is_whole_and_recovers_when_drained(net: Net) -> None:
    a, b = net.begin("a"), net.begin("b")
    for _ in range(5):
        sent = fill(a, value=b"y" * 777)
        assert sent > 300
        fill_with_state(net, b)
        assert [take(net, b) for _ in range(sent)] == [b"y" * 777] * sent
        commit(b, staged(b, private=dict.fromkeys(net.private("b"))))
        net.store.housekeeping(purge=True)
        assert share(net) < 0.1


def test_claims_ends_and_touches_work_in_a_full_space(net: Net) -> None:
    fill(net.begin("a"))
    b = net.begin("b")
    fill_with_state(net, b)
    key, _ = net.messages(b, 1)[0]
    from noderuntime.space import keys

    hand = list(keys.parse_message(key)[1:])
    for _ in range(20):
        net.claim("b", cause="killed", counts=True, hands=[hand], max_attempts=0)
        net.ask("touch")
    net.end("b", error="broken")
    net.end("d")
    assert net.ask("figures")["used_bytes"] > 0


def test_a_deletion_works_in_a_full_space(net: Net) -> None:
    b = net.begin("b")
    for number in range(fill_with_state(net, b)):
        assert net.ask("state_rm", scope="b", key=f"key-{number}")["removed"]
    assert share(net) < 0.1


# --- a tmpfs that is full -------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(shm: Path) -> Iterator[Path]:
    """A folder with room for 2 MB, whatever a space in it is allowed: a tmpfs of its own where that may be made."""
    folder = shm / "tiny"
    folder.mkdir()
    mounted = (
        os.getuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# what helps is room there, not another `state: size:`
NO_DISK = r"no room is left for the space: .*/dev/shm, or of \$NODERUNTIME_HOME"


def test_a_full_tmpfs_is_no_room_and_nothing_is_lost(tiny: Path) -> None:
    size = 64 * MB if os.path.ismount(tiny) else 2 * MB
    net = Net(tiny, CHAIN, size)
    net.store.housekeeping(purge=False)
    a, b = net.begin("a"), net.begin("b")
    sent = fill(a)
    assert sent > 100
    if size == 64 * MB:
        assert "room in the space" in a.waits_for
        with pytest.raises(StoreFull, match=NO_DISK), net.space.write() as txn:
            txn.put(b"Mx", b"x" * 4 * MB)
    assert [take(net, b) for _ in range(sent)] == [BIG] * sent
    assert fill(a) > 100
    net.close()


def test_a_space_that_cannot_be_made_is_an_error_that_says_what_to_do(shm: Path) -> None:
    (shm / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made at"):
        create(shm / "file" / "space", MB, "boot")
    with pytest.raises(StoreError, match="cannot be made at"):
        create(shm / "space", 1 << 62, "boot")


def test_a_space_that_is_not_there_is_an_error_that_says_where_to_look(shm: Path) -> None:
    with pytest.raises(StoreError, match="noderuntime ps -a"):
        open_space(shm / "none")


def test_a_space_of_another_format_is_refused(shm: Path) -> None:
    space: Space = create(shm, MB, "boot")
    with space.write() as txn:
        txn.put(b"Mformat", b"\x63")
    space.close()
    with pytest.raises(StoreError, match="format 99"):
        open_space(shm)


def test_the_folder_and_files_of_a_space_are_their_owners_alone(shm: Path) -> None:
    create(shm / "space", MB, "boot").close()
    assert (shm / "space").stat().st_mode & 0o077 == 0
    for file in (shm / "space").iterdir():
        assert file.stat().st_mode & 0o077 == 0
