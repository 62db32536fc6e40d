"""The store process: its operations, what is asked of it wrongly, and a request that a kill interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from support.kit import CHAIN, MB, Net, StoreRefused, commit, dataflow_of, send, staged
from support.procs import WAIT_S, wait_until

from noderuntime import errors
from noderuntime.ipc.channel import Dealer
from noderuntime.ipc.protocol import VERSION, Edge, Reply, Request
from noderuntime.ipc.rundir import RunDir
from noderuntime.runtime.plan import store_nodes
from noderuntime.space import kvs, records
from noderuntime.space.kvs import SharedWrite
from noderuntime.store import kvs as store_kvs
from noderuntime.store.kvs import LISTING_BYTES_MAX


@pytest.fixture
def net(shm: Path) -> Iterator[Net]:
    net = Net(shm, CHAIN)
    yield net
    net.close()


def raw(
    net: Net, operation: str, number: int = 1, client: str = "me", version: int = VERSION, **arguments: Any
) -> Reply:
    return net.store.handle(Request(version, client, number, operation, arguments))


# --- operations -----------------------------------------------------------------------------------------------------


def test_open_gives_numbers_and_says_who_has_ended_or_failed(net: Net) -> None:
    a = net.begin("a")
    commit(a, staged(a, ends=True))
    net.end("b", error="broken")
    opened = net.open(CHAIN)
    assert opened["numbers"]["b"] == {"number": 1, "inputs": {"in": 0}, "outputs": {"out": 0}}
    assert (opened["ended"], opened["failed"]) == (["a"], ["b"])


def test_figures_tell_what_waits_and_what_was_sent(net: Net) -> None:
    send(net.begin("a"), b"12345678", b"12345678")
    figures = net.ask("figures")
    assert figures["nodes"]["a"]["outputs"] == {"out": 2}
    waiting = figures["nodes"]["b"]["inputs"]["in"]
    assert waiting == {"queued": 2, "bytes": 64, "taken": 0, "dropped": 0, "discarded": 0, "dead": 0}
    assert 0 < figures["used_bytes"] < figures["size_bytes"] == 16 * MB
    assert figures["readers"] >= 0


@pytest.mark.parametrize("scope", ["shared", "b"])
def test_state_is_written_read_listed_and_removed(net: Net, scope: str) -> None:
    revision = net.ask("state_set", scope=scope, key="k/1", value=b"v")["revision"]
    net.ask("state_set", scope=scope, key="k/2", value=b"")
    net.ask("state_set", scope=scope, key="other", value=b"xyz")
    assert net.ask("state_get", scope=scope, key="k/1") == {"value": b"v", "revision": revision, "packed": False}
    assert [key for key, _, _ in net.ask("state_ls", scope=scope, prefix="k/")["keys"]] == ["k/1", "k/2"]
    assert net.ask("state_ls", scope=scope)["keys"][-1][:2] == ("other", 3)
    assert net.ask("state_rm", scope=scope, key="k/1") == {"removed": True}
    assert net.ask("state_rm", scope=scope, key="k/1") == {"removed": False}
    assert net.ask("state_get", scope=scope, key="k/1") == {"value": None, "revision": 0, "packed": False}


def test_the_mark_of_messagepack_is_kept_with_a_shared_value(net: Net) -> None:
    net.ask("state_set", scope="shared", key="n", value=b"\x05", packed=True)
    assert net.ask("state_get", scope="shared", key="n")["packed"] is True
    net.ask("state_set", scope="shared", key="n", value=b"\x05")
    assert net.ask("state_get", scope="shared", key="n")["packed"] is False
    net.ask("kvs_merge", key="n", merge=["add", 1])
    assert net.ask("kvs_get", key="n")["entry"][-1] is True


@pytest.mark.parametrize("scope", ["shared", "b"])
def test_a_listing_goes_on_behind_the_last_key_of_its_page(
    net: Net, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_kvs, "LISTING_BYTES_MAX", 200)
    wanted = [f"k{number:02}" for number in range(30)]
    for key in ["a", *wanted, "l"]:
        net.ask("state_set", scope=scope, key=key, value=b"")
    found: list[str] = []
    pages = 0
    page = {"more": True}
    while page["more"]:
        page = net.ask("state_ls", scope=scope, prefix="k", after=found[-1] if found else "")
        found += [key for key, _, _ in page["keys"]]
        pages += 1
    assert (found, pages > 3) == (wanted, True)


def test_revisions_rise(net: Net) -> None:
    revisions = [net.ask("state_set", scope="shared", key="k", value=b"v")["revision"] for _ in range(3)]
    assert revisions == sorted(set(revisions))


def test_what_has_expired_is_never_seen_and_is_purged(net: Net) -> None:
    a = net.begin("a")
    past = net.space.now_ns() - 10**10
    a.commit([staged(a, shared=[SharedWrite(b"old", b"v", ttl_ns=1), SharedWrite(b"new", b"v")])], past)
    assert net.ask("state_get", scope="shared", key="old")["value"] is None
    assert [key for key, _, _ in net.ask("state_ls", scope="shared")["keys"]] == ["new"]
    net.store.housekeeping(purge=True)
    with net.space.read() as txn:
        kept = kvs.stored(txn, b"old")
        assert kept is not None
        assert kept.gone
        assert kept.cell.value is None


def test_a_listing_that_is_too_long_for_a_frame_says_that_there_is_more(net: Net) -> None:
    big = Net(net.folder / "big", CHAIN, 64 * MB)
    with big.space.write() as txn:
        for number in range(LISTING_BYTES_MAX // 500 + 1000):
            txn.put(b"s" + f"{number:0500}".encode(), bytes(records.SHARED_BYTES))
    listing = big.ask("state_ls", scope="shared")
    big.close()
    assert listing["more"] and len(listing["keys"]) > 1000
    from noderuntime.ipc.protocol import encode

    assert encode(Reply(1, listing, ""))


# --- what counts once -----------------------------------------------------------------------------------------------


def test_a_repeated_request_counts_once_and_gets_the_same_answer(net: Net) -> None:
    request = {"node": "a", "cause": "", "counts": False, "hands": [], "max_attempts": 3, "trace": ""}
    first = raw(net, "claim", 5, **request)
    assert raw(net, "claim", 5, **request) == first
    assert raw(net, "claim", 6, **request).result["incarnation"] == first.result["incarnation"] + 1
    assert raw(net, "claim", 5, **request).error == "ProtocolError"
    assert raw(net, "claim", 5, client="another", **request).result["incarnation"] == 3


def test_a_repeated_claim_brings_the_state_as_it_is_now(net: Net) -> None:
    request = {"node": "b", "cause": "", "counts": False, "hands": [], "max_attempts": 3, "trace": ""}
    raw(net, "claim", 1, **request)
    raw(net, "state_set", 2, client="cli", scope="b", key="k", value=b"v")
    assert raw(net, "claim", 1, **request).result["state"] == {"k": b"v"}


def test_a_request_that_failed_did_nothing_and_may_be_repeated(net: Net) -> None:
    assert raw(net, "open", 1, nodes=store_nodes(dataflow_of({"x": {}}, net.folder))).error == "ProtocolError"
    assert net.ask("figures")["nodes"].keys() == {"a", "b", "c"}
    assert raw(net, "touch", 1).error == ""


# --- what is asked wrongly ------------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("nothing_like_this", {}),
    ("open", {}),
    ("open", {"nodes": 5, "fingerprint": "", "resume": False}),
    ("open", {"nodes": [{"id": "x", "inputs": "text", "outputs": []}], "fingerprint": "", "resume": False}),
    ("claim", {"node": "a"}),
    ("claim", {"node": "a", "cause": 5, "counts": 1, "hands": [[-1, 0, 0]], "max_attempts": 3, "trace": ""}),
    ("claim", {"node": "a", "cause": "", "counts": 1, "hands": [[1]], "max_attempts": 3, "trace": ""}),
    ("claim", {"node": "a", "cause": "", "counts": 1, "hands": [], "max_attempts": "many", "trace": ""}),
    ("claim", {"node": [], "cause": "", "counts": 1, "hands": [], "max_attempts": 1, "trace": ""}),
    ("end", {"node": "a"}),
    ("state_ls", {"scope": "shared", "prefix": 5}),
    ("state_ls", {}),
    ("state_get", {"scope": "shared", "key": 5}),
    ("state_set", {"scope": "shared", "key": "k", "value": "text"}),
    ("state_set", {"scope": "shared", "key": "\udc80", "value": b""}),
    ("state_rm", {"scope": "shared"}),
]


@pytest.mark.parametrize(("operation", "arguments"), WRONG, ids=lambda item: str(item)[:40])
def test_wrong_arguments_are_an_error_and_change_nothing(net: Net, operation: str, arguments: dict[str, Any]) -> None:
    reply = raw(net, operation, **arguments)
    assert reply.error == "ProtocolError", reply
    assert net.ask("figures")["nodes"].keys() == {"a", "b", "c"}
    assert net.figures("a")["incarnation"] == 0 and net.queued("b", "in") == []


@pytest.mark.parametrize(
    ("operation", "arguments", "error"),
    [
        ("state_get", {"scope": "x", "key": "k"}, errors.NotRunning),
        ("state_get", {"scope": "shared", "key": "k" * 600}, errors.KeyTooLong),
        ("state_set", {"scope": "shared", "key": "k", "value": bytes(2_000_000)}, errors.ValueTooLarge),
        ("end", {"node": "x", "failed": False, "error": ""}, errors.NotRunning),
    ],
)
def test_errors_name_their_class(net: Net, operation: str, arguments: dict[str, Any], error: type) -> None:
    with pytest.raises(StoreRefused) as refused:
        net.ask(operation, **arguments)
    assert refused.value.kind is error


def test_another_version_is_refused(net: Net) -> None:
    reply = raw(net, "touch", version=VERSION + 1)
    assert reply.error == "ProtocolError" and f"version {VERSION + 1}" in reply.text


def test_an_unknown_operation_is_answered_with_those_that_are_known(net: Net) -> None:
    reply = raw(net, "tuch")
    assert "'tuch'" in reply.text and "touch" in reply.text and "quit" in reply.text


# --- the process ----------------------------------------------------------------------------------------------------


class Process:
    """A store process, and a client of it that repeats until it is answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.start()
        self.dealer = Dealer(folder / "store.sock", Edge.STORE_TO_CLIENT)
        self.number = 0

    def start(self) -> None:
        arguments = [sys.executable, "-m", "noderuntime.store", str(self.folder), "--size", str(16 * MB)]
        self.started.append(subprocess.Popen(arguments))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.started[-1]

    def send(self, operation: str, **arguments: Any) -> int:
        self.number += 1
        self.dealer.send(Request(VERSION, "client", self.number, operation, arguments))
        return self.number

    def ask(self, operation: str, **arguments: Any) -> Reply:
        number = self.send(operation, **arguments)
        return self.answer(number, operation, **arguments)

    def answer(self, number: int, operation: str, **arguments: Any) -> Reply:
        """The answer; repeated as the runtime does, for as long as none comes."""
        for _ in range(int(5 * WAIT_S)):
            while (reply := self.dealer.receive(0.2)) is not None:
                if isinstance(reply, Reply) and reply.number == number:
                    return reply
            self.dealer.send(Request(VERSION, "client", number, operation, arguments))
        raise AssertionError(f"no answer to {operation}")

    def open(self) -> None:
        nodes = store_nodes(dataflow_of(CHAIN, self.folder))
        assert self.ask("open", nodes=nodes, fingerprint="", fresh=False, resume=False).error == ""

    def close(self) -> None:
        self.dealer.close(0)
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def process(shm: Path) -> Iterator[Process]:
    process = Process(shm)
    yield process
    process.close()


CLAIM = {"node": "a", "cause": "", "counts": False, "hands": [], "max_attempts": 3, "trace": ""}


def test_a_store_serves_until_it_is_told_to_quit(process: Process) -> None:
    process.open()
    assert process.ask("claim", **CLAIM).result["incarnation"] == 1
    process.send("quit")
    assert process.process.wait(WAIT_S) == 0


def test_requests_count_once_across_kills_of_the_store(process: Process) -> None:
    process.open()
    for claims in range(1, 6):
        number = process.send("claim", **CLAIM)
        if claims % 2:  # sometimes it has answered already, sometimes not
            wait_until(lambda: process.dealer.receive(0.05) is not None)
        process.process.kill()
        process.process.wait()
        process.start()
        assert process.answer(number, "claim", **CLAIM).result["incarnation"] == claims


def test_a_store_ignores_ctrl_c_and_what_is_no_request(process: Process, shm: Path) -> None:
    process.open()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.connect(f"ipc://{shm}/store.sock")
    for garbage in (b"", b"\xc1", os.urandom(1000), b"\x93\xa7request"):
        stranger.send(garbage)
    stranger.send_multipart([b"two", b"frames"])
    process.process.send_signal(signal.SIGINT)
    assert process.ask("touch").error == ""
    stranger.close()
    context.term()


def test_a_second_client_with_wrong_requests_harms_nobody(process: Process, shm: Path) -> None:
    process.open()
    with Dealer(shm / "store.sock", Edge.STORE_TO_CLIENT) as other:
        for number, (operation, arguments) in enumerate(WRONG, 1):
            if "\udc80" not in str(arguments.get("key")):
                other.send(Request(VERSION, "other", number, operation, arguments))
                reply = other.receive(WAIT_S)
                assert isinstance(reply, Reply) and reply.error == "ProtocolError"
    assert process.ask("claim", **CLAIM).result["incarnation"] == 1


def test_a_store_frees_the_slots_of_killed_readers_when_touched(process: Process, shm: Path) -> None:
    from support.procs import Child

    process.open()
    child = Child(
        "import sys; from pathlib import Path; from noderuntime.space.environment import open_space\n"
        "txn = open_space(Path(sys.argv[1])).read(); print('reading', flush=True); input()",
        shm / "space",
    )
    child.line()
    assert process.ask("touch").error == ""
    child.close()
    assert process.ask("touch").error == ""
    wait_until(lambda: process.ask("figures").result["readers"] <= 2)


def test_a_store_keeps_memory_behind_its_last_page(process: Process, shm: Path) -> None:
    process.open()
    wait_until(lambda: (shm / "space" / "data.mdb").stat().st_blocks * 512 >= 4 * MB)


def test_a_store_that_cannot_make_its_space_says_why(shm: Path) -> None:
    (shm / "space").write_text("")
    line = [sys.executable, "-m", "noderuntime.store", str(shm), "--size", "1000000"]
    with (
        subprocess.Popen(line, stderr=subprocess.PIPE) as process,
        Dealer(RunDir(shm).store_socket, Edge.STORE_TO_CLIENT) as dealer,
    ):
        for number, operation, error in ((1, "figures", "StoreError"), (2, "quit", "")):
            dealer.send(Request(VERSION, "test", number, operation, {}))
            reply = dealer.receive(60.0)
            assert isinstance(reply, Reply)
            assert reply.error == error
            assert "cannot be made" in reply.text or not error
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
