#!/usr/bin/env bash
# canopen 2.4.1: an object dictionary that export_od() writes and import_od() reads has lost the defaults below zero, and
# the limits of integers whose width is no power of two. The writer puts 0x before the decimal text ("0x-3"), which no
# reader of EDS or DCF files understands; the file is read without an error, and the default is None.
#
# Seen (Linux x86-64, Python 3.11), default / minimum / maximum after an export and an import:
#   INTEGER8, 16, 32, 64 with -3, -10, 10     None, -10, 10
#   INTEGER24 with -3, -10, 10                None, None, None
#   INTEGER32 with 3, -10, 10                 3, -10, 10
#   REAL32 with -3.0                          -3.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check canopen==2.4.1
cd "$work"
venv/bin/python - <<'PY'
import logging
from pathlib import Path

import canopen
from canopen.objectdictionary import ODVariable, datatypes

logging.disable(logging.CRITICAL)
CASES = [
    ("INTEGER8", -3), ("INTEGER16", -3), ("INTEGER32", -3), ("INTEGER64", -3), ("INTEGER24", -3),
    ("INTEGER32", 3), ("REAL32", -3.0),
]  # fmt: skip

for kind in ("eds", "dcf"):
    written = canopen.ObjectDictionary()
    for nth, (name, default) in enumerate(CASES):
        variable = ODVariable(f"variable {nth}", 0x2000 + nth)
        variable.data_type, variable.access_type = getattr(datatypes, name), "rw"
        variable.default = default
        if name != "REAL32":
            variable.min, variable.max = -10, 10
        written.add_object(variable)
    canopen.export_od(written, f"od.{kind}", kind)
    assert "DefaultValue=0x-3" in Path(f"od.{kind}").read_text()
    read = canopen.import_od(f"od.{kind}")
    for nth, (name, default) in enumerate(CASES):
        found = read[0x2000 + nth]
        print(kind, name, default, "->", found.default, found.min, found.max)
        assert found.default == (None if name.startswith("INTEGER") and default < 0 else default)
        if name != "REAL32":
            assert (found.min, found.max) == ((None, None) if name == "INTEGER24" else (-10, 10))
print("as described")
PY
