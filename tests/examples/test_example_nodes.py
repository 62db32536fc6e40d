"""What the programs of the example dataflows compute, without running them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from noderuntime.dataflows import (
    ball_detector,
    ball_tracker,
    camera,
    host_probe,
    host_table,
    numbers_source,
    parity_sums,
    word_split,
    word_top,
)
from noderuntime.operators import running_statistics

from noderuntime import Source
from noderuntime.testing import Harness


def test_the_probe_reads_this_machine() -> None:
    probe = host_probe.Probe()
    assert not any(name.startswith(("disk", "net")) for name in probe.sample())  # no interval yet, so no rates
    sample = probe.sample()
    assert {"cpu", "cpu.0", "memory"} <= set(sample)
    assert all(0 <= sample[name] <= 100.001 for name in ("cpu", "cpu.0", "memory"))
    assert all(rate >= 0 for name, rate in sample.items() if name.startswith(("disk", "net")))


def test_a_process_is_named_by_its_program_and_on_one_line() -> None:
    assert host_probe.title("python3", ["/usr/bin/python3", "-u", "/srv/serve.py", "80"]) == "python3 serve.py"
    assert host_probe.title("python3", ["python3", "-P", "-c", "import x\nx.main()", "7"]) == "python3"
    assert host_probe.title("odd\x1b\nname", []) == "odd??name"


def test_the_probe_names_the_busiest_processes_first() -> None:
    found = host_probe.busiest(3)
    assert 1 <= len(found) <= 3
    assert [each["cpu"] for each in found] == sorted((each["cpu"] for each in found), reverse=True)
    assert set(found[0]) == {"pid", "name", "cpu", "memory"}


@pytest.mark.parametrize(
    ("command", "title"),
    [
        (["/usr/bin/python3", "-u", "/home/me/probe.py", "x"], "python3 probe.py"),
        (["python3", "-m", "http.server"], "python3 http.server"),
        (["python3"], "python3"),
        ([], "python3"),
    ],
)
def test_an_interpreter_is_called_by_its_program(command: list[str], title: str) -> None:
    assert host_probe.title("python3", command) == title
    assert host_probe.title("bash", command) == "bash"


def view_of(*samples: dict[str, float], **more: Any) -> host_table.View:
    h = Harness(running_statistics.Operator)
    for sample in samples:
        h.send("sample", sample)
    return host_table.View(metrics=h.outputs("statistics")[-1], **more)


FULL = view_of(
    {"cpu": 20, "cpu.0": 0, "cpu.1": 40, "memory": 50, "swap": 0, "net.in": 1e6, "net.out": 0},
    {"cpu": 80, "cpu.0": 60, "cpu.1": 100, "memory": 50, "swap": 0, "net.in": 3e6, "net.out": 0},
    processes=[{"pid": 4321, "name": "a-process-with-quite-a-long-name-" * 3, "cpu": 97.5, "memory": 123_456_789}],
    alarms={"memory": {"level": 90.0, "value": 93.2, "since": "2024-05-06T07:08:09+00:00"}},
)


@pytest.mark.parametrize("columns", [64, 80, 120, 200])
def test_the_table_keeps_within_the_terminal(columns: int) -> None:
    table = host_table.rows(FULL, columns)
    assert max(map(len, table)) <= columns


def test_the_table_says_what_matters() -> None:
    text = "\n".join(host_table.rows(FULL, 100, now=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)))
    for piece in ("2 samples", "07:08:09", "80.0 %", "2 cores", "3.0 MB", "ALARM  memory reached 90 %", "123.5 MB"):
        assert piece in text


def test_colours_are_painted_only_when_asked_for() -> None:
    plain = host_table.rows(FULL, 80)
    coloured = host_table.rows(FULL, 80, colour=True)
    assert "\x1b" not in "".join(plain)
    assert [re.sub("\x1b\\[[0-9;]*m", "", row) for row in coloured] == plain


def test_the_table_is_there_before_all_has_arrived() -> None:
    assert host_table.rows(host_table.View(), 80)
    assert "memory" in "\n".join(host_table.rows(view_of({"memory": 3}), 80))
    assert "cpu" in host_table.line(view_of({"memory": 3}))


def test_the_line_says_what_matters() -> None:
    line = host_table.line(FULL)
    assert line.startswith("cpu  26.0 % (mean 50.0, max 80.0) | memory 50.0 %")
    assert line.endswith("ALARM: memory")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B "), (999, "999 B "), (1000, "1.0 kB"), (999_600, "1.0 MB"), (1.5e9, "1.5 GB"), (2e15, "2000.0 TB")],
)
def test_amounts_are_short(count: float, text: str) -> None:
    assert host_table.amount(count) == text


def test_a_bar_is_exact_to_an_eighth_and_never_too_long() -> None:
    assert host_table.bar(0.5, 4) == "██  "
    assert host_table.bar(1 / 32, 4) == "▏   "
    assert host_table.bar(7.0, 4) == "████"
    assert host_table.bar(-1.0, 4) == "    "


def test_the_numbers_run_from_zero_to_the_last_whatever_crashes() -> None:
    h = Harness(numbers_source.Operator, config={"last": 5})
    while not h.ended:
        h.produce(crashes=1)
        h.crash()
    assert h.outputs("n") == [0, 1, 2, 3, 4, 5]


def test_the_numbers_can_pause() -> None:
    h = Harness(numbers_source.Operator, config={"last": 1, "pause_ms": 10})
    assert [h.produce() for _ in range(5)] == [Source.idle(0.01), 0, Source.idle(0.01), 1, Source.END]


def test_even_and_odd_numbers_are_summed_apart() -> None:
    h = Harness(parity_sums.parity_sums)
    for number in range(21):
        h.send("n", number)
    last = {sent.metadata["key"]: sent.value for sent in h.sent}
    assert last == {"even": 110, "odd": 100}


def test_words_are_split_and_counted() -> None:
    splits = Harness(word_split.Operator, outputs=["word"])
    splits.send("line", "The clerk's book, the BOOK — 3 café!")
    assert splits.outputs("word") == ["the", "clerk's", "book", "the", "book", "café"]
    counts = Harness(word_split.count, outputs=["count"])
    for word in splits.outputs("word"):
        counts.send("word", word)
        counts.crash()
    assert {sent.metadata["key"]: sent.value for sent in counts.sent} == {"the": 2, "clerk's": 1, "book": 2, "café": 1}


def test_the_top_words_come_in_order_and_none_is_no_error() -> None:
    table = word_top.table({"b": 4, "a": 4, "c": 9, "d": 1}, most=3)
    assert [line.split()[:2] for line in table[:3]] == [["c", "9"], ["a", "4"], ["b", "4"]]
    assert table[3] == "18 words, 4 different ones"
    assert word_top.table({}, most=3) == ["0 words, 0 different ones"]


def test_the_detector_finds_the_ball_and_the_tracker_follows_it_through_crashes() -> None:
    noise = np.random.default_rng(1)
    detector = Harness(ball_detector.Operator, outputs=["detection"])
    tracker = Harness(ball_tracker.Operator, outputs=["track"])
    for number in range(60):
        picture = camera.frame(number / 30, 320, 240, noise)
        detector.send("frame", picture, {"frame": number, "taken": detector.now})
        tracker.send("detection", detector.outputs("detection")[-1], crashes=number % 7 == 0)
        tracker.crash()
        detector.advance(1 / 30)
    found = detector.outputs("detection")[0]
    assert (found["x"], found["y"]) == (pytest.approx(272, abs=1), pytest.approx(120, abs=1))
    track = tracker.outputs("track")[-1]
    assert track["frames"] == 60
    assert (track["x"], track["y"]) == (pytest.approx(48, abs=4), pytest.approx(120, abs=10))
    assert track["speed"] == pytest.approx(2 * np.pi * 0.35 * 240 / camera.TURN_S, rel=0.1)


def test_a_frame_without_a_ball_is_passed_over() -> None:
    h = Harness(ball_detector.Operator)
    h.send("frame", np.zeros((4, 4), np.uint8), {"frame": 0})
    assert h.sent == []
