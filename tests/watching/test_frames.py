"""What a tap and the tap server say to each other, as bytes."""

from __future__ import annotations

import random

import pytest

from noderuntime.errors import ProtocolError
from noderuntime.watching import frames


def test_frames_come_whole_however_the_bytes_are_cut() -> None:
    made = [
        frames.hello(["a/b", "*"], False), frames.topics({"a/b": [7]}),
        frames.frame(["event", "a/b", 8, 1, b"", b"", 5, 3], b"xyz"), frames.end({"a/b": [8]}),
    ]  # fmt: skip
    whole = b"".join(head + body for head, body in made)
    for seed in range(50):
        rng = random.Random(seed)
        reader, found, at = frames.Reader(), [], 0
        while at < len(whole):
            step = rng.randint(1, 40)
            found += reader.feed(whole[at : at + step])
            at += step
        assert [head[0] for head, _ in found] == ["tap", "topics", "event", "end"]
        assert [body for _, body in found] == [b"", b"", b"xyz", b""]
        assert frames.parse_hello(found[0][0]) == (["a/b", "*"], False)


def test_any_bytes_are_frames_or_a_protocol_error() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        reader = frames.Reader(1000)
        data = bytearray(frames.frame(["tap", 1, ["x"], True], b"abc")[0] + b"abc")
        for _ in range(rng.randint(0, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = reader.feed(bytes(data))
            for head, _ in found:
                frames.parse_hello(head)
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (["tap", 2, ["x"], False], "speaks version 1"),
        (["tap", 1, "x", False], "list of texts"),
        (["tap", 1, [1], False], "list of texts"),
        (["topics", 1, ["x"], False], "says first"),
        (["tap"], "says first"),
    ],
)
def test_a_wrong_beginning_is_refused_in_a_sentence(head: list[object], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        frames.parse_hello(head)


def test_a_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    with pytest.raises(ProtocolError, match="at most 100"):
        frames.Reader(100).feed(b"\xff\xff\xff\x7f\0\0\0\0")
