#!/usr/bin/env bash
# mypyc (mypy 2.4.1): where the compiler knows N, (0,) * N has the type of a tuple of N items, which becomes a C struct
# of N fields: the C code grows with the square of N. A table of 256 zeros makes 38,000 lines of C out of one of Python,
# also where tuple[int, ...] was written as its type; as tuple([0] * N) it is a call.
#
# Seen (Linux x86-64, Python 3.11): lines of C of a module with one function that returns
#                       N = 4      64      256
#   (0,) * N            409   3,619   38,083
#   tuple([0] * N)      300     300      300
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mypy==2.4.1 setuptools==84.2.1
cd "$work"
venv/bin/python - <<'PY'
import os
import tempfile
from pathlib import Path

from mypyc.build import mypycify

WORK = Path.cwd()


def lines_of_c(n: int, zeros: str) -> int:
    folder = Path(tempfile.mkdtemp(dir=WORK))
    os.chdir(folder)
    Path("module.py").write_text(
        "from typing import Final\n\n"
        f"N: Final = {n}\n\n\n"
        "def zeros() -> tuple[int, ...]:\n"
        f"    return {zeros}\n"
    )
    mypycify(["module.py"], target_dir=str(folder / "c"))
    written = [file for file in (folder / "c").rglob("*") if file.suffix in (".c", ".h") and "native" in file.name]
    return sum(len(file.read_text().splitlines()) for file in written)


known = {n: lines_of_c(n, "(0,) * N") for n in (4, 64, 256)}
called = {n: lines_of_c(n, "tuple([0] * N)") for n in (4, 64, 256)}
print("(0,) * N      ", known)
print("tuple([0] * N)", called)
assert called[4] == called[64] == called[256] < known[4]
# four times the items are about sixteen times the lines that come with them
assert 8 * (known[64] - called[64]) < known[256] - called[256] < 20 * (known[64] - called[64])
print("as described")
PY
