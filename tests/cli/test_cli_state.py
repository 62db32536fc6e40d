"""state ls|get|set|rm against a store made of a dict."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import msgpack
import pytest
from support.cli_world import World, node_status, status_answer

from noderuntime.cli import main
from noderuntime.cli.shown import Unfit, from_json, like, shown_key, shown_value
from noderuntime.ipc.protocol import Reply, Request
from noderuntime.merges import Add, Union, decode

Capture = pytest.CaptureFixture[str]


class DictStore:
    def __init__(self) -> None:
        self.values: dict[tuple[str, str], bytes] = {}
        self.packed: set[tuple[str, str]] = set()
        self.page = 1000
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
                after = request.arguments.get("after", "")
                found = [
                    [k, len(v), 5]
                    for (s, k), v in sorted(self.values.items())
                    if s == scope and k.startswith(prefix) and k > after
                ]
                return {"keys": found[: self.page], "more": len(found) > self.page}
            case "state_get":
                return {"value": self.values.get((scope, key)), "revision": 5, "packed": (scope, key) in self.packed}
            case "state_set":
                self.values[scope, key] = request.arguments["value"]
                (self.packed.add if request.arguments.get("packed") else self.packed.discard)((scope, key))
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
        "key": "total", "revision": 5, "kind": "bytes", "value": None, "text": None, "base64": "uhM=", "size": 2,
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
    assert [request.operation for request in server.heard] == ["state_get", "state_get", "state_set"]
    assert server.heard[0] == server.heard[1]


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


# --- the kind of a value ------------------------------------------------------------------------------------------


def stdin(monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))


def test_a_counter_is_shown_as_its_number_and_stays_a_counter(store: DictStore, capsys: Capture) -> None:
    store.values["shared", "visits"] = Add(51).apply(None)
    store.packed.add(("shared", "visits"))
    assert main(["state", "get", "shared", "visits"]) == 0
    assert main(["state", "set", "shared", "visits", "0"]) == 0
    assert main(["state", "get", "shared", "visits"]) == 0
    assert capsys.readouterr().out == "51\n0\n"
    assert decode(Add(1).apply(store.values["shared", "visits"])) == 1
    assert main(["state", "set", "shared", "visits", "-7"]) == 0
    assert main(["state", "get", "--json", "shared", "visits"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "key": "visits", "revision": 5, "kind": "msgpack", "value": -7, "text": None, "base64": "+Q==", "size": 1,
    }  # fmt: skip


def test_what_does_not_fit_the_kind_is_refused_and_changes_nothing(store: DictStore, capsys: Capture) -> None:
    store.values = {
        ("shared", "visits"): Add(51).apply(None),
        ("shared", "ids"): Union({"a"}).apply(None),
        ("shared", "image"): b"\xff\x00",
    }
    store.packed |= {("shared", "visits"), ("shared", "ids")}
    before = dict(store.values)
    for key, value, what in (
        ("visits", "many", "it holds a number, and 'many' is not"),
        ("visits", "NaN", "it holds a number"),
        ("visits", "true", "it holds a number"),
        ("visits", "99999999999999999999999", "it holds a number"),
        ("ids", "7", "it holds a list, and '7' is not"),
        ("image", "text", "it holds bytes that are not text"),
        ("image", "0xabc", "hexadecimal digits"),
    ):
        assert main(["state", "set", "shared", key, value]) == 2
        said = capsys.readouterr().err
        assert what in said and "--json, --text or --hex" in said, said
    assert store.values == before


def test_text_stays_text_and_a_new_key_is_text(store: DictStore) -> None:
    store.values["shared", "name"] = b"old"
    for key in ("name", "new"):
        assert main(["state", "set", "shared", key, "0"]) == 0
        assert store.values["shared", key] == b"0"
    assert store.packed == set()


def test_json_text_hex_and_stdin_say_the_kind(store: DictStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["state", "set", "shared", "k", "--json", '{"a": [1, null]}']) == 0
    assert decode(store.values["shared", "k"]) == {"a": [1, None]} and store.packed == {("shared", "k")}
    assert main(["state", "set", "shared", "k", "--text", "5"]) == 0
    assert store.values["shared", "k"] == b"5" and store.packed == set()
    assert main(["state", "set", "shared", "k", "--hex", "00ff"]) == 0
    assert store.values["shared", "k"] == b"\x00\xff" and store.packed == set()
    stdin(monkeypatch, b"[1, 2]")
    assert main(["state", "set", "shared", "k", "--json", "-"]) == 0
    assert decode(store.values["shared", "k"]) == [1, 2] and store.packed == {("shared", "k")}


@pytest.mark.parametrize(
    ("option", "value"),
    [("--json", "{"), ("--json", "NaN"), ("--json", "1" * 30), ("--json", "[" * 9999), ("--hex", "0x1")],
)
def test_what_is_not_of_the_kind_that_was_said_is_a_usage_error(store: DictStore, option: str, value: str) -> None:
    assert main(["state", "set", "shared", "k", option, value]) == 2
    assert store.values == {}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("value", [b"\x33", b"text\n", b"\xff\x00", b"", b"\xc4\x00"])
def test_get_raw_into_set_is_the_identity(
    store: DictStore,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    value: bytes,
    packed: bool,
) -> None:
    store.values["shared", "k"] = value
    if packed and value in (b"\x33", b"\xc4\x00"):
        store.packed.add(("shared", "k"))
    before = set(store.packed)
    assert main(["state", "get", "--raw", "shared", "k"]) == 0
    taken = capsysbinary.readouterr().out
    assert taken == value
    stdin(monkeypatch, taken)
    assert main(["state", "set", "shared", "k", "-"]) == 0
    assert (store.values["shared", "k"], store.packed) == (value, before)


def test_msgpack_decodes_what_is_not_marked(store: DictStore, capsys: Capture) -> None:
    store.values = {("sums", "k"): msgpack.packb({"n": [1, b"\xff"]}), ("sums", "text"): b"text"}
    assert main(["state", "get", "--msgpack", "sums", "k"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": [1, {"base64": "/w=="}]}
    assert main(["state", "get", "--msgpack", "sums", "text"]) == 1
    assert "are not MessagePack" in capsys.readouterr().err


def test_what_is_marked_and_no_messagepack_is_shown_as_it_is() -> None:
    assert shown_value(b"text", packed=True) == "text"
    assert shown_value(b"\xc1", packed=True) == "0xc1"


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [(1.5, "2", 2), ("name", "5", "5"), (True, "false", False), (None, "[1]", [1]), ({"a": 1}, "{}", {})],
)
def test_a_messagepack_value_keeps_its_kind(before: object, text: str, after: object) -> None:
    made, packed = like(text, msgpack.packb(before), packed=True)
    assert packed and decode(made) == after and type(decode(made)) is type(after)


def test_json_of_half_a_pair_of_surrogates_is_refused() -> None:
    with pytest.raises(Unfit, match="UTF-8"):
        from_json('"\\ud800"')


@pytest.mark.parametrize(("state", "code"), [("running", 2), ("backoff", 2), ("failed", 0), ("ended", 0)])
def test_private_state_of_a_running_operator_needs_force(
    world: World, capsys: Capture, state: str, code: int
) -> None:
    made = DictStore()
    run = world.run("flow")
    world.store(run, made)
    world.runtime(run, lambda ask: status_answer(node_status("sums", state=state)))
    assert main(["state", "set", "sums", "total", "7"]) == code
    assert made.values == ({} if code else {("sums", "total"): b"7"})
    assert ("--force" in capsys.readouterr().err) == bool(code)
    assert main(["state", "set", "sums", "total", "8", "--force"]) == 0
    assert made.values == {("sums", "total"): b"8"}
    assert main(["state", "set", "shared", "total", "8"]) == 0


def test_ls_lists_all_pages(store: DictStore, capsys: Capture) -> None:
    store.page = 7
    store.values = {("shared", f"k{number:03}"): b"" for number in range(100)}
    assert main(["state", "ls", "shared", "--json"]) == 0
    assert [item["key"] for item in json.loads(capsys.readouterr().out)] == [f"k{number:03}" for number in range(100)]


@pytest.mark.parametrize("words", [["get", "shared", "\udc80"], ["ls", "shared", "\udc80"], ["rm", "\udc80", "k"]])
def test_a_key_that_is_not_utf8_is_a_usage_error(store: DictStore, capsys: Capture, words: list[str]) -> None:
    assert main(["state", *words]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get", "shared", "k"], "value is missing"),
        (["set", "shared", "k", "v"], "value is missing"),
        (["ls", "shared"], "keys is missing"),
        (["rm", "shared", "k"], "removed is missing"),
        (["diff", "shared"], "version is missing"),
        (["diff", "shared", "1"], "changed is missing"),
        (["watch", "shared"], "updates is missing"),
    ],
)
def test_an_answer_without_what_belongs_into_it_is_refused_by_name(
    world: World, capsys: Capture, words: list[str], said: str
) -> None:
    world.store(world.run("flow"), lambda request: Reply(request.number, {}, "", ""))
    assert main(["state", *words]) == 1
    assert capsys.readouterr().err == f"error: the store's answer: {said}\n"


def test_marks_that_do_not_belong_to_the_updates_are_refused(world: World, capsys: Capture) -> None:
    absurd = {"updates": [["k", b"v", 7]], "packed": [], "cursor": [7, 0]}
    world.store(world.run("flow"), lambda request: Reply(request.number, absurd, "", ""))
    assert main(["state", "watch", "shared"]) == 1
    assert "the store's answer: packed has 0 items, not 1" in capsys.readouterr().err


def test_watch_shows_a_counter_as_its_number(world: World, capsys: Capture) -> None:
    def answer(request: Request) -> Reply:
        if request.arguments["cursor"] is None:
            return Reply(request.number, {"updates": [], "packed": [], "cursor": [1, 0]}, "", "")
        updates = [["n", Add(51).apply(None), 7], ["text", b"3", 8]]
        return Reply(request.number, {"updates": updates, "packed": [True, False], "cursor": [8, 0]}, "", "")

    world.store(world.run("flow"), answer)
    assert main(["state", "watch", "shared", "--count", "2"]) == 0
    assert capsys.readouterr().out == "7 n 51\n8 text 3\n"
