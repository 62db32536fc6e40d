"""dead-letters ls|show|replay|drop against a store made of a list, and against the logs of a run that has ended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.cli_world import World, figures_reply

from noderuntime.cli import main
from noderuntime.ipc.protocol import Reply, Request
from noderuntime.ipc.rundir import letters_file

Capture = pytest.CaptureFixture[str]

LETTER = {
    "node": "sums", "input": "n", "uid": "numbers/n#4", "error": "on_event: ValueError: cannot add 3", "attempts": 3,
    "buried_ns": 1_700_000_000_000_000_000, "bytes": 25, "trace": "Traceback\n  ValueError: cannot add 3",
    "metadata": {"unit": "m"}, "value": 3,
}  # fmt: skip


class ListStore:
    def __init__(self, *letters: dict[str, Any]) -> None:
        self.letters = list(letters)

    def __call__(self, request: Request) -> Reply:
        if request.operation == "figures":
            return figures_reply(request.number)
        node, uids = request.arguments["node"], request.arguments.get("uids")
        if node not in {"", "sums"}:
            return Reply(request.number, {}, "NotRunning", f"this run has no node {node!r}")
        chosen = [letter for letter in self.letters if not uids or letter["uid"] in uids]
        match request.operation:
            case "letters_ls" | "letters_show":
                result: dict[str, Any] = {"letters": chosen, "left_out": 0}
            case "letters_replay":
                result = {"replayed": len(chosen)}
            case "letters_drop":
                result = {"dropped": len(chosen)}
        if request.operation in {"letters_replay", "letters_drop"}:
            self.letters = [letter for letter in self.letters if letter not in chosen]
        return Reply(request.number, result, "", "")


@pytest.fixture
def store(world: World) -> ListStore:
    made = ListStore(LETTER, {**LETTER, "uid": "numbers/n#11", "value": 10})
    world.store(world.run("flow"), made)
    return made


def test_ls_has_a_line_for_each_letter(store: ListStore, capsys: Capture) -> None:
    assert main(["dead-letters", "ls"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["NODE", "UID", "INPUT", "ATTEMPTS", "BURIED", "ERROR"]
    assert first.split()[:4] == ["sums", "numbers/n#4", "n", "3"]
    assert second.endswith("on_event: ValueError: cannot add 3")


def test_show_prints_message_error_and_traceback(store: ListStore, capsys: Capture) -> None:
    assert main(["dead-letters", "show", "sums", "numbers/n#4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("numbers/n#4 for sums, input n\n")
    assert "after 3 attempts\n" in said and "  value     3\n" in said and '{"unit": "m"}' in said
    assert "  │   ValueError: cannot add 3\n" in said
    assert "numbers/n#11" not in said


def test_json_has_the_time_in_seconds_and_the_value_as_it_is(store: ListStore, capsys: Capture) -> None:
    assert main(["dead-letters", "show", "sums", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["buried"], first["value"], second["value"]) == (1_700_000_000.0, 3, 10)
    assert "buried_ns" not in first


def test_what_could_disturb_a_terminal_is_left_out(world: World, capsys: Capture) -> None:
    letter = {**LETTER, "value": "a\x1b[2Jb", "error": "\x1b[2Jno", "trace": "\x1b[0;0H"}
    world.store(world.run("flow"), ListStore(letter))
    assert main(["dead-letters", "ls"]) == 0
    assert main(["dead-letters", "show", "sums"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_replay_says_how_many_went_back(store: ListStore, capsys: Capture) -> None:
    assert main(["dead-letters", "replay", "sums", "numbers/n#4"]) == 0
    assert capsys.readouterr().err.startswith("1 dead letter is back in the mailbox of sums")
    assert main(["dead-letters", "replay", "sums", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"node": "sums", "replayed": 1}
    assert main(["dead-letters", "replay", "sums"]) == 0
    assert capsys.readouterr().err == "sums has no dead letters: nothing was changed\n"


def test_drop_says_how_many_are_gone(store: ListStore, capsys: Capture) -> None:
    assert main(["dead-letters", "drop", "sums"]) == 0
    assert capsys.readouterr().err == "2 dead letters are dropped\n"
    assert store.letters == []


def test_an_unknown_node_is_told_in_the_words_of_the_store(store: ListStore, capsys: Capture) -> None:
    assert main(["dead-letters", "show", "smus"]) == 1
    assert "this run has no node 'smus'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["dead-letters", "shwo", "sums"], "did you mean `dead-letters show`?"),
        (["dead-letters"], "dead-letters"),
        (["dead-letters", "show"], "NODE"),
    ],
)
def test_a_slip_on_the_command_line_is_exit_code_2(line: list[str], said: str, capsys: Capture, world: World) -> None:
    assert main(line) == 2
    assert said in capsys.readouterr().err


def test_what_a_run_without_snapshots_had_left_can_be_looked_at_and_dropped(world: World, capsys: Capture) -> None:
    run = world.run("flow", running=False)
    letters_file(run.logs).write_text(json.dumps([LETTER]))
    run.remove()
    assert main(["dead-letters", "ls", "--run", "flow", "--json"]) == 0
    assert [letter["uid"] for letter in json.loads(capsys.readouterr().out)] == ["numbers/n#4"]
    assert main(["dead-letters", "show", "--run", "flow", "sums"]) == 0
    assert "cannot add 3" in capsys.readouterr().out
    assert main(["dead-letters", "replay", "--run", "flow", "sums"]) == 3
    assert "can be looked at, and dropped" in capsys.readouterr().err
    assert main(["dead-letters", "show", "--run", "flow", "smus"]) == 1
    assert main(["dead-letters", "ls", "--run", "none"]) == 3
    assert main(["dead-letters", "drop", "--run", "flow", "sums"]) == 0
    assert not letters_file(run.logs).exists()


def test_without_a_name_the_last_run_that_knew_the_node_is_taken_and_named(world: World, capsys: Capture) -> None:
    for day, name, node in ((1, "old", "sums"), (2, "flow", "sums"), (3, "new", "b")):
        folder = world.home / "state" / name / "logs" / f"2026-01-0{day}"
        folder.mkdir(parents=True)
        letters_file(folder).write_text(json.dumps([{**LETTER, "node": node, "uid": f"{name}/n#1"}]))
    assert main(["dead-letters", "ls", "sums"]) == 0
    said = capsys.readouterr()
    assert "flow/n#1" in said.out and "old/n#1" not in said.out
    assert said.err == "of the last run of 'flow', which has ended; old had it too: name one with --run\n"
    assert main(["dead-letters", "ls", "--json"]) == 0
    said = capsys.readouterr()
    assert [letter["uid"] for letter in json.loads(said.out)] == ["new/n#1"]
    assert said.err == "of the last run of 'new', which has ended; flow, old had some too: name one with --run\n"
    (world.home / "state" / "empty" / "logs" / "2026-01-04").mkdir(parents=True)
    assert main(["dead-letters", "ls", "--json"]) == 0
    assert capsys.readouterr().err == said.err
    assert main(["dead-letters", "ls", "--run", "old", "sums"]) == 0
    assert capsys.readouterr().err == ""
