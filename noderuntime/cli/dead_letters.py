"""`dead-letters ls|show|replay|drop`: messages that an operator failed on `max_attempts` times.

The command works on live, interrupted and ended runs (see offline.py). What is replayed into a run that is not running
is handled by its `run --resume`. What a run has left that others have followed is in its last snapshot, which is kept
for that; `--from` names it, and `ls` says with which number. What is replayed there is handled by `run --from`. A run
that keeps no snapshots writes the dead letters that it ends with beside its logs; from there they, and those of the
runs before it, can be listed, shown and dropped, but not replayed.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from noderuntime.cli import output
from noderuntime.cli.choose import RUNNING, LoggedRun, choose_logs, ended_runs
from noderuntime.cli.offline import Change, Ended, choose_kept, choose_snapshot, left_unsettled, open_store
from noderuntime.cli.output import CommandError
from noderuntime.cli.text import duration, plain
from noderuntime.errors import NotRunning, StoreError
from noderuntime.ipc import runs
from noderuntime.ipc.rundir import RunDir, letters_file
from noderuntime.ipc.runs import Run, RunFile
from noderuntime.ipc.store_records import Dropped, Figures, Letters, Replayed, ShownLetters, result
from noderuntime.snapshot.format import REPLAYED
from noderuntime.snapshot.retention import by_node, letters_at, letters_by_node
from noderuntime.snapshot.settings import Settings

DeadLetter = Mapping[str, Any]  # a record of the store's, or what was kept of one beside the logs

_VALUE_CHARACTERS_MAX = 2000


def dead_letters(options: Namespace) -> int:
    """Carry out one `dead-letters` command."""
    run: Run | Ended
    if options.from_snapshot is not None:
        run = choose_snapshot(options.run, options.from_snapshot, options.operation)
    else:
        try:
            run = choose_kept(options.run)
        except NotRunning as gone:
            logged = _ended_run(options, gone)
            try:
                run = choose_kept(logged.name)  # there are several; this one may have a snapshot
            except NotRunning:
                return _of_ended_run(logged, options)
    if options.operation in ("replay", "drop"):
        return _change(run, options)
    all_runs = options.operation == "ls" and options.from_snapshot is None
    run_id = None
    with open_store(run, options.operation) as store:
        found: Letters | ShownLetters
        if options.operation == "ls":
            found = store.request("letters_ls", {"node": options.node}, result(Letters))
        else:
            arguments = {"node": options.node, "uids": options.uids}
            found = store.request("letters_show", arguments, result(ShownLetters))
        if all_runs and isinstance(run, Run):
            run_id = store.request("figures", {}, result(Figures))["run_id"]
    code = _present(options, found["letters"], found["left_out"])
    if all_runs:
        settings = run.settings if isinstance(run, Ended) else Settings.read(run.run_dir.snapshots_file)
        if settings is not None and settings.enabled:
            _tell_earlier(settings, run_id)
        elif isinstance(run, Run):
            _tell_copies(Path(run.file.log_dir), run_id)
    return code


def _change(run: Run | Ended, options: Namespace) -> int:
    change = Change()
    with open_store(run, options.operation, change) as store:
        arguments = {"node": options.node, "uids": options.uids}
        if options.operation == "replay":
            count = store.request("letters_replay", arguments, result(Replayed))["replayed"]
        else:
            count = store.request("letters_drop", arguments, result(Dropped))["dropped"]
        change.made = count > 0
        run_id = store.request("figures", {}, result(Figures))["run_id"] if change.made else ""
    earlier = isinstance(run, Ended) and run.earlier
    if change.made and not earlier:
        for logged in runs.log_folders(run.name, os.environ):  # while it runs, too: of a life before it was resumed
            _remove_kept(logged, options, run_id)
        if options.operation == "replay" and isinstance(run, Ended) and run.last.finished:
            _mark_resumable(run)
    if options.operation == "replay":
        return _replayed(run, options, count, change.snapshot)
    return _dropped(options, count)


def _replayed(run: Run | Ended, options: Namespace, count: int, snapshot: int) -> int:
    earlier = isinstance(run, Ended) and run.earlier
    if options.json:
        plain_result = {"node": options.node, "replayed": count}
        output.result_json({**plain_result, "snapshot": snapshot} if earlier and count else plain_result)
    elif not count:
        output.tell(_nothing(options))
    else:
        where = f"{letters_text(count)} back in the mailbox of {options.node}"
        if isinstance(run, Ended) and run.earlier:
            output.tell(f"{where}, in snapshot {snapshot}: {_continue_from(run.settings, snapshot)} handles what waits")
        else:
            when = "" if run.state == RUNNING else f" once {run.name} is resumed"
            output.tell(f"{where}, to be handled behind what waits there{when}")
    return output.OK


def _continue_from(settings: Settings, snapshot: int) -> str:
    """The command that continues an earlier run."""
    return runs.continue_command(settings.run, settings.file or "FILE", f"--from {snapshot}")


def _dropped(options: Namespace, count: int) -> int:
    if options.json:
        output.result_json({"node": options.node, "dropped": count})
    else:
        output.tell(f"{letters_text(count)} dropped" if count else _nothing(options))
    return output.OK


def _nothing(options: Namespace) -> str:
    return f"{options.node} has no dead letters: nothing was changed"


def _tell_earlier(settings: Settings, run_id: str | None) -> None:
    """What the runs before this one have left, and where it is. `run_id`: of this one, None if it has ended."""
    try:
        left = left_unsettled(settings, run_id)
    except StoreError as error:
        output.tell(f"whether earlier runs left dead letters cannot be seen: {error}")
        return
    for manifest in left:
        if letters_at(manifest) or not manifest.aside:
            output.tell(
                f"an earlier run left dead letters ({letters_by_node(manifest)}): "
                f"`noderuntime dead-letters ls --run {quote(settings.run)} --from {manifest.number}`"
            )
        if manifest.why == REPLAYED:
            command = _continue_from(settings, manifest.number)
            output.tell(f"messages of an earlier run were put back: {command} handles them")


def _tell_copies(log_dir: Path, run_id: str | None) -> None:
    """What runs before this one have left, where no snapshots are kept: nothing but the copies beside their logs."""
    found = Counter(letter["node"] for letter in _kept_of(log_dir) if letter.get("run_id") != run_id)
    if found:
        output.tell(f"earlier runs left dead letters ({by_node(found)}): shown by this command when the run has ended")


def _present(options: Namespace, letters: Sequence[DeadLetter], left_out: int) -> int:
    if options.json:
        output.result_json([json_letter(letter) for letter in letters])
    elif not letters:
        output.tell(f"{options.node or 'this run'} has no dead letters")
    elif options.operation == "ls":
        now_s = time.time()
        head = ("NODE", "UID", "INPUT", "ATTEMPTS", "BURIED", "ERROR")
        output.result_table(head, [_row(letter, now_s) for letter in letters])
    else:
        for number, letter in enumerate(letters):
            output.result(("\n" if number else "") + "\n".join(_page(letter)))
    if left_out:
        output.tell(f"{left_out} more are not shown; name some by their UID, or drop some")
    return output.OK


def _row(letter: DeadLetter, now_s: float) -> tuple[object, ...]:
    ago = f"{duration(now_s - letter['buried_ns'] / 1e9)} ago"
    return letter["node"], letter["uid"], letter["input"], letter["attempts"], ago, plain(letter["error"])


def _page(letter: DeadLetter) -> list[str]:
    """One dead letter in full, for people."""
    buried = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter["buried_ns"] / 1e9))
    title = f"{letter['uid']} for {letter['node']}, input {letter['input']}"
    lines = [output.paint(title, output.BOLD, sys.stdout)]
    lines.append(f"  buried    {buried}, after {letter['attempts']} attempt{'' if letter['attempts'] == 1 else 's'}")
    lines.append(f"  error     {plain(letter['error'])}")
    lines.append(f"  value     {_short(letter['value'])}")
    if letter["metadata"]:
        lines.append(f"  metadata  {_short(letter['metadata'])}")
    if letter["trace"]:
        lines.append(textwrap.indent("\n".join(plain(line) for line in letter["trace"].splitlines()), "  │ "))
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = plain(text.replace("\n", "\\n"))
    if len(text) > _VALUE_CHARACTERS_MAX:
        return f"{text[:_VALUE_CHARACTERS_MAX]}… ({len(text)} characters; --json has them all)"
    return text


def json_letter(letter: DeadLetter) -> DeadLetter:
    """A dead letter for programs: `buried` in seconds since the epoch, as in all our JSON."""
    plain_letter = {key: value for key, value in letter.items() if key != "buried_ns"}
    return {**plain_letter, "buried": round(letter["buried_ns"] / 1e9, 6)}


def letters_text(count: int) -> str:
    return "1 dead letter is" if count == 1 else f"{count} dead letters are"


def _of_ended_run(logged: LoggedRun, options: Namespace) -> int:
    """The run has ended without a snapshot: its dead letters, and those of runs before it, are beside their logs."""
    if options.operation == "replay":
        raise CommandError(
            f"the run {logged.name!r} has ended and kept no snapshot: its dead letters can be looked at, and dropped",
            output.NO_SUCH_RUN,
        )
    letters = _kept_of(logged.log_dir)
    nodes = {letter["node"] for letter in letters}
    if options.node and options.node not in {*nodes, *logged.nodes()}:
        raise CommandError(f"the runs of {logged.name!r} left no dead letters of a node {options.node!r}")
    chosen = [letter for letter in letters if options.node in ("", letter["node"])]
    if options.operation != "ls" and options.uids:
        chosen = [letter for letter in chosen if letter["uid"] in options.uids]
    if options.operation == "drop":
        for folder in _log_dirs(logged.log_dir):
            _remove_kept(folder, options)
        return _dropped(options, len(chosen))
    return _present(options, chosen, 0)


def _ended_run(options: Namespace, gone: NotRunning) -> LoggedRun:
    """The run that was named, else the last to start among those that had the node. Its name is then printed, as the
    user did not choose it. Raises `gone` if there is none."""
    try:
        return _last_ended_run(options)
    except NotRunning:
        raise gone from None


def _last_ended_run(options: Namespace) -> LoggedRun:
    if options.run is not None:
        return choose_logs((), options.run)[0]
    left = {run: {letter["node"] for letter in _kept_of(run.log_dir)} for run in ended_runs()}
    known = [run for run, nodes in left.items() if (options.node in {*nodes, *run.nodes()} if options.node else nodes)]
    if not known:
        return choose_logs((), None)[0]
    others = [run.name for run in known[1:]]
    also = f"; {', '.join(others)} had {'it' if options.node else 'some'} too: name one with --run" if others else ""
    output.tell(f"of the last run of {known[0].name!r}, which has ended{also}")
    return known[0]


def _kept_of(log_dir: Path) -> list[DeadLetter]:
    """Those beside these logs, and beside those of the other runs of the same dataflow file.

    A run that failed, was resumed and has ended again has left its dead letters twice; each is here once.
    """
    found: dict[tuple[object, ...], DeadLetter] = {}
    for folder in _log_dirs(log_dir):
        for letter in _kept(folder):  # copies of earlier versions do not say whose they are
            found.setdefault((letter.get("run_id", folder), letter["node"], letter["uid"]), letter)
    return list(found.values())


def _log_dirs(log_dir: Path) -> list[Path]:
    """The log folders of a run and of those of the same dataflow file, the newest first."""
    return runs.newest_first(log_dir.parent.glob("*"))


def _kept(log_dir: Path) -> list[DeadLetter]:
    try:
        found = json.loads(letters_file(log_dir).read_text())
    except (OSError, ValueError):
        return []
    return [letter for letter in found if isinstance(letter, dict)] if isinstance(found, list) else []


def _mark_resumable(run: Ended) -> None:
    """The finished run has a message to handle again, so `ps -a` must show it as resumable."""
    for folder in runs.log_folders(run.name, os.environ):
        logs = RunDir(folder)
        file = RunFile.read(logs)
        if file is not None:
            replace(file, ended="stopped").write(logs)
            return


def _remove_kept(log_dir: Path, options: Namespace, run_id: str = "") -> None:
    """Remove replayed or dropped dead letters from the file beside the logs.

    `run_id`: only those of this run. Copies of earlier versions do not say whose they are.
    """
    letters = _kept(log_dir)
    left = [
        letter
        for letter in letters
        if letter["node"] != options.node
        or (options.uids and letter["uid"] not in options.uids)
        or (run_id and letter.get("run_id", run_id) != run_id)
    ]
    file = letters_file(log_dir)
    if not left:
        file.unlink(missing_ok=True)
    elif len(left) < len(letters):
        changed = file.with_suffix(".new")
        changed.write_text(json.dumps(left, ensure_ascii=False), errors="replace")
        changed.rename(file)
