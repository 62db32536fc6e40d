"""The grammar of the command line, and what a wrong one is told."""

from __future__ import annotations

import argparse
import importlib

import pytest

from noderuntime.cli.output import UsageError
from noderuntime.cli.parser import COMMANDS, assignment, build, parse, seconds


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("rnu", "noderuntime run"), ("vaildate", "noderuntime validate"), ("log", "noderuntime logs")],
)
def test_an_unknown_command_suggests_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean `{meant}`"):
        parse([typed])


def test_a_command_that_is_near_to_none_lists_all() -> None:
    with pytest.raises(UsageError, match="the commands are: run, validate, graph"):
        parse(["xyzzy"])


def test_a_forgotten_run_is_understood_from_the_file() -> None:
    with pytest.raises(UsageError, match="did you mean `noderuntime run flow"):
        parse(["flow.yml"])


def test_an_unknown_state_operation_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean `state get`"):
        parse(["state", "gte", "shared", "k"])


def test_an_unknown_option_suggests_the_nearest_and_names_the_command() -> None:
    with pytest.raises(UsageError, match="no option '--stop-afer'; did you mean --stop-after") as error:
        parse(["run", "a.yml", "--stop-afer=3s"])
    assert error.value.program == "noderuntime run"


def test_one_argument_too_many_is_named() -> None:
    with pytest.raises(UsageError, match="is an unexpected argument"):
        parse(["validate", "a.yml", "b.yml"])


@pytest.mark.parametrize(
    "line",
    ["run", "run a b", "run a --nope", "run a --stop-after soon", "run a --env NOVALUE", "state ls",
     "run a --log-format x", "graph a --mermaid --html b", "run a --qui", "state set shared k"],
)  # fmt: skip
def test_what_is_wrong_is_a_usage_error(line: str) -> None:
    with pytest.raises(UsageError):
        parse(line.split())


@pytest.mark.parametrize(
    ("line", "meant"),
    [("run a", None), ("run a --exit-when-nodes-finish", True), ("run a --exit-when-nodes-finish=false", False)],
)
def test_whether_timers_keep_a_node_may_be_left_to_the_file(line: str, meant: bool | None) -> None:
    assert parse(line.split()).exit_when_nodes_finish is meant


def test_the_options_of_surviving_are_understood() -> None:
    options = parse(["run", "a.yml", "--chaos", "500ms", "--seed", "7", "--watch", "--resume"])
    assert (options.chaos, options.seed, options.watch, options.resume) == (0.5, 7, True, True)
    options = parse(["dead-letters", "replay", "--run", "r", "sums", "a/n#1", "a/n#2"])
    assert (options.operation, options.run, options.node, options.uids) == ("replay", "r", "sums", ["a/n#1", "a/n#2"])
    assert parse(["demo"]).stop_after == 15.0


def test_run_understands_its_options() -> None:
    line = "run a.yml -d --name x --stop-after 10s --env A=b=c --env D= --quiet --fresh"
    options = parse(line.split(" "))
    assert (options.file, options.detach, options.name, options.stop_after) == ("a.yml", True, "x", 10.0)
    assert dict(options.env) == {"A": "b=c", "D": ""}
    assert options.quiet and options.fresh and not options.abort_on_failure


@pytest.mark.parametrize(
    ("text", "value"), [("500ms", 0.5), ("10s", 10), ("5m", 300), ("1.5", 1.5), ("2 h", 7200)]
)
def test_durations_are_numbers_of_seconds_or_texts(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "-1s", "1x", "nan", "inf", "1s2"])
def test_what_is_no_duration_says_what_would_be_one(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="500ms, 10s or 5m"):
        seconds(text)


@pytest.mark.parametrize("line", ["apply flow.yml --timeout 0", "scale sums 2 --timeout 0s"])
def test_a_time_limit_of_nothing_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="leaves no time for anything"):
        parse(line.split())


def test_an_assignment_needs_a_name() -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        assignment("=x")


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    parsers = build()[1]
    assert set(parsers) == set(COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            parse([name, "--help"])
        assert end.value.code == 0
        assert f"noderuntime {name}" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_a_function_in_a_module_of_its_name(command: str) -> None:
    name = command.replace("-", "_")
    module = importlib.import_module(f"noderuntime.cli.{name}")
    assert getattr(module, name).__module__ == module.__name__


def _with_operations(name: str, parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    found = [(name, parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [item for own, of in action.choices.items() for item in _with_operations(f"{name} {own}", of)]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_of_a_command_names_each_of_its_options(command: str) -> None:
    for name, parser in _with_operations(command, build()[1][command]):
        usage = parser.format_usage()
        shown = [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]
        missing = [action.option_strings for action in shown if not any(o in usage for o in action.option_strings)]
        assert not missing, name
