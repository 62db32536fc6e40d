"""The pure part of bench/: samples, tables, plots, and the pages made of answers that were kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import render, shared
from bench.measure import (
    Plot,
    Row,
    Section,
    at_least,
    at_most,
    faster,
    missed,
    p50,
    p99,
    per_s,
    ratio_over_rounds,
    said,
    size,
    summary,
    table,
    times,
    us,
)
from bench.plots import svg
from bench.render import BEGIN, END, Answer, between_marks

LINES = {"ours": [(64, 1e5), (4e7, 2e6)], "dora": [(64, 2e5), (4e7, 1e8)]}
PLOT = Plot("Latency", "size", "p50", LINES, "size", "time")
SECTION = Section(
    "One hop",
    [
        Row("p50", "100 µs", "dora 500 µs", "5.00x faster", "at least 5x", True, headline="one hop, p50"),
        Row("p99", "300 µs", "dora 200 µs", "1.50x slower", "at least 1x", False),
        Row("of the peer that is not there", "1 µs", "other: not installed", "", "at least 1x", None),
    ],
    {"ours": [[1, 2, 3]]},
    ["a note"],
    {"latency": PLOT},
)
ANSWER = Answer(SECTION, "2026-01-02 03:04", "2 cores", 0.1, 5, 12.0)


def test_a_percentile_is_a_value_of_the_sample() -> None:
    assert (p50([3, 1, 2]), p99(range(100)), p50([7])) == (2, 99, 7)


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    assert ratio_over_rounds([1, 100, 3], [1, 10, 1]) == 3
    assert ratio_over_rounds([[1, 2, 9]], [[4, 4, 4]], p50) == 0.5


def test_a_peer_that_is_not_installed_is_named_and_reaches_nothing() -> None:
    assert ratio_over_rounds([1.0], None) is None
    assert said("dora", None, us) == "dora: not installed"
    assert (times(None), faster(None), at_least(None, 5), at_most(None, 5)) == ("", "", None, None)


def test_faster_says_which_way() -> None:
    assert (faster(2.0), faster(0.5)) == ("2.00x faster", "2.00x slower")


@pytest.mark.parametrize(
    ("value", "text"), [(1500, "1.50 µs"), (114_000, "114 µs"), (10_400_000, "10.4 ms"), (2e9, "2.0 s")]
)
def test_times_are_said_in_a_unit_that_fits(value: float, text: str) -> None:
    assert us(value) == text


def test_rates_and_sizes_are_said_in_units_that_fit() -> None:
    assert [per_s(rate) for rate in (950, 12_340, 130_000, 2_345_000)] == ["950/s", "12.3k/s", "130k/s", "2.35M/s"]
    assert [size(count) for count in (64, 1000, 64_000, 4e6, 2.5e9)] == ["64 B", "1 kB", "64 kB", "4 MB", "2.5 GB"]


def test_the_table_has_every_line_and_the_summary_those_with_a_headline() -> None:
    assert [line.count("|") for line in table([SECTION]).splitlines()] == [7] * 6
    lines = summary([SECTION]).splitlines()
    assert len(lines) == 3 and lines[2].split("|")[1].strip() == "one hop, p50"


def test_what_is_missed_is_what_was_not_reached_not_what_could_not_be_compared() -> None:
    assert missed([SECTION]) == ["One hop: p99"]


def test_an_answer_that_was_kept_is_the_same_afterwards() -> None:
    plain = json.loads(json.dumps(ANSWER.plain()))
    assert Answer.of(plain).plain() == json.loads(json.dumps(Answer.of(plain).plain())) == plain


def test_a_plot_is_well_formed_and_the_same_for_the_same_numbers() -> None:
    text = svg(PLOT)
    assert text == svg(PLOT) and len(text) < 60_000
    root = ElementTree.fromstring(text)
    shown = ["".join(item.itertext()) for item in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Latency", "ours", "dora", "100 µs", "1 kB"} <= set(shown)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("line", [[(1, 1)], [(1, 5), (2, 5)], [(3, 0.2), (4, 7e9)]])
def test_every_point_of_a_plot_lies_within_it(line: list[tuple[float, float]], log: bool) -> None:
    root = ElementTree.fromstring(svg(replace(PLOT, lines={"ours": line}, log_x=log, log_y=log)))
    marks = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(marks) == len(line)
    for mark in marks:
        assert 0 <= float(mark.get("cx", "-1")) <= 680 and 0 <= float(mark.get("cy", "-1")) <= 400


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between_marks(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="needs the lines"):
        between_marks("no marks", "new")


def test_pages_are_made_of_all_answers_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    places = {"ROOT": tmp_path, "BENCH": bench, "RESULTS": bench / "results", "PLOTS": tmp_path / "plots"}
    for name, path in places.items():
        monkeypatch.setattr(render, name, path)
    for folder in (tmp_path, bench):
        (folder / "README.md").write_text(f"# Title\n{BEGIN}\n{END}\n")
    render.keep("hop", ANSWER)
    render.keep("account", replace(ANSWER, section=replace(SECTION, title="Where the time goes", plots={})))
    assert render.render(["throughput", "hop", "account"]) == ["One hop: p99", "Where the time goes: p99"]
    page = (bench / "RESULTS.md").read_text()
    assert summary([SECTION, SECTION]) in page and "**Where the time goes**" in page
    assert "- One hop: a note" in page and "Not measured here: throughput." in page
    readme = (tmp_path / "README.md").read_text()
    assert summary([SECTION, SECTION]) in readme and "](docs/plots/latency.svg)" in readme
    assert "Where the time goes" in (bench / "README.md").read_text()
    assert (tmp_path / "plots" / "latency.svg").read_text() == svg(PLOT)


def test_operators_in_one_process_are_set_against_processes_of_their_own_and_bytewax() -> None:
    found = {
        "three": [60e3, 50e3], "three shared": [120e3, 150e3],
        "three, compiled": [80e3, 80e3], "three shared, compiled": [240e3, 200e3],
        "hop": [[8e3, 9e3, 11e3]], "each": [90e3], "bytewax each": [60e3], "batches, compiled": [1e6],
    }  # fmt: skip
    plain, compiled = shared.BUILDS
    assert [(row.ratio, row.reached) for row in shared.rows_of_three(found, plain)] == [("2.50x", False)]
    rows = shared.rows_of_three(found, compiled)
    assert [(row.ratio, row.reached) for row in rows] == [("4.00x", True), ("2.75x", None)]
    assert [bool(row.headline) for row in rows] == [True, False]
    assert [row.reached for row in shared.rows_of_hop(found, plain)] == [True, None]
    assert shared.rows_of_hop(found, compiled) == []
    (each,) = shared.rows_of_sums(found, plain)
    assert (each.ratio, each.reached) == ("1.50x", True)
    (batches,) = shared.rows_of_sums(found, compiled)
    assert "bytewax" in batches.peer and "not installed" in batches.peer
