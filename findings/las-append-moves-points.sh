#!/usr/bin/env bash
# laspy 2.7.0: points that are appended to a LAS file keep their raw integers, though the file has another scale or
# offset: they land elsewhere. A file that is written from the start converts such points; only appending does not.
#
# Seen (Linux x86-64, Python 3.11), a file with scale 0.01, offset 0, a point x = 101.234, scale 0.001, offset 100:
#   laspy.open(path, "a").append_points   x is 12.34: 1234 steps, read with the scale of the file
#   laspy.open(path, "w", header).write_points   x is 101.23
# No error, no warning; points of another point format are refused (LaspyException).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check laspy==2.7.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
import laspy
import numpy as np

first = laspy.create(point_format=3)
first.x = np.array([1.23, 5.0])
assert first.header.scales[0] == 0.01 and first.header.offsets[0] == 0
first.write("appended.las")

more = laspy.create(point_format=3)
more.header.scales, more.header.offsets = np.array([0.001] * 3), np.array([100.0, 0.0, 0.0])
more.x = np.array([101.234])
with laspy.open("appended.las", "a") as file:
    file.append_points(more.points)

header = laspy.LasHeader(point_format=3)
header.scales = np.array([0.01] * 3)
with laspy.open("written.las", "w", header=header) as file:
    file.write_points(more.points)

appended, written = (np.array(laspy.read(name).x).tolist() for name in ("appended.las", "written.las"))
print("given", more.x[0], "appended", appended[-1], "written", written[-1])
assert abs(more.x[0] - 101.234) < 1e-9
assert abs(appended[-1] - 12.34) < 1e-9
assert abs(written[-1] - 101.23) < 1e-9
print("as described")
PY
