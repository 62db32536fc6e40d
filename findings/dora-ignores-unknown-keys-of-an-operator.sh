#!/usr/bin/env bash
# dora-rs-cli 1.1.0: inside `operator:` a key that dora does not know is ignored, and so is one that it knows for nodes
# only. `dora validate` says all is well and exits 0. Beside `operator:`, as a key of the node, a misspelt one is
# refused.
#
# Seen (Linux x86-64, Python 3.11), an operator with `ouputs: [x]`, `restart_policy: sometimes` and `queue_size: none`:
#   dora validate    exit 0, no word of any of the three
#   dora graph       exit 0
#   the misspelt key as a key of the node    exit 1, the file is refused
# So a misspelt `outputs` leaves an operator without outputs, and nobody is told.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check dora-rs-cli==1.1.0
cd "$work"
venv/bin/python - <<'PY'
import subprocess
from pathlib import Path

FLOW = """nodes:
  - id: source
    path: source.py
    outputs: [o]
  - id: worker
    operator:
      python: operator.py
      inputs:
        i: source/o
{inside}{beside}"""
Path("source.py").write_text("")
Path("operator.py").write_text("")


def code(command: str, inside: str = "", beside: str = "") -> int:
    Path("flow.yml").write_text(FLOW.format(inside=inside, beside=beside))
    done = subprocess.run(["venv/bin/dora", *command.split(), "flow.yml"], capture_output=True, text=True)
    said = done.stdout + done.stderr
    print(f"dora {command}: exit {done.returncode}: {said.splitlines()[-1] if said else ''}")
    assert done.returncode or not any(key in said for key in ("ouputs", "sometimes", "queue_size")), said
    return done.returncode


UNKNOWN = "      ouputs: [x]\n      restart_policy: sometimes\n      queue_size: none\n"
assert code("validate") == 0
assert code("validate", inside=UNKNOWN) == 0
assert code("graph --mermaid", inside=UNKNOWN) == 0
assert code("validate", beside="    ouputs: [x]\n") == 1
print("as described")
PY
