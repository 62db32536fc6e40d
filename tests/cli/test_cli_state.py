"""state ls|get|set|rm against a store made of a dict."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from cli_world import World

from noderuntime.cli import main
from noderuntime.cli.state import shown_key, shown_value
from noderuntime.protocol import Reply, Request

Capture = pytest.CaptureFixture[str]


class DictStore:
    def __init__(self) -> None:
        self.values: dict[tuple[str, str], bytes] = {}
        self.ignore = 0

    def __call__(self, request: Request) -> Reply | None:
        if self.ignore:
            self.ignore -= 1
            return None
        scope, key = request.arguments["scope"], request.arguments.get("key", "")
        if scope not in {"shared", "sums"}:
            return Reply(request.number, {}, "NotRunning", f"there is no node {scope!r} in this run")
        return Reply(request.number, self._result(request, scope, key), "", "")

    def _result(self, request: Request, scope: str, key: str) -> dict[str, Any]:
        match request.operation:
            case "state_ls":
                prefix = request.arguments["prefix"]
                found = [(k, v) for (s, k), v in self.values.items() if s == scope and k.startswith(prefix)]
                return {"keys": [[k, len(v), 5] for k, v in found]}
            case "state_get":
                return {"value": self.values.get((scope, key)), "revision": 5}
            case "state_set":
                self.values[scope, key] = request.arguments["value"]
                return {"revision": 6}
            case "state_rm":
                return {"removed": self.values.pop((scope, key), None) is not None}
        raise AssertionError(request.operation)


@pytest.fixture
def store(world: World) -> DictStore:
    made = DictStore()
    world.store(world.run("flow"), made)
    return made


def test_text_is_stored_as_utf8_and_shown_as_text(store: DictStore, capsys: Capture) -> None:
    assert main(["state", "set", "shared", "greeting", "grüße"]) == 0
    assert store.values == {("shared", "greeting"): "grüße".encode()}
    assert main(["state", "get", "shared", "greeting"]) == 0
    assert capsys.readouterr().out == "grüße\n"


def test_other_bytes_are_shown_as_hex_and_in_json_as_base64(store: DictStore, capsys: Capture) -> None:
    store.values["sums", "total"] = b"\xba\x13"
    assert main(["state", "get", "sums", "total"]) == 0
    assert capsys.readouterr().out == "0xba13\n"
    assert main(["state", "get", "--json", "sums", "total"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "key": "total", "revision": 5, "text": None, "base64": "uhM=", "size": 2,
    }  # fmt: skip


def test_ls_lists_keys_sizes_and_revisions(store: DictStore, capsys: Capture) -> None:
    store.values = {("shared", "b"): b"12", ("shared", "a"): b"1", ("sums", "x"): b""}
    assert main(["state", "ls", "shared"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["KEY", "SIZE", "REVISION"], ["a", "1", "5"], ["b", "2", "5"],
    ]  # fmt: skip
    assert main(["state", "ls", "shared", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"key": "b", "size": 2, "revision": 5}]


def test_rm_removes_and_says_when_there_was_nothing(store: DictStore, capsys: Capture) -> None:
    store.values["shared", "a"] = b"1"
    assert main(["state", "rm", "shared", "a"]) == 0
    assert store.values == {}
    assert main(["state", "rm", "shared", "a"]) == 1
    assert "shared has no key 'a'" in capsys.readouterr().err


def test_a_missing_key_is_an_error_that_says_how_to_list(store: DictStore, capsys: Capture) -> None:
    assert main(["state", "get", "shared", "none"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "`noderuntime state ls shared` lists them" in said.err


def test_an_unknown_scope_is_told_in_the_words_of_the_store(store: DictStore, capsys: Capture) -> None:
    assert main(["state", "ls", "smus"]) == 1
    assert "there is no node 'smus'" in capsys.readouterr().err


def test_a_value_can_come_from_stdin_byte_for_byte(
    store: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00\n")))
    assert main(["state", "set", "shared", "k", "-"]) == 0
    assert store.values["shared", "k"] == b"\xff\x00\n"


def test_a_request_that_a_killed_store_lost_is_repeated_with_the_same_number(
    world: World, capsys: Capture
) -> None:
    made = DictStore()
    made.ignore = 1
    server = world.store(world.run("flow"), made)
    assert main(["state", "set", "shared", "k", "v"]) == 0
    assert len(server.heard) == 2 and server.heard[0] == server.heard[1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(b"text\nlines\t", "text\nlines\t"), (b"", ""), (b"\x05\0\0", "0x050000"), (b"\x1b[2J", "0x1b5b324a")],
)
def test_values_that_could_disturb_a_terminal_are_shown_as_hex(value: bytes, shown: str) -> None:
    assert shown_value(value) == shown


def test_keys_that_cannot_be_printed_are_quoted() -> None:
    assert shown_key("plain/key") == "plain/key"
    assert shown_key("a\nb") == r"'a\nb'"
    assert shown_key("") == "''"
