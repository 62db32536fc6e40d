"""A node without LMDB, played by a raw socket: what it asks for again it gets again, and what is large in parts."""

from __future__ import annotations

import os
from typing import Any

from support.harness import Folder, Running, wait_until
from test_absurd_peers import Peer

from noderuntime.ipc.protocol import VERSION, Bye, Hello, Ready, Reply, Request, Welcome
from noderuntime.store.remote_nodes import PART_BYTES

SEND = """
import os
from noderuntime import Node
with Node() as node:
    for size in map(int, os.environ["SIZES"].split()):
        node.send_output("n", bytes([size % 251]) * size, {"size": size})
"""
FLOW = """
nodes:
  - {id: send, path: send.py, outputs: [n]}
  - {id: guest, path: dynamic, inputs: {n: send/n}}
"""


class Guest:
    """A dynamic node that speaks to the store itself."""

    def __init__(self, running: Running) -> None:
        running.wait_for("started")
        self._runtime = Peer(running.folder.run_dir().runtime_socket)
        self._runtime.say(Hello(VERSION, "guest", "dynamic", os.getpid(), 0))
        self.welcome = self._runtime.expect(Welcome)
        self._store = Peer(running.folder.run_dir().store_socket)
        self.number = 0
        self.ask("node_open", wiring=self.welcome.wiring, attempts=[], pid=os.getpid())
        self._runtime.say(Ready(self.welcome.incarnation))
        wait_until(lambda: running.status()["send"]["state"] == "ended", "all to be sent")

    def ask(self, operation: str, number: int | None = None, **arguments: Any) -> dict[str, Any]:
        if number is None:
            number = self.number = self.number + 1
        given = {"node": "guest", "incarnation": self.welcome.incarnation, **arguments}
        self._store.say(Request(VERSION, "guest", number, operation, given))
        reply = self._store.expect(Reply)
        assert reply.number == number and not reply.error, reply
        return dict(reply.result)

    def events(self, number: int | None = None, limit: int = 2, **arguments: Any) -> list[dict[str, Any]]:
        return list(self.ask("node_next", number, limit=limit, wait=10, **arguments)["events"])

    def whole(self, event: dict[str, Any], part: str) -> bytes:
        if part in event:
            return bytes(event[part])
        size, found = event["sizes"][part], b""
        while len(found) < size:
            more = self.ask("node_part", place=event["place"], part=part, offset=len(found))["bytes"]
            assert 0 < len(more) <= PART_BYTES
            found += more
        return found

    def leave(self) -> None:
        self._runtime.say(Bye(True, ""))
        self._runtime.close()
        self._store.close()


def uids(events: list[dict[str, Any]]) -> list[str]:
    return [event.get("uid", event["type"]) for event in events]


def test_a_request_for_events_that_is_repeated_gets_the_same_events(folder: Folder) -> None:
    folder.write(send_py=SEND)
    running = folder.start(FLOW, env={"SIZES": "1 2 3 4 5 6"})
    guest = Guest(running)
    first = guest.events()
    assert uids(first) == ["send/n#1", "send/n#2"]
    for _ in range(3):
        assert guest.events(guest.number) == first
    places = [event["place"] for event in first]
    second = guest.events(ack=places)
    assert uids(second) == ["send/n#3", "send/n#4"]
    assert guest.events(guest.number, ack=places) == second
    assert guest.events(guest.number - 1) == [], "an older request that comes late takes nothing"
    last = guest.events(ack=[event["place"] for event in second])
    assert uids(last) == ["send/n#5", "send/n#6"]
    closed = guest.events(ack=[event["place"] for event in last])
    assert uids(closed) == ["INPUT_CLOSED"]
    assert guest.ask("node_next", ack=[event["place"] for event in closed], wait=0)["events"] == []
    guest.leave()
    assert running.finish() == 0, running.said


def test_a_message_larger_than_a_frame_comes_in_parts_and_is_counted_off(folder: Folder) -> None:
    folder.write(send_py=SEND)
    sizes = [17_000_000, 1, PART_BYTES, PART_BYTES + 1]
    running = folder.start(FLOW, env={"SIZES": " ".join(map(str, sizes))})
    guest = Guest(running)
    done: list[Any] = []
    for size in sizes:
        (event,) = guest.events(limit=1, ack=done)
        assert guest.whole(event, "body") == bytes([size % 251]) * size
        done = [event["place"]]
    closed = guest.events(limit=1, ack=done)
    assert uids(closed) == ["INPUT_CLOSED"]
    guest.ask("node_next", ack=[closed[0]["place"]], wait=0)
    guest.leave()
    assert running.finish() == 0, running.said
