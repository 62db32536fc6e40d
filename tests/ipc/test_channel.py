"""channel.py: real sockets in a temporary directory."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from noderuntime.ipc.channel import Dealer, Router
from noderuntime.ipc.protocol import FRAME_BYTES_MAX, VERSION, Bye, Edge, Hello, Refused, StopAll, encode

WAIT_S = 10.0


def hello(node: str = "a") -> Hello:
    return Hello(VERSION, node, "operator", 1, 1)


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    with Router(tmp_path / "runtime.sock", Edge.CHILD_TO_RUNTIME) as router:
        yield router


@pytest.fixture
def dealer(router: Router) -> Iterator[Dealer]:
    with Dealer(router.path, Edge.RUNTIME_TO_CHILD) as dealer:
        yield dealer


@pytest.fixture
def raw(router: Router, tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """A peer that is not one of ours."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{tmp_path}/runtime.sock")
    yield socket
    socket.close()
    context.term()


def test_both_ends_exchange_messages(router: Router, dealer: Dealer) -> None:
    assert dealer.send(hello())
    found = router.receive(WAIT_S)
    assert found is not None
    identity, message = found
    assert message == hello()
    assert router.send(identity, Refused("no"))
    assert dealer.receive(WAIT_S) == Refused("no")
    assert dealer.receive_nowait() is None
    assert router.receive_nowait() is None


def test_a_run_directory_may_be_longer_than_a_socket_path(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 150) / ("y" * 150)
    folder.mkdir(parents=True)
    with Router(folder / "s", Edge.CHILD_TO_RUNTIME) as router, Dealer(folder / "s", Edge.RUNTIME_TO_CHILD) as dealer:
        dealer.send(StopAll())
        found = router.receive(WAIT_S)
        assert found is not None and found[1] == StopAll()


def test_a_dealer_may_come_before_its_router(tmp_path: Path) -> None:
    with Dealer(tmp_path / "s", Edge.RUNTIME_TO_CHILD) as dealer:
        dealer.send(StopAll())
        with Router(tmp_path / "s", Edge.CHILD_TO_RUNTIME) as router:
            found = router.receive(WAIT_S)
            assert found is not None and found[1] == StopAll()


def test_a_dealer_finds_a_router_that_was_started_again(tmp_path: Path) -> None:
    with Dealer(tmp_path / "s", Edge.RUNTIME_TO_CHILD) as dealer:
        for _ in range(2):
            with Router(tmp_path / "s", Edge.CHILD_TO_RUNTIME) as router:
                found = None
                while found is None:  # what was under way while nobody listened may be lost: repeat
                    dealer.send(StopAll())
                    found = router.receive(0.05)
                assert found[1] == StopAll()


def test_what_is_no_message_is_counted_and_dropped(router: Router, raw: zmq.Socket[bytes]) -> None:
    raw.send(b"not ours")
    raw.send(b"")
    raw.send_multipart([b"a", b"b"])
    raw.send(encode(Refused("what only the runtime says")))
    with Dealer(router.path, Edge.RUNTIME_TO_CHILD) as dealer:
        dealer.send(hello())
        while router.rejected < 4:
            router.receive(0.05)
        dealer.send(Bye(True, ""))
        seen = []
        while Bye(True, "") not in seen:
            found = router.receive(WAIT_S)
            assert found is not None
            seen.append(found[1])
    assert router.rejected == 4


def test_a_frame_above_the_limit_is_not_taken_and_harms_nobody(
    router: Router, raw: zmq.Socket[bytes]
) -> None:
    raw.send(bytes(FRAME_BYTES_MAX + 1))
    with Dealer(router.path, Edge.RUNTIME_TO_CHILD) as dealer:
        dealer.send(hello())
        found = router.receive(WAIT_S)
        assert found is not None and found[1] == hello()


def test_sending_to_a_peer_that_is_gone_is_counted(router: Router) -> None:
    assert not router.send(b"nobody", StopAll())
    assert router.undelivered == 1


def test_the_descriptor_wakes_a_poll_and_draining_empties_it(router: Router, dealer: Dealer) -> None:
    poll = select.poll()
    poll.register(dealer.fd, select.POLLIN)
    dealer.send(hello())
    found = router.receive(WAIT_S)
    assert found is not None
    assert dealer.receive_nowait() is None
    for number in range(3):
        router.send(found[0], Refused(str(number)))
    seen: list[object] = []
    while len(seen) < 3:
        assert poll.poll(WAIT_S * 1000), "a message is there and the descriptor does not tell"
        while (message := dealer.receive_nowait()) is not None:
            seen.append(message)
    assert seen == [Refused("0"), Refused("1"), Refused("2")]


def test_closing_sends_what_is_under_way_and_leaks_no_descriptor(tmp_path: Path, router: Router) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    dealer = Dealer(router.path, Edge.RUNTIME_TO_CHILD)
    dealer.send(Bye(True, "done"))
    dealer.close()
    dealer.close()
    found = router.receive(WAIT_S)
    assert found is not None and found[1] == Bye(True, "done")
    # the router's own end of that connection goes in its own time; ours are gone at once
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Dealer(tmp_path / "missing" / "s", Edge.RUNTIME_TO_CHILD)
