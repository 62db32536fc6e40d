"""`demo`: the survivor dataflow that comes along, for some seconds."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from noderuntime.cli import output, parser
from noderuntime.cli.run import run

NAME = "demo"


def demo(options: Namespace) -> int:
    """Run it, and say what to do next."""
    from noderuntime import dataflows

    file = Path(dataflows.__path__[0], "survivor.yml")
    arguments = ["run", str(file), "--name", NAME, "--fresh", "--stop-after", f"{options.stop_after:g}s"]
    code = run(parser.parse(arguments))
    if code in (output.OK, output.INTERRUPTED):
        output.tell("\nNow your own dataflow: `noderuntime run --chaos 1s FILE` kills its processes, and reports.")
        output.tell(f"How this one is made: {file}")
    return code
