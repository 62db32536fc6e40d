#!/usr/bin/env bash
# tinyflux 1.2.0: numbers and tags that mean something else in its CSV file come back as something else. All fields
# become floats, so integers above 2**53 lose digits; the text "_none" stands for None and for "no name".
#
# Seen (Linux x86-64, Python 3.11), a Point inserted, the file opened again:
#   fields {"n": 2**53 + 1}       9007199254740992.0
#   tags {"a": "_none"}           {"a": None}
#   measurement ""                "_none"
# Times keep their microseconds, empty tags stay empty.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tinyflux==1.2.0
cd "$work"
venv/bin/python - <<'PY'
from datetime import datetime, timezone

from tinyflux import Point, TinyFlux

TIME = datetime(2024, 1, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)
given = Point(time=TIME, measurement="", tags={"a": "_none", "b": "", "c": None}, fields={"n": 2**53 + 1, "m": None})
database = TinyFlux("points.csv")
database.insert(given)
database.close()
(found,) = TinyFlux("points.csv").all()
print(found)
assert found.fields == {"n": float(2**53), "m": None} and isinstance(found.fields["n"], float)
assert found.tags == {"a": None, "b": "", "c": None}
assert found.measurement == "_none"
assert found.time == TIME
print("as described")
PY
