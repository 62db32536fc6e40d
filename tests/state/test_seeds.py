"""seeds.py: the first values of a store, and what is wrong with those that are none."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from noderuntime.errors import StoreError
from noderuntime.state import seeds

TEXT = "limit: 5\nname: grün\nraw: !!binary AAEC\nnested: {a: [1, 2]}\n'7': null\n"
VALUES = {
    "limit": seeds.Seed(msgpack.packb(5), packed=True),
    "name": seeds.Seed("grün".encode()),
    "raw": seeds.Seed(b"\x00\x01\x02"),
    "nested": seeds.Seed(msgpack.packb({"a": [1, 2]}), packed=True),
    "7": seeds.Seed(msgpack.packb(None), packed=True),
}


def test_text_is_utf8_binary_is_itself_and_the_rest_is_messagepack(tmp_path: Path) -> None:
    (tmp_path / "seed.yml").write_text(TEXT)
    assert seeds.from_file(str(tmp_path / "seed.yml")) == VALUES
    assert seeds.from_command(["printf", "%s", TEXT]) == VALUES


@pytest.mark.parametrize("text", ["", "# nothing\n", "null"])
def test_an_empty_seed_is_no_values(text: str) -> None:
    assert seeds.parse(text.encode(), "seed") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "is no mapping"),
        ("just text", "is no mapping"),
        ("5: five", "the key 5 is no text; put it in quotes"),
        ("a: &x [1]\nb: *x", "anchors and aliases are not allowed"),
        ("a: [1, 2", "seed:1:4: `,` or `]` is missing"),
        ("ä:\n  b: {c: @}", "seed:2:10: a value cannot begin with `@`"),
        ("a: !!python/object/apply:os.getpid []", "seed:1:4: this value cannot be read"),
        ("a: 2024-13-45", "seed is no YAML: "),
        (f"a: {'x' * 1_000_001}", "the limit is 1000000"),
        (f"{'k' * 600}: 1", "the limit is 508"),
        ("a: !!set {1}", "'a'"),
        ("\x00", "seed is no YAML: "),
    ],
)
def test_what_is_no_seed_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(StoreError) as caught:
        seeds.parse(text.encode(), "seed")
    assert str(caught.value).startswith("seed") and reason in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{b: " * 5000])
def test_nesting_without_end_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match=r"^seed:1:\d+: more than 64 levels of nesting$"):
        seeds.parse(text.encode(), "seed")


def test_what_is_no_text_is_refused_and_utf_16_is_text() -> None:
    with pytest.raises(StoreError, match=r"^seed is not UTF-8 text: byte 3 cannot be read$"):
        seeds.parse(b"a: \xff", "seed")
    assert seeds.parse("a: ü".encode("utf-16"), "seed") == {"a": seeds.Seed("ü".encode())}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sh", "-c", "echo no seeds today >&2; exit 3"], "ended with code 3: no seeds today"),
        (["false"], "ended with code 1: it printed no reason"),
        (["./there-is-none"], "cannot be started: No such file"),
        (["echo", "[1, 2]"], "is no mapping"),
    ],
)
def test_a_command_that_gives_no_seeds_is_refused_with_its_reason(command: list[str], reason: str) -> None:
    with pytest.raises(StoreError) as caught:
        seeds.from_command(command)
    assert reason in str(caught.value)


def test_a_command_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "COMMAND_S", 0.05)
    with pytest.raises(StoreError, match="has not ended within"):
        seeds.from_command(["sleep", "60"])


def test_a_seed_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "SEED_BYTES_MAX", 10)
    (tmp_path / "seed.yml").write_text("a: 'more than ten bytes'\n")
    with pytest.raises(StoreError, match="is larger than 10 bytes"):
        seeds.from_file(str(tmp_path / "seed.yml"))
    with pytest.raises(StoreError, match="printed more than 10 bytes"):
        seeds.from_command(["cat", str(tmp_path / "seed.yml")])
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        seeds.from_file(str(tmp_path / "none.yml"))
