"""protocol.py: two peers that talk through a list of frames, and one sentence about bytes."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.errors import ProtocolError
from noderuntime.ipc import protocol
from noderuntime.ipc.protocol import (
    FRAME_BYTES_MAX,
    MESSAGES,
    NAMES,
    TO_RUNTIME,
    VERSION,
    Answer,
    Ask,
    Bye,
    Edge,
    Failed,
    Hello,
    Log,
    LogOf,
    MemberEnded,
    Message,
    Quiet,
    QuietMember,
    Ready,
    Refused,
    Reload,
    ReloadFailed,
    Reply,
    Request,
    RestoreState,
    Rewired,
    Stop,
    StopAll,
    StopMember,
    Welcome,
    decode,
    encode,
)
from noderuntime.ipc.wiring import Wiring

WIRING = Wiring("r", "a", 1, "operator", (), ()).to_plain()

EXAMPLES: list[Message] = [
    Hello(VERSION, "a", "operator", 12, 1),
    Refused("too late"),
    Welcome(3, WIRING, 1, [[0, 1, 2, 3]]),
    RestoreState({"total": b"\x00\xff"}, False),
    Ready(3),
    Log(1.5, 20, "text", {"n": 1}),
    LogOf("a", 1.5, 20, "text", {"n": 1}),
    Failed("on_event", "ValueError: x", "trace", False, "a"),
    StopAll(),
    MemberEnded("a"),
    Bye(True, "done"),
    Stop("MANUAL", 5.0),
    StopMember("a", "MANUAL"),
    Quiet(),
    QuietMember("a"),
    Reload(),
    Rewired(3, {"inputs": [], "outputs": []}),
    ReloadFailed("SyntaxError", "trace"),
    Ask(VERSION, "status", {}),
    Answer({"nodes": []}, ""),
    Request(VERSION, "runtime-1", 7, "claim", {"node": "a"}),
    Reply(7, {"incarnation": 2}, "", ""),
]


def edge_of(message: Message) -> Edge:
    return next(edge for edge, named in MESSAGES.items() if type(message) in named.values())


def is_message(frame: bytes) -> bool:
    try:
        message = decode(frame, *Edge)
    except ProtocolError:
        return False
    assert isinstance(message, get_args(Message))
    return True


def plain() -> st.SearchStrategy[Any]:
    leaves = (
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
        max_leaves=8,
    )


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_protocol_error(frame: bytes) -> None:
    is_message(frame)


@given(plain())
def test_any_messagepack_value_decodes_or_raises_protocol_error(value: Any) -> None:
    is_message(msgpack.packb(value))


@given(st.sampled_from(EXAMPLES), st.lists(plain(), max_size=8))
def test_a_known_type_with_any_fields_decodes_or_raises_protocol_error(
    example: Message, values: list[Any]
) -> None:
    name = msgpack.unpackb(encode(example))[0]
    is_message(msgpack.packb([name, *values]))


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_message_decodes_or_raises_protocol_error(example: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(example))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    is_message(bytes(frame))


def test_there_is_an_example_of_every_message() -> None:
    assert {type(example) for example in EXAMPLES} == set(get_args(Message)) == set(NAMES)


def test_the_module_s_head_lists_every_message_below_its_edge() -> None:
    listed: dict[str, list[str]] = {}
    edge = ""
    for line in (protocol.__doc__ or "").splitlines():
        if found := re.match(r"    (\w+ -> \w+) +(\w+)  ", line):
            edge = found[1]
            listed[edge] = [found[2]]
        elif found := re.match(r" {26}(\w+)  ", line):
            listed[edge].append(found[1])
    assert listed == {edge.value: list(named) for edge, named in MESSAGES.items()}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_what_is_encoded_decodes_to_the_same(example: Message) -> None:
    assert decode(encode(example), edge_of(example)) == example
    assert decode(memoryview(encode(example)), edge_of(example)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_message_along_the_wrong_edge_is_refused(example: Message) -> None:
    for came in set(Edge) - {edge_of(example)}:
        with pytest.raises(ProtocolError) as refused:
            decode(encode(example), came)
        assert str(refused.value) == f"{NAMES[type(example)]} goes {edge_of(example).value}; it came {came.value}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_the_runtime_s_socket_takes_what_children_and_commands_send(example: Message) -> None:
    if edge_of(example) in TO_RUNTIME:
        assert decode(encode(example), *TO_RUNTIME) == example
    else:
        with pytest.raises(ProtocolError, match="it came child -> runtime or command -> runtime"):
            decode(encode(example), *TO_RUNTIME)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_a_byte_too_many_or_too_few_is_refused(example: Message) -> None:
    frame = encode(example)
    for wrong in (frame + b"\x00", frame[:-1]):
        with pytest.raises(ProtocolError):
            decode(wrong, *Edge)


@pytest.mark.parametrize(
    "example",
    [example for example in EXAMPLES if fields(example)],
    ids=lambda example: type(example).__name__,
)
def test_a_field_too_many_or_too_few_is_refused(example: Message) -> None:
    body = msgpack.unpackb(encode(example))
    for wrong in ([*body, 1], body[:-1]):
        with pytest.raises(ProtocolError, match="fields instead of"):
            decode(msgpack.packb(wrong), *Edge)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (["ready", True], "incarnation is bool"),
        (["ready", "1"], "incarnation is str"),
        (["bye", 1, ""], "ended is int"),
        (["log", "now", 20, "", {}], "time is str"),
        (["nonsense"], "unknown type 'nonsense'"),
        ([], "starts with a type"),
        ({"ready": 1}, "starts with a type"),
        ([1, 2], "starts with a type"),
    ],
)
def test_a_refusal_says_what_is_wrong(body: Any, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        decode(msgpack.packb(body), *Edge)


def test_a_whole_number_may_stand_for_a_time() -> None:
    assert decode(msgpack.packb(["stop", "MANUAL", 5, False]), Edge.RUNTIME_TO_CHILD) == Stop("MANUAL", 5)


def test_depth_and_size_are_limited() -> None:
    for frame in (
        b"\x91" * 100_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        bytes(FRAME_BYTES_MAX + 1),
    ):
        with pytest.raises(ProtocolError):
            decode(frame, *Edge)
    with pytest.raises(ProtocolError, match="a frame holds at most"):
        encode(RestoreState({"a": bytes(FRAME_BYTES_MAX)}, False))


def test_an_operator_s_life_is_the_grammar_of_the_module_head() -> None:
    wire: list[bytes] = []
    for message in (
        Hello(VERSION, "a", "operator", 1, 1),
        Welcome(1, WIRING, 1, []),
        RestoreState({}, False),
        Ready(1),
    ):
        wire.append(encode(message))
    wire.extend(encode(message) for message in (Log(0.0, 20, "hi", {}), Stop("MANUAL", 1.0), Bye(False, "")))
    assert [type(decode(frame, *Edge)).__name__ for frame in wire] == [
        "Hello", "Welcome", "RestoreState", "Ready", "Log", "Stop", "Bye",
    ]  # fmt: skip
