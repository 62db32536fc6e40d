"""What object stores do now and then, and what becomes of a save then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from noderuntime.snapshot.backend import SnapshotUnavailable
from noderuntime.snapshot.objects import ObjectBlobs


class Moody:
    """A server with the few requests of S3 that a save makes. `answers`: what it says to the next PUTs."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.puts = 0
        moody = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                moody.puts += 1
                answer = moody.answers.pop(0) if moody.answers else ""
                if answer == "busy":
                    self.reply(503)
                    return
                taken = self.path in moody.objects
                if not taken:
                    moody.objects[self.path] = body
                if answer == "lost":  # done, but the answer never arrives
                    self.close_connection = True
                    return
                self.reply(412 if taken else 200)

            def do_GET(self) -> None:
                found = moody.objects.get(self.path)
                self.reply(404 if found is None else 200, found or b"")

            def reply(self, code: int, body: bytes = b"") -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"x"')
                self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def blobs(self) -> ObjectBlobs:
        options = {
            "endpoint": f"http://127.0.0.1:{self.server.server_port}", "region": "us-east-1",
            "access_key_id": "a", "secret_access_key": "b",
        }  # fmt: skip
        return ObjectBlobs("s3://bucket/run", options)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def moody() -> Iterator[Moody]:
    moody = Moody()
    yield moody
    moody.close()


def test_a_store_that_is_busy_is_asked_again(moody: Moody) -> None:
    moody.answers = ["busy", "busy"]
    moody.blobs().put("name", b"data")
    assert moody.puts == 3
    assert list(moody.objects.values()) == [b"data"]


def test_an_answer_that_got_lost_is_not_taken_for_another_writer(moody: Moody) -> None:
    moody.answers = ["lost"]
    moody.blobs().put("name", b"data")
    assert list(moody.objects.values()) == [b"data"]


def test_another_writer_is_noticed_even_behind_a_busy_store(moody: Moody) -> None:
    moody.blobs().put("name", b"theirs")
    moody.answers = ["busy"]
    with pytest.raises(FileExistsError):
        moody.blobs().put("name", b"ours")
    assert list(moody.objects.values()) == [b"theirs"]


def test_an_option_that_the_store_does_not_know_is_named(moody: Moody) -> None:
    with pytest.raises(SnapshotUnavailable, match="no_such_option"):
        ObjectBlobs("s3://bucket/run", {"region": "us-east-1", "no_such_option": "x"})
