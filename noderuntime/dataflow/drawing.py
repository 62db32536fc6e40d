"""Draws a dataflow: as Mermaid text, or as one HTML file that needs no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath

from noderuntime.dataflow.drawing_layout import Box, Line, layout
from noderuntime.dataflow.model import Dataflow, InputSpec, NodeSpec
from noderuntime.dataflow.processes import processes_of

HEADER = 54.0
ROW = 22.0
CHARACTER = 7.3  # width of one in the 12 px monospace font
NODE_WIDTH_MIN = 150.0
TEXT_MAX = 30
MARGIN = 40.0
PILL_GAP = 14.0

_MERMAID_SHAPES = {"operator": ("[", "]"), "node": ("([", "])"), "dynamic": ("{{", "}}")}


def mermaid(dataflow: Dataflow) -> str:
    """Mermaid's flowchart: boxes are operators, round boxes custom nodes, hexagons dynamic nodes, circles timers.

    A frame is around operators that share a process. A dotted arrow drops the oldest message when its queue is full.
    """
    names = {node.id: f"n{index}" for index, node in enumerate(dataflow.nodes)}
    lines = ["flowchart LR"]
    timers: dict[str, str] = {}
    shared = _shared(dataflow)
    drawn: set[str] = set()
    for node in dataflow.nodes:
        if node.process not in shared:
            lines.append(f"  {_mermaid_node(names[node.id], node)}")
        elif node.process not in drawn:  # at the place of its first operator
            drawn.add(node.process)
            lines.append(f'  subgraph p{len(drawn)}["process {_mermaid_text(node.process)}"]')
            lines += [f"    {_mermaid_node(names[other.id], other)}" for other in shared[node.process]]
            lines.append("  end")
            lines.append(f"  class p{len(drawn)} process")
    for node in dataflow.nodes:
        for spec in node.inputs:
            if spec.is_timer and spec.source not in timers:
                timers[spec.source] = f"t{len(timers)}"
                lines.append(f'  {timers[spec.source]}(("{_mermaid_text(_period(spec))}")):::timer')
    for node in dataflow.nodes:
        for spec in node.inputs:
            start = timers[spec.source] if spec.is_timer else names[spec.node]
            arrow = "-.->" if spec.drop_oldest and not spec.is_timer else "-->"
            lines.append(f'  {start} {arrow}|"{_mermaid_text(_edge_label(spec))}"| {names[node.id]}')
    lines += [
        "  classDef operator fill:#ede9fe,stroke:#7c3aed,color:#1f1147",
        "  classDef node fill:#d9f5ef,stroke:#0d9488,color:#06302b",
        "  classDef dynamic fill:#fef0d2,stroke:#d97706,color:#3f2504,stroke-dasharray:5 3",
        "  classDef timer fill:#eef0f3,stroke:#8b95a5,color:#2b3340",
    ]
    if drawn:
        lines.append("  classDef process fill:none,stroke:#7c3aed,stroke-dasharray:2 3")
    return "\n".join(lines) + "\n"


def _mermaid_node(name: str, node: NodeSpec) -> str:
    left, right = _MERMAID_SHAPES[node.kind]
    label = f"<b>{_mermaid_text(node.id)}</b><br/>{_mermaid_text(_code(node))}"
    return f'{name}{left}"{label}"{right}:::{node.kind}'


def _shared(dataflow: Dataflow) -> dict[str, list[NodeSpec]]:
    """The processes that several operators share, with these."""
    return {name: nodes for name, nodes in processes_of(dataflow.nodes).items() if len(nodes) > 1}


def html(dataflow: Dataflow) -> str:
    """One page with the graph as inline SVG; follows the reader's light or dark scheme."""
    title = PurePosixPath(dataflow.file).name or "dataflow"
    drawing = _svg(dataflow)
    counted = [
        _count(sum(node.kind == kind for node in dataflow.nodes), word)
        for kind, word in (("operator", "operator"), ("node", "custom node"), ("dynamic", "dynamic node"))
    ]
    connections = sum(not spec.is_timer for node in dataflow.nodes for spec in node.inputs)
    counted += [_count(connections, "connection"), _count(len(_shared(dataflow)), "shared process")]
    summary = " · ".join(part for part in counted if part)
    parts = {
        "TITLE": escape(title),
        "SUMMARY": escape(summary),
        "SVG": drawing,
        "STYLE": _STYLE,
        "SCRIPT": _SCRIPT,
    }
    return re.sub("@([A-Z]+)@", lambda match: parts[match[1]], _PAGE)


def _svg(dataflow: Dataflow) -> str:
    index = {node.id: number for number, node in enumerate(dataflow.nodes)}
    rows = [max(len(node.inputs), len(node.outputs), 1) for node in dataflow.nodes]
    boxes = [Box(_width(node), HEADER + ROW * n + 8) for node, n in zip(dataflow.nodes, rows, strict=True)]
    lines: list[Line] = []
    edges: list[tuple[NodeSpec, InputSpec]] = []
    for node in dataflow.nodes:
        for row, spec in enumerate(node.inputs):
            if not spec.is_timer:
                start = index[spec.node]
                start_row = dataflow.nodes[start].outputs.index(spec.output)
                lines.append(Line(start, index[node.id], _port_y(start_row), _port_y(row)))
                edges.append((node, spec))
    width, height = layout(boxes, lines)
    pills = [
        _pill_width(spec) + PILL_GAP - boxes[index[node.id]].x
        for node in dataflow.nodes
        for spec in node.inputs
        if spec.is_timer
    ]
    left = MARGIN + max([0.0, *pills])
    full_width, full_height = width + left + MARGIN, height + 2 * MARGIN
    drawn = [
        f'<svg viewBox="0 0 {full_width:.0f} {full_height:.0f}" width="{full_width:.0f}" height="{full_height:.0f}" '
        f'style="min-width:{full_width * 0.6:.0f}px" role="img" xmlns="http://www.w3.org/2000/svg">',
        f'<g transform="translate({left:.0f} {MARGIN:.0f})">',
    ]
    for line, (node, spec) in zip(lines, edges, strict=True):
        drawn.append(_edge(line, node, spec, dataflow.nodes[line.start]))
    shared = _shared(dataflow)
    for node, box in zip(dataflow.nodes, boxes, strict=True):
        place = list(shared).index(node.process) if node.process in shared else -1
        drawn.append(_node(node, box, place, shared.get(node.process, [])))
    return "\n".join([*drawn, "</g></svg>"])


def _edge(line: Line, node: NodeSpec, spec: InputSpec, sender: NodeSpec) -> str:
    dashed = " drops" if spec.drop_oldest else ""
    policy = "drops the oldest when full" if spec.drop_oldest else "sender waits when full"
    how = f"{policy}, at {spec.queue_size} messages or {_size(spec.queue_bytes)}"
    if sender.process and sender.process == node.process and not spec.drop_oldest:
        how = "handled in the transaction of the event that sends it"
    told = f"{spec.source} → {node.id}/{spec.name}: {how}"
    return (
        f'<path class="edge {sender.kind}{dashed}" data-from="{escape(spec.node)}" data-to="{escape(node.id)}" '
        f'd="{_path(line)}"><title>{escape(told)}</title></path>'
    )


def _path(line: Line) -> str:
    (x, y), *rest = line.points
    if line.back:
        (right, lane), (left, _), (end_x, end_y) = rest
        bend = 38.0
        return (
            f"M{x:.1f} {y:.1f}"
            f"C{right + bend:.1f} {y:.1f} {right + bend:.1f} {lane:.1f} {right - 6:.1f} {lane:.1f}"
            f"L{left + 6:.1f} {lane:.1f}"
            f"C{left - bend:.1f} {lane:.1f} {left - bend:.1f} {end_y:.1f} {end_x:.1f} {end_y:.1f}"
        )
    drawn = [f"M{x:.1f} {y:.1f}"]
    for next_x, next_y in rest:
        if abs(next_y - y) < 0.05:
            drawn.append(f"L{next_x:.1f} {next_y:.1f}")
        else:
            middle = (x + next_x) / 2
            drawn.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {next_y:.1f} {next_x:.1f} {next_y:.1f}")
        x, y = next_x, next_y
    return "".join(drawn)


def _node(node: NodeSpec, box: Box, process: int, sharing: Sequence[NodeSpec]) -> str:
    """A node. `process`: the number of the process that the nodes of `sharing` share, itself among them."""
    word = {"operator": "operator", "node": "custom node", "dynamic": "dynamic node"}[node.kind]
    restarts = "no limit" if not node.max_restarts else f"at most {node.max_restarts}"
    supervised = f"restarts: {node.restart_policy}, {restarts} in {node.restart_window_s:g} s"
    told = f"{node.id} ({word})\n{node.code}\n{supervised}"
    look = place = ""
    if sharing:
        told += f"\nprocess {node.process}: {', '.join(other.id for other in sharing)}"
        look, place = " shared", f' style="--p:hsl({(265 + 137 * process) % 360} 60% 55%)"'  # neighbours differ
    drawn = [
        f'<g class="item {node.kind}{look}"{place} data-id="{escape(node.id)}" '
        f'transform="translate({box.x:.1f} {box.y:.1f})">',
        f"<title>{escape(told)}</title>",
        f'<rect class="box" width="{box.width:.0f}" height="{box.height:.0f}" rx="10"/>',
        f'<path class="head" d="M0 46V10a10 10 0 0 1 10-10H{box.width - 10:.0f}a10 10 0 0 1 10 10V46Z"/>',
        f'<text class="id" x="14" y="20">{escape(_short(node.id))}</text>',
        f'<text class="code" x="14" y="37">{escape(_short(_code(node)))}</text>',
    ]
    if sharing:
        drawn.append(f'<text class="process" x="14" y="-7">process {escape(_short(node.process))}</text>')
    for row, spec in enumerate(node.inputs):
        y = _port_y(row)
        if spec.is_timer:
            drawn.append(_pill(spec, y))
        drawn.append(f'<circle class="port" cx="0" cy="{y:.0f}" r="4"/>')
        drawn.append(f'<text class="name" x="14" y="{y + 4:.0f}">{escape(_short(spec.name))}</text>')
    for row, output in enumerate(node.outputs):
        y = _port_y(row)
        drawn.append(f'<circle class="port out" cx="{box.width:.0f}" cy="{y:.0f}" r="4"/>')
        drawn.append(f'<text class="name end" x="{box.width - 14:.0f}" y="{y + 4:.0f}">{escape(_short(output))}</text>')
    return "\n".join([*drawn, "</g>"])


def _pill(spec: InputSpec, y: float) -> str:
    """A timer, drawn as a small clock with its period, left of its input."""
    width = _pill_width(spec)
    x = -width - PILL_GAP
    return (
        f'<g class="timer"><title>{escape(spec.source)}</title>'
        f'<path class="edge" d="M{x + width:.0f} {y:.0f}H0"/>'
        f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="{width:.0f}" height="18" rx="9"/>'
        f'<circle cx="{x + 11:.0f}" cy="{y:.0f}" r="4.5"/>'
        f'<path class="hand" d="M{x + 11:.0f} {y - 2.6:.1f}V{y:.0f}H{x + 13:.0f}"/>'
        f'<text x="{x + 20:.0f}" y="{y + 3.5:.1f}">{escape(_period(spec))}</text></g>'
    )


def _pill_width(spec: InputSpec) -> float:
    return 28.0 + 6.2 * len(_period(spec))


def _port_y(row: int) -> float:
    return HEADER + ROW * row + ROW / 2


def _width(node: NodeSpec) -> float:
    inputs = max((len(_short(spec.name)) for spec in node.inputs), default=0)
    outputs = max((len(_short(name)) for name in node.outputs), default=0)
    head = max(1.2 * len(_short(node.id)), len(_short(_code(node))))
    ports = inputs + outputs + (5 if inputs and outputs else 0)
    return max(NODE_WIDTH_MIN, 28 + CHARACTER * max(head, ports))


def _code(node: NodeSpec) -> str:
    if node.kind == "dynamic":
        return "started by hand"
    if node.kind == "node" or node.code.module:
        return str(node.code)
    file = PurePosixPath(node.code.path).name
    return file if node.code.name == "Operator" else f"{file}:{node.code.name}"


def _short(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def _edge_label(spec: InputSpec) -> str:
    if spec.is_timer or spec.output == spec.name:
        return spec.name
    return f"{spec.output} → {spec.name}"


def _period(spec: InputSpec) -> str:
    _, unit, count = spec.source.split("/")
    return f"{count} {({'millis': 'ms', 'secs': 's', 'hz': 'Hz'})[unit]}"


def _size(size_bytes: int) -> str:
    size, unit = float(size_bytes), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"


def _count(number: int, word: str) -> str:
    plural = "es" if word.endswith("s") else "s"
    return f"{number} {word}{'' if number == 1 else plural}" if number else ""


def _mermaid_text(text: str) -> str:
    return "".join(f"#{ord(c)};" if c in "#\"'<>&`;\\" or ord(c) < 32 else c for c in _short(text))


_STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--dot:#dfe3e9;--card:#fff;--line:#d5dae2;--ink:#1b2230;--dim:#677285;
--operator:#7c3aed;--node:#0d9488;--dynamic:#d97706;--timer:#7b8698}
@media(prefers-color-scheme:dark){:root{--bg:#11141a;--dot:#212733;--card:#1a1f29;--line:#323a49;--ink:#e8ecf3;
--dim:#93a0b5;--operator:#a78bfa;--node:#2dd4bf;--dynamic:#fbbf24;--timer:#8794a9}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:flex;flex-direction:column;color:var(--ink);
font:14px/1.4 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
background:radial-gradient(var(--dot) 1px,transparent 1px) 0 0/22px 22px var(--bg)}
header{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:baseline;padding:18px 40px;
background:color-mix(in srgb,var(--bg) 85%,transparent);border-bottom:1px solid var(--line)}
h1{font-size:18px;margin:0;letter-spacing:-.01em}
header p{margin:0;color:var(--dim)}
.legend{margin-left:auto;display:flex;gap:16px;color:var(--dim);font-size:12px}
.legend span{display:flex;align-items:center;gap:6px}
.legend i{width:12px;height:12px;border-radius:4px;background:var(--c)}
.legend b{width:22px;border-top:2px solid var(--dim)}
.legend b.d{border-top-style:dashed}
main{flex:1;overflow:auto;display:flex}
svg{margin:auto;max-width:100%;height:auto}
.operator{--c:var(--operator)}.node{--c:var(--node)}.dynamic{--c:var(--dynamic)}
.box{fill:var(--card);stroke:var(--line);filter:drop-shadow(0 3px 8px #1b223018)}
.dynamic .box{stroke:var(--c);stroke-dasharray:5 3}
.shared .box{stroke:var(--p);stroke-width:2;stroke-dasharray:2 3}
.process{font-size:11px;fill:var(--p)}
.head{fill:color-mix(in srgb,var(--c) 13%,var(--card))}
.id{font-weight:650;font-size:14px;fill:var(--ink)}
.code,.name,.timer text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.code{fill:color-mix(in srgb,var(--c) 70%,var(--ink))}
.name{fill:var(--dim)}.end{text-anchor:end}
.port{fill:var(--card);stroke:var(--c);stroke-width:2}.port.out{fill:var(--c)}
.edge{fill:none;stroke:var(--c,var(--timer));stroke-width:2;opacity:.6;transition:opacity .12s}
.drops{stroke-dasharray:6 4}
.timer .edge{stroke:var(--timer)}.timer rect{fill:var(--card);stroke:var(--timer);stroke-opacity:.6}
.timer circle,.hand{fill:none;stroke:var(--timer);stroke-width:1.3}
.timer text{font-size:10px;fill:var(--dim)}
.item{transition:opacity .12s}
.look .item,.look .edge{opacity:.15}.look .on,.look .on .edge{opacity:1}
"""

_SCRIPT = """
const svg = document.querySelector('svg'), items = [...svg.querySelectorAll('.item')];
const edges = [...svg.querySelectorAll('[data-from]')], item = id => items.find(it => it.dataset.id === id);
for (const it of items) {
  const id = it.dataset.id;
  it.onmouseenter = () => {
    svg.classList.add('look');
    it.classList.add('on');
    for (const e of edges.filter(e => e.dataset.from === id || e.dataset.to === id))
      for (const lit of [e, item(e.dataset.from), item(e.dataset.to)]) lit.classList.add('on');
  };
  it.onmouseleave = () => {
    svg.classList.remove('look');
    svg.querySelectorAll('.on').forEach(lit => lit.classList.remove('on'));
  };
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none';style-src 'unsafe-inline';script-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>@STYLE@</style>
</head>
<body>
<header>
<h1>@TITLE@</h1><p>@SUMMARY@</p>
<div class="legend">
<span><i class="operator"></i>operator</span><span><i class="node"></i>custom node</span>
<span><i class="dynamic"></i>dynamic</span><span><b></b>sender waits</span><span><b class="d"></b>drops oldest</span>
</div>
</header>
<main>
@SVG@
</main>
<script>@SCRIPT@</script>
</body>
</html>
"""
