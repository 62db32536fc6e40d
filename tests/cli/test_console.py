"""The console: what people and programs see of a run, on files, pipes and terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from noderuntime.cli.console import Console, JsonConsole, Waiting, log_text, summary_table
from noderuntime.cli.terminal import QUEUE_CHARACTERS_MAX, BackgroundWriter
from noderuntime.runtime.observer import LogRecord, SummaryRow

FRAME = "\x1b[2J"
ROWS = [
    SummaryRow("numbers", "finished", 0, 100, ""),
    SummaryRow("sum", "failed", 3, 42, "ValueError: no\nsecond line"),
]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[TextIO, TextIO]]:
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        yield out, err


def read(file: TextIO) -> list[str]:
    file.seek(0)
    return file.read().splitlines()


class Terminal:
    """A pty; `text` is all that was written to it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.file = open(slave, "w")  # noqa: SIM115

    def text(self) -> str:
        """Reads up to a mark: what was written to a pty arrives at its other end a little later."""
        os.write(self.file.fileno(), b"\0")
        read = b""
        while not read.endswith(b"\0"):
            read += os.read(self.master, 1 << 16)
        return read[:-1].decode()

    def close(self) -> None:
        self.file.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    made.close()


def test_lines_carry_aligned_names_and_go_where_the_node_wrote_them(files: tuple[TextIO, TextIO]) -> None:
    console = Console(["a", "counter-of-things"], *files)
    console.start()
    console.line("a", "stdout", "one")
    console.line("counter-of-things", "stdout", "two")
    console.line("a", "stderr", "oh")
    console.status("a: restarted")
    console.close()
    assert read(files[0]) == ["a                 │ one", "counter-of-things │ two"]
    assert read(files[1]) == ["a                 │ oh", "noderuntime       │ a: restarted"]


def test_without_a_terminal_nothing_is_coloured_and_frames_are_lines(files: tuple[TextIO, TextIO]) -> None:
    console = Console(["a"], *files)
    console.start()
    console.line("a", "stdout", f"{FRAME}\x1b[1mcpu\x1b[0m 3 %\rmem 4 %")
    console.crash("a", "on_event", "ValueError: no", "Traceback\n  File x\nValueError: no\n")
    console.summary(ROWS)  # of other nodes
    console.close()
    assert read(files[0]) == ["a           │ cpu 3 %", "a           │ mem 4 %"]
    assert read(files[1]) == [
        "a           │ failed in on_event: ValueError: no",
        "a           │   Traceback",
        "a           │     File x",
        "node     state     restarts  messages  reason",
        "numbers  finished         0       100",
        "sum      failed           3        42  ValueError: no",
    ]
    assert console.terminal == ""


def test_what_a_node_writes_reaches_a_file_unchanged(files: tuple[TextIO, TextIO]) -> None:
    console = Console(["a"], *files)
    console.start()
    console.line("a", "stdout", "\x1b[31mred\x1b[0m\ttab")
    console.close()
    assert read(files[0]) == ["a           │ \x1b[31mred\x1b[0m\ttab"]


def test_quiet_leaves_what_nodes_print_warnings_and_errors(files: tuple[TextIO, TextIO]) -> None:
    console = Console(["a"], *files, quiet=True)
    console.start()
    console.status("a: restarted")
    console.status("b failed for good", 40)
    console.waiting(["a"])
    console.line("a", "stdout", "one")
    console.log(LogRecord(0.0, "a", 20, "hello", {}))
    console.log(LogRecord(0.0, "a", 30, "careful", {"n": 3}))
    console.summary(ROWS[:1])
    console.close()
    assert read(files[0]) == ["a           │ one"]
    assert read(files[1]) == ["noderuntime │ b failed for good", "a           │ WARNING careful  n=3"]


def test_quiet_still_tells_what_failed(files: tuple[TextIO, TextIO]) -> None:
    console = Console(["a"], *files, quiet=True)
    console.start()
    console.summary(ROWS)
    console.close()
    assert "failed" in "".join(read(files[1]))


def test_the_end_names_cause_and_traceback_of_what_failed(files: tuple[TextIO, TextIO]) -> None:
    console = Console(["sum"], *files)
    console.start()
    console.crash("sum", "on_event", "ValueError: no", "Traceback\nValueError: no")
    console.line("sum", "stderr", "something else")
    console.summary(ROWS)
    console.close()
    assert read(files[1])[-5:-3] == [
        "sum         │ failed in on_event: ValueError: no",
        "sum         │   Traceback",
    ]


def test_json_is_one_object_a_line_all_on_stdout(files: tuple[TextIO, TextIO]) -> None:
    console = JsonConsole(["a"], *files, clock=lambda: 5.0)
    console.start()
    console.waiting(["a"])
    console.started()
    console.line("a", "stdout", "one")
    console.line("a", "stderr", "two\x1b[0m")
    console.log(LogRecord(4.0, "a", 30, "careful", {"n": 3}))
    console.status("stopping")
    console.crash("a", "init", "ValueError: no", "trace")
    console.summary(ROWS[:1])
    console.close()
    said: list[dict[str, Any]] = [json.loads(line) for line in read(files[0])]
    assert [item["stream"] for item in said] == [
        "waiting", "started", "stdout", "stderr", "log", "status", "crash", "summary",
    ]  # fmt: skip
    assert said[5] == {"time": 5.0, "node": "", "stream": "status", "text": "stopping", "level": 20}
    assert said[2] == {"time": 5.0, "node": "a", "stream": "stdout", "text": "one"}
    assert said[4] == {
        "time": 4.0, "node": "a", "stream": "log", "level": 30, "text": "careful", "fields": {"n": 3},
    }  # fmt: skip
    assert said[6]["trace"] == "trace"
    assert said[7]["nodes"][0] == {
        "node": "numbers", "state": "finished", "restarts": 0, "messages": 100, "reason": "",
        "dropped": 0, "dead_letters": 0,
    }  # fmt: skip
    assert read(files[1]) == []


def test_on_a_terminal_each_node_has_its_colour(terminal: Terminal) -> None:
    console = Console(["a", "b"], terminal.file, terminal.file)
    console.start()
    console.line("a", "stdout", "one\x1b[H")
    console.line("b", "stdout", "two")
    console.close()
    text = terminal.text()
    assert "\x1b[36ma           │ \x1b[0mone\n" in text
    assert "\x1b[33mb           │ \x1b[0mtwo\n" in text


def test_no_color_is_honoured_on_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(["a"], terminal.file, terminal.file)
    console.start()
    console.line("a", "stdout", "one")
    console.summary(ROWS)
    console.close()
    assert "\x1b" not in terminal.text()


def test_the_newest_frame_stays_on_the_screen_above_the_summary(terminal: Terminal) -> None:
    console = Console(["a"], terminal.file, terminal.file)
    console.start()
    assert console.terminal == "80x24"
    console.line("a", "stdout", f"{FRAME}old")
    console.line("a", "stdout", f"{FRAME}new\rrow")
    console.summary(ROWS)
    console.close()
    text = terminal.text()
    assert "new\x1b[K\nrow\x1b[K\n" in text
    assert text.index("row\x1b[K") < text.index("numbers")
    assert "\x1b[2J" not in text
    between = text[text.index("row\x1b[K") :].partition("node")[0]
    assert "A" not in between, "the cursor must not go up again"


def test_frames_of_several_nodes_stand_in_the_order_of_the_file_with_their_names(terminal: Terminal) -> None:
    console = Console(["a", "b"], terminal.file, terminal.file)
    console.start()
    console.line("b", "stdout", f"{FRAME}second")
    console.line("a", "stdout", f"{FRAME}first")
    console.summary([])
    console.close()
    text = terminal.text()
    last = text[text.rindex("── a") :]
    assert last.index("first") < last.index("── b") < last.index("second")


def test_start_up_shows_on_a_terminal_what_it_waits_for(terminal: Terminal) -> None:
    waiting = Waiting()
    assert waiting.row(0.0) == ""
    waiting.set(["a", "b"])
    assert waiting.row(10.0).endswith("waiting for a, b (0s)")
    assert waiting.row(12.0).endswith("waiting for a, b (2s)")
    waiting.set([])
    assert waiting.row(13.0) == ""


def test_elsewhere_start_up_says_it_after_a_while_and_then_rarely() -> None:
    waiting = Waiting()
    waiting.set([f"n{number}" for number in range(7)])
    assert waiting.line(100.0) == ""
    assert waiting.line(101.9) == ""
    assert waiting.line(102.0) == "waiting for n0, n1, n2, n3, n4 and 2 more"
    assert waiting.line(111.9) == ""
    waiting.set(["n6"])
    assert waiting.line(112.0) == "waiting for n6"


def test_a_reader_that_went_away_is_told_once_and_writing_goes_on_silently() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told: list[bool] = []
    with open(writer, "w") as out, open(os.devnull, "w") as err:
        console = Console(["a"], out, err, broken=lambda: told.append(True))
        console.start()
        console.line("a", "stdout", "one")
        console.line("a", "stdout", "two")
        console.close()
        assert console.out_is_gone
    assert told == [True]


def test_a_full_disk_below_stdout_is_told_on_stderr_and_harms_nobody(tmp_path: Path) -> None:
    with open("/dev/full", "w") as out, (tmp_path / "err").open("w+") as err:
        console = Console(["a"], out, err)
        console.start()
        console.line("a", "stdout", "one")
        console.line("a", "stdout", "two")
        console.close()
        assert not console.out_is_gone
        (told,) = read(err)
    assert "No space left on device" in told


def test_a_reader_that_does_not_read_holds_nobody_up_and_learns_how_much_it_missed() -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as out, open(reader) as stuck:
        line = "x" * 1_000_000
        console = Console(["a"], out, out)
        console.start()
        for _ in range(QUEUE_CHARACTERS_MAX // len(line) + 5):
            console.line("a", "stdout", line)  # returns although nobody reads
        assert console.congested
        while console.congested:
            if select.select([stuck], [], [], 0.01)[0]:
                os.read(stuck.fileno(), 1 << 20)
        console.line("a", "stdout", "last")
        end = b""
        while b"last" not in end:
            end = end[-1000:] + os.read(stuck.fileno(), 1 << 20)
        console.close()
    assert b"lines were not shown here" in end


def test_nothing_is_written_before_the_start(files: tuple[TextIO, TextIO]) -> None:
    writer = BackgroundWriter(*files)
    writer.write("early")
    assert read(files[0]) == []
    writer.start()
    writer.close()
    assert read(files[0]) == ["early"]


def test_a_summary_colours_the_state_even_of_a_node_that_is_named_like_one() -> None:
    rows = [SummaryRow("failed", "failed", 0, 0, "")]
    assert summary_table(rows, coloured=True)[1].startswith("failed  \x1b[31mfailed\x1b[0m")


def test_log_records_show_their_fields() -> None:
    record = LogRecord(0.0, "a", 40, "no room", {"logger": "a", "used": 3, "size": 4})
    assert log_text(record) == "ERROR no room  used=3 size=4"
