"""The grammar of the command line: every command, operation and option. Each command is carried out by the module of
its name."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from collections.abc import Sequence
from typing import NoReturn

from noderuntime.cli.output import UsageError
from noderuntime.dataflow.identifiers import nearest

# command -> one line for the help. `dead-letters` is the function dead_letters of the module dead_letters.py
COMMANDS: dict[str, str] = {
    "run": "run a dataflow, in the foreground unless -d",
    "validate": "check a dataflow file; executes nothing",
    "graph": "draw a dataflow, as Mermaid text or as an HTML page",
    "ps": "list your runs",
    "stop": "stop a run, and wait until it has ended",
    "logs": "show what the nodes of a run printed and logged",
    "reload": "let an operator of a run take over its changed code",
    "apply": "make a run what its dataflow file says now, while it goes on",
    "scale": "give a keyed or stateless operator of a run another number of replicas",
    "node": "look at one node of a run; restart, stop or start it",
    "clean": "remove what interrupted and failed runs left behind",
    "state": "read and write the state of a run",
    "snapshot": "take, list and check the snapshots of a run",
    "dead-letters": "look at messages that failed for good; replay or drop them",
    "doctor": "look at this machine and installation, and say what they mean for runs here",
    "build": "run the build commands of a dora file",
    "demo": "see it survive: an operator that is killed every second",
}

OPERATIONS = {
    "node": ("ls", "info", "restart", "stop", "start"),
    "state": ("ls", "get", "set", "rm", "watch", "diff"),
    "snapshot": ("take", "ls", "verify"),
    "dead-letters": ("ls", "show", "replay", "drop"),
}

ONE_VALUE = "one JSON value on stdout, for programs"


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of ending the process, and accepts no abbreviated options."""

    def __init__(self, *arguments: object, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(*arguments, **options)  # type: ignore[arg-type]

    def option_names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.prog)


def seconds(text: str) -> float:
    """A duration option: a number of seconds, or a text such as 500ms, 10s, 5m."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = text.strip(), 1.0
    for name in ("ms", "s", "m", "h", "d"):
        if number.endswith(name):
            number, unit = number[: -len(name)].strip(), units[name]
            break
    try:
        value = float(number) * unit
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write for instance 500ms, 10s or 5m")
    return value


def time_limit(text: str) -> float:
    """A duration option within which something has to happen."""
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} leaves no time for anything; write for instance 500ms, 10s or 5m")
    return value


def boolean(text: str) -> bool:
    """An option that may be given a value."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def count(text: str) -> int:
    """A number of things."""
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def since(text: str) -> float:
    """A moment, in seconds since the epoch: how long ago it was, or an ISO 8601 time (without a zone: local)."""
    try:
        return time.time() - seconds(text)
    except argparse.ArgumentTypeError:
        pass
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        what = f"{text!r} is neither a duration (10s, 5m) nor a time (2026-01-31T12:00:00Z)"
        raise argparse.ArgumentTypeError(what) from None


def assignment(text: str) -> tuple[str, str]:
    """An `--env` option: K=V."""
    key, equals, value = text.partition("=")
    if not equals or not key or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return key, value


def renaming(text: str) -> tuple[str, str]:
    """A `--rename` option: OLD=NEW."""
    old, equals, new = text.partition("=")
    if not old or not equals or not new:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OLD=NEW")
    return old, new


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one call. Raises UsageError; `--help` and `--version` print and raise SystemExit(0)."""
    _check_command(arguments)
    parser, parsers = build()
    options, left = parser.parse_known_args(list(arguments))
    if left:
        raise _not_understood(left[0], parsers.get(options.command, parser))
    return options


def _not_understood(argument: str, parser: Parser) -> UsageError:
    if not argument.startswith("-"):
        return UsageError(f"{argument!r} is an unexpected argument", parser.prog)
    option = argument.partition("=")[0]
    near = nearest(option, parser.option_names()) if option.startswith("--") else None
    hint = f"; did you mean {near}?" if near else ""
    return UsageError(f"there is no option {option!r}{hint}", parser.prog)


def _check_command(arguments: Sequence[str]) -> None:
    """A better word than argparse has for a command that does not exist."""
    for argument in arguments:
        if argument.startswith("-"):
            continue
        if argument not in COMMANDS:
            near = nearest(argument, COMMANDS)
            known = ", ".join(COMMANDS)
            hint = f"did you mean `noderuntime {near}`?" if near else f"the commands are: {known}"
            if argument.endswith((".yml", ".yaml")):
                hint = f"did you mean `noderuntime run {argument}`?"
            raise UsageError(f"there is no command {argument!r}; {hint}")
        if argument in OPERATIONS:
            _check_operation(argument, arguments[arguments.index(argument) + 1 :])
        return


def _check_operation(command: str, arguments: Sequence[str]) -> None:
    known = OPERATIONS[command]
    for argument in arguments:
        if argument.startswith("-"):
            continue
        if argument not in known:
            near = nearest(argument, known)
            hint = f"did you mean `{command} {near}`?" if near else f"there are: {', '.join(known)}"
            raise UsageError(f"there is no `{command} {argument}`; {hint}", f"noderuntime {command}")
        return


def build() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the commands by name."""
    top = Parser(prog="noderuntime", description="The dataflow runtime you can kill.")
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    parsers: dict[str, Parser] = {
        name: commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        for name, about in COMMANDS.items()
    }

    run = parsers["run"]
    run.add_argument("file", metavar="FILE", help="the dataflow file")
    run.add_argument("-d", "--detach", action="store_true", help="return when it is up, and print its name")
    run.add_argument("--name", help="name of the run (default: the file's name without its ending)")
    about = "stop that long after all nodes are ready, such as 10s"
    run.add_argument("--stop-after", type=seconds, metavar="TIME", help=about)
    about = "continue the last run of this name, from what it left in memory or from its last snapshot"
    run.add_argument("--resume", action="store_true", help=about)
    run.add_argument(
        "--from", dest="from_snapshot", type=int, metavar="SNAPSHOT",
        help="continue from this snapshot (see `snapshot ls`)",
    )  # fmt: skip
    run.add_argument("--fresh", action="store_true", help="forget what an interrupted run of this name left")
    about = "with --resume: give up what a node that is no longer in FILE has; may be repeated"
    run.add_argument("--drop", action="append", default=[], metavar="NODE", help=about)
    about = "with --resume: the node OLD has the id NEW now; may be repeated"
    run.add_argument("--rename", type=renaming, action="append", default=[], metavar="OLD=NEW", help=about)
    _env(run, "a variable for all nodes, and for $K in the file; may be repeated")
    run.add_argument("--abort-on-failure", action="store_true", help="stop when a node fails for good")
    run.add_argument("--watch", action="store_true", help="reload operators when their files change")
    about = "kill a random child every TIME or so, and report how the run took it"
    run.add_argument("--chaos", type=seconds, metavar="TIME", help=about)
    run.add_argument("--seed", type=int, metavar="N", help="with --chaos: repeat the kills of an earlier run")
    _dora(run)
    about = "of a dora file: end nodes whose other inputs have ended although they have timers (or =false: do not)"
    run.add_argument(
        "--exit-when-nodes-finish", type=boolean, nargs="?", const=True, metavar="BOOL", help=about,
    )  # fmt: skip
    run.add_argument("--log-format", choices=("pretty", "json"), default="pretty", help="default: pretty")
    run.add_argument("--quiet", action="store_true", help="only what nodes print, warnings and errors")

    validate = parsers["validate"]
    validate.add_argument("file", metavar="FILE", help="the dataflow file")
    _dora(validate)
    _env(validate, "a variable for $K in the file; may be repeated")
    _json(validate)

    make = parsers["build"]
    make.add_argument("file", metavar="FILE", help="the dora file")
    make.add_argument("--uv", action="store_true", help="run `pip` commands as `uv pip`")
    _dora(make)
    _env(make, "a variable for all nodes; may be repeated")

    graph = parsers["graph"]
    graph.add_argument("file", metavar="FILE", help="the dataflow file")
    _dora(graph)
    _env(graph, "a variable for $K in the file; may be repeated")
    form = graph.add_mutually_exclusive_group()
    form.add_argument("--mermaid", action="store_true", help="Mermaid text on stdout (the default)")
    form.add_argument("--html", metavar="OUT", help="write one self-contained HTML page; - for stdout")
    form.add_argument("--json", action="store_true", help="nodes and edges as one JSON value on stdout")

    ps = parsers["ps"]
    ps.add_argument("run", metavar="RUN", nargs="?", help="show the nodes of this run instead")
    _run_option(ps)
    ps.add_argument("-a", "--all", action="store_true", help="those too that can be resumed or looked at")
    _json(ps)

    stop = parsers["stop"]
    stop.add_argument("run", metavar="RUN", nargs="?", help="may be left out when there is just one")
    _run_option(stop)
    stop.add_argument("--drain", action="store_true", help="let what has been sent be handled first")

    logs = parsers["logs"]
    logs.usage = "noderuntime logs [-h] [-f] [--tail N] [--since T] [--timestamps] [--runtime] [--json] [RUN] [NODE]"
    about = "RUN may be left out when there is just one; NODE: only this one"
    logs.add_argument("names", metavar="[RUN] [NODE]", nargs="*", help=about)
    _run_option(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="continue until the run has ended")
    logs.add_argument("--tail", type=count, metavar="N", help="only the last N records")
    about = "only what came since then: how long ago, such as 10m, or a time, such as 2026-01-31T12:00:00Z"
    logs.add_argument("--since", type=since, metavar="T", help=about)
    logs.add_argument("--timestamps", action="store_true", help="begin each line with its time (UTC)")
    logs.add_argument("--runtime", action="store_true", help="what the runtime itself decided, with times")
    _json(logs, "one JSON object per line, for programs")

    reload = parsers["reload"]
    reload.usage = "noderuntime reload [-h] [--run RUN] [RUN] NODE"
    _run_option(reload)
    about = "RUN may be left out when there is just one"
    reload.add_argument("names", metavar="[RUN] NODE", nargs="+", help=about)

    _build_apply(parsers["apply"])
    _build_scale(parsers["scale"])
    _build_node(parsers["node"])

    clean = parsers["clean"]
    clean.add_argument("run", metavar="RUN", nargs="?", help="only this one (default: all that are not running)")
    _run_option(clean)
    _json(clean)

    _build_state(parsers["state"])
    _build_snapshot(parsers["snapshot"])
    _build_letters(parsers["dead-letters"])

    _json(parsers["doctor"])

    demo = parsers["demo"]
    about = "how long it runs (default: 15s)"
    demo.add_argument("--stop-after", type=seconds, default=15.0, metavar="TIME", help=about)
    return top, parsers


def _build_apply(apply: Parser) -> None:
    apply.usage = (
        "noderuntime apply [-h] [--run RUN] [--dry-run] [--timeout T] [--discard] [--drop NODE] [--rename OLD=NEW] "
        "[--json] [RUN] FILE"
    )
    about = "RUN may be left out when there is just one; FILE: the dataflow file"
    apply.add_argument("names", metavar="[RUN] FILE", nargs="+", help=about)
    _run_option(apply)
    apply.add_argument("--dry-run", action="store_true", help="print the plan, and change nothing")
    about = "how long what is new or changed may take to be ready (default: 30s, or a longer start_timeout of it)"
    apply.add_argument("--timeout", type=time_limit, default=0.0, metavar="T", help=about)
    about = "drop what waits for removed nodes and inputs, instead of handling it first"
    apply.add_argument("--discard", action="store_true", help=about)
    about = "give up the state and the dead letters of a node that is removed; may be repeated"
    apply.add_argument("--drop", action="append", default=[], metavar="NODE", help=about)
    about = "the node OLD has the id NEW now; may be repeated"
    apply.add_argument("--rename", type=renaming, action="append", default=[], metavar="OLD=NEW", help=about)
    _json(apply)


def _build_scale(scale: Parser) -> None:
    scale.usage = "noderuntime scale [-h] [--run RUN] [--timeout T] [--json] [RUN] NODE N"
    about = "the run (default: the only one that is running), the node, and how many replicas it is to have: 1 to 256"
    scale.add_argument("names", metavar="[RUN] NODE N", nargs="+", help=about)
    _run_option(scale)
    about = "how long new replicas may take to be ready (default: 30s, or the longer start_timeout of the node)"
    scale.add_argument("--timeout", type=time_limit, default=0.0, metavar="T", help=about)
    _json(scale)


def _build_node(node: Parser) -> None:
    operations = node.add_subparsers(dest="operation", metavar="OPERATION", required=True, parser_class=Parser)
    for name, about in (
        ("ls", "list the nodes of a run"),
        ("info", "tell all about one node"),
        ("restart", "begin a new life of a node, with its state"),
        ("stop", "stop a node, which keeps its queue and its state"),
        ("start", "start a node that was stopped, or has failed"),
    ):
        operation = operations.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        words = "[RUN]" if name == "ls" else "[RUN] NODE"
        operation.usage = f"noderuntime node {name} [-h] [--run RUN] [--json] {words}"
        about = "RUN may be left out when there is just one"
        operation.add_argument("names", metavar=words, nargs="*" if name == "ls" else "+", help=about)
        _run_option(operation)
        _json(operation)


def _build_state(state: Parser) -> None:
    operations = state.add_subparsers(dest="operation", metavar="OPERATION", required=True, parser_class=Parser)
    for name, about in (
        ("ls", "list keys"), ("get", "print a value"), ("set", "write a value"), ("rm", "remove a key"),
        ("watch", "print changes as they happen"), ("diff", "print what has changed since a version"),
    ):  # fmt: skip
        operation = operations.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        operation.add_argument("--run", metavar="RUN", help="may be left out when there is just one")
        operation.add_argument("scope", metavar="SCOPE", help="`shared`, or the id of a node")
        if name == "ls":
            about = "only keys that start with it"
            operation.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help=about)
        elif name == "watch":
            about = "a key, or what keys start with"
            operation.add_argument("key", metavar="KEY", nargs="?", default="", help=about)
            operation.add_argument("--count", type=int, default=0, metavar="N", help="end after N changes")
        elif name == "diff":
            about = "without it, print the present one"
            operation.add_argument("since", metavar="VERSION", nargs="?", default="", help=about)
        else:
            operation.add_argument("key", metavar="KEY")
        if name == "get":
            form = operation.add_mutually_exclusive_group()
            form.add_argument("--raw", action="store_true", help="the bytes as they are")
            form.add_argument("--json", action="store_true", help=ONE_VALUE)
            about = "decode the value as MessagePack, whether it is marked so or not"
            operation.add_argument("--msgpack", action="store_true", help=about)
            continue
        if name == "set":
            about = "a value of the kind that the key has; text where there is no such key; - reads bytes from stdin"
            operation.add_argument("value", metavar="VALUE", help=about)
            form = operation.add_mutually_exclusive_group()
            form.add_argument("--json", action="store_true", help="VALUE is JSON, stored as MessagePack")
            form.add_argument("--text", action="store_true", help="VALUE is text, stored as UTF-8")
            form.add_argument("--hex", action="store_true", help="VALUE is bytes, in hexadecimal digits")
            about = "set the private state of an operator although it is running"
            operation.add_argument("--force", action="store_true", help=about)
            continue
        _json(operation, "one JSON object per line, for programs" if name == "watch" else ONE_VALUE)


def _build_snapshot(snapshot: Parser) -> None:
    operations = snapshot.add_subparsers(dest="operation", metavar="OPERATION", required=True, parser_class=Parser)
    for name, about in (
        ("take", "take one now, and wait until it is safe"), ("ls", "list them, the newest first"),
        ("verify", "read them, every byte, and say which are good"),
    ):  # fmt: skip
        operation = operations.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        operation.add_argument("--run", metavar="RUN", help="may be left out when there is just one")
        if name == "verify":
            operation.add_argument("snapshot", metavar="SNAPSHOT", nargs="?", type=int, help="only this one")
        _json(operation)


def _build_letters(letters: Parser) -> None:
    operations = letters.add_subparsers(dest="operation", metavar="OPERATION", required=True, parser_class=Parser)
    for name, about in (
        ("ls", "list them"),
        ("show", "show message, error and traceback"),
        ("replay", "hand them to the node once more, behind what waits already"),
        ("drop", "remove them for good"),
    ):
        operation = operations.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        operation.add_argument("--run", metavar="RUN", help="may be left out when there is just one")
        operation.add_argument(
            "--from", dest="from_snapshot", type=int, metavar="SNAPSHOT",
            help="those that an earlier run left, by the snapshot that holds them (`ls` names it)",
        )  # fmt: skip
        if name == "ls":
            operation.add_argument("node", metavar="NODE", nargs="?", default="", help="default: all nodes")
        else:
            operation.add_argument("node", metavar="NODE")
            operation.add_argument("uids", metavar="UID", nargs="*", help="only these (default: all of NODE)")
        _json(operation)


def _run_option(parser: Parser) -> None:
    parser.add_argument("--run", dest="given_run", metavar="RUN", help="the run, where a word may mean another thing")


def _env(parser: Parser, about: str) -> None:
    parser.add_argument("--env", type=assignment, action="append", default=[], metavar="K=V", help=about)


def _dora(parser: Parser) -> None:
    parser.add_argument("--dora", action="store_true", help="FILE is a dataflow of dora")
    about = "of a dora file: allow nodes that are shell commands (`path: shell`)"
    parser.add_argument("--allow-shell-nodes", action="store_true", help=about)


def _json(parser: Parser, about: str = ONE_VALUE) -> None:
    parser.add_argument("--json", action="store_true", help=about)
