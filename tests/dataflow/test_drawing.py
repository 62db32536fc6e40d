"""graph.py and graph_layout.py: pictures of a dataflow, and where their parts go."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest

from noderuntime.dataflow.drawing import html, mermaid
from noderuntime.dataflow.drawing_layout import COLUMN_GAP, ROW_GAP, Box, Line, layout
from noderuntime.dataflow.reader import parse

FLOW = parse(
    """
nodes:
  - {id: camera, path: camera.py, args: --device 0, outputs: [frame]}
  - {id: hand, path: dynamic, outputs: [mark]}
  - id: tracker
    operator: {python: track.py:Tracker, outputs: [tracks, again]}
    inputs: {image: camera/frame, mark: {source: hand/mark, queue_policy: drop_oldest}, tick: timer/hz/30}
  - {id: sink, operator: {module: pkg.sink}, inputs: {tracks: tracker/tracks, frame: camera/frame, t: timer/hz/30}}
  - {id: loop, path: l.py, outputs: [o], inputs: {i: {source: tracker/again, queue_policy: drop_oldest}}}
  - {id: self, path: s.py, outputs: [o], inputs: {i: {source: self/o, queue_policy: drop_oldest}}}
""",
    file="flows/flow.yml",
)


def svg(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


def test_mermaid_names_every_node_and_connection() -> None:
    lines = mermaid(FLOW).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  n0(["<b>camera</b><br/>camera.py --device 0"]):::node' in lines
    assert '  n1{{"<b>hand</b><br/>started by hand"}}:::dynamic' in lines
    assert '  n2["<b>tracker</b><br/>track.py:Tracker"]:::operator' in lines
    assert '  n0 -->|"frame → image"| n2' in lines
    assert '  n1 -.->|"mark"| n2' in lines
    assert '  t0 -->|"tick"| n2' in lines
    assert sum("30 Hz" in line for line in lines) == 1


def test_mermaid_cannot_be_broken_by_what_a_file_says() -> None:
    flow = parse("nodes: [{id: a, path: 'x\"];<script>&`#.py'}]")
    shown = mermaid(flow).splitlines()[1]
    assert shown == '  n0(["<b>a</b><br/>x#34;]#59;#60;script#62;#38;#96;#35;.py"]):::node'


def test_the_page_needs_no_network() -> None:
    page = html(FLOW)
    assert not re.search(r"""(\bsrc\s*=|href|@import|url\(|fetch\(|<link|<img)""", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page


def test_the_page_is_well_formed_and_shows_every_node_port_and_connection() -> None:
    page = html(FLOW)
    drawn = svg(page)
    space = "{http://www.w3.org/2000/svg}"
    shown = [text.text for text in drawn.iter(f"{space}text")]
    for wanted in ("camera", "camera.py --device 0", "tracker", "track.py:Tracker", "image", "tick", "30 Hz", "again"):
        assert wanted in shown
    edges = [path for path in drawn.iter(f"{space}path") if path.get("data-from")]
    assert len(edges) == 6
    assert sum("drops" in (edge.get("class") or "") for edge in edges) == 3
    HTMLParser().feed(page)
    assert "2 operators · 3 custom nodes · 1 dynamic node · 6 connections" in page


def test_the_page_cannot_be_broken_by_what_a_file_says() -> None:
    text = "nodes: [{id: a, path: '</svg><script>alert(1)</script>\"@SVG@'}]"
    page = html(parse(text, file='x/@STYLE@<b>"&.yml'))
    assert page.count("<script>") == 1
    assert "<title>@STYLE@&lt;b&gt;&quot;&amp;.yml</title>" in page
    svg(page)


def test_a_dataflow_without_connections_is_drawn_too() -> None:
    assert "1 custom node" in html(parse("nodes: [{id: a, path: a.py}]"))


def test_an_empty_drawing_has_no_size() -> None:
    assert layout([], []) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_never_overlap_and_lines_join_their_ports(seed: int) -> None:
    chance = random.Random(seed)
    boxes = [Box(chance.uniform(100, 300), chance.uniform(60, 200)) for _ in range(20)]
    lines = [Line(chance.randrange(20), chance.randrange(20), 30.0, 40.0) for _ in range(35)]
    width, height = layout(boxes, lines)
    for one, other in combinations(boxes, 2):
        beside = one.x + one.width <= other.x - COLUMN_GAP + 0.01 or other.x + other.width <= one.x - COLUMN_GAP + 0.01
        above = one.y + one.height <= other.y - ROW_GAP + 0.01 or other.y + other.height <= one.y - ROW_GAP + 0.01
        assert beside or above
    for line in lines:
        start, end = boxes[line.start], boxes[line.end]
        assert line.points[0] == (start.x + start.width, start.y + 30.0)
        assert line.points[-1] == (end.x, end.y + 40.0)
        if not line.back:
            assert all(left[0] <= right[0] for left, right in pairwise(line.points))
            assert start.column < end.column
    assert all(box.x >= 0 and box.x + box.width <= width + 0.01 for box in boxes)
    assert all(box.y >= 0 and box.y + box.height <= height + 0.01 for box in boxes)


def test_a_chain_is_drawn_as_a_straight_line() -> None:
    boxes = [Box(100, 80) for _ in range(4)]
    lines = [Line(i, i + 1, 65.0, 65.0) for i in range(3)]
    layout(boxes, lines)
    assert len({box.y for box in boxes}) == 1
    assert [box.column for box in boxes] == [0, 1, 2, 3]


def test_thousands_of_boxes_are_placed_at_once() -> None:
    count = 3000
    boxes = [Box(100, 80) for _ in range(count)]
    lines = [Line(i, i + 1, 1.0, 1.0) for i in range(count - 1)] + [Line(0, i, 1.0, 1.0) for i in range(2, count)]
    layout(boxes, lines)
    assert boxes[-1].column == count - 1


SHARED = parse(
    """
nodes:
  - {id: feed, path: feed.py, outputs: [line]}
  - {id: parse, process: fast, operator: {python: p.py, outputs: [n]}, inputs: {line: feed/line}}
  - {id: keep, operator: {python: k.py}, inputs: {n: parse/n}}
  - {id: sum, process: fast, operator: {python: s.py, outputs: [again]}, inputs: {n: parse/n}}
  - {id: back, process: fast, operator: {python: b.py}, inputs: {n: {source: sum/again, queue_policy: drop_oldest}}}
  - {id: alone, process: single, operator: {python: a.py}, inputs: {n: parse/n}}
"""
)


def test_mermaid_frames_the_operators_of_a_process() -> None:
    lines = mermaid(SHARED).splitlines()
    start, end = lines.index('  subgraph p1["process fast"]'), lines.index("  end")
    framed = [re.sub(r".*<b>(\w+)</b>.*", r"\1", line) for line in lines[start + 1 : end]]
    assert framed == ["parse", "sum", "back"]
    assert lines[end + 1] == "  class p1 process" and sum(line.lstrip().startswith("subgraph") for line in lines) == 1
    assert any(line.startswith("  classDef process") for line in lines)
    assert "subgraph" not in mermaid(FLOW) and "process" not in mermaid(FLOW)


def test_the_page_names_the_process_of_each_operator_that_shares_one() -> None:
    page = html(SHARED)
    space = "{http://www.w3.org/2000/svg}"
    items = {item.get("data-id"): item for item in svg(page).iter(f"{space}g") if item.get("data-id")}
    shown = {id: [text.text for text in item.iter(f"{space}text")] for id, item in items.items()}
    assert [id for id, texts in shown.items() if "process fast" in texts] == ["parse", "sum", "back"]
    assert not any("process single" in texts for texts in shown.values()), "nobody shares it"
    assert "process fast: parse, sum, back" in (items["sum"].findtext(f"{space}title") or "")
    told = {edge.findtext(f"{space}title") for edge in svg(page).iter(f"{space}path") if edge.get("data-from")}
    assert "parse/n → sum/n: handled in the transaction of the event that sends it" in told
    assert any("sum/again → back/n: drops the oldest" in (title or "") for title in told)
    assert any("parse/n → keep/n: sender waits" in (title or "") for title in told)
    assert "1 shared process" in page and "shared process" not in html(FLOW)
