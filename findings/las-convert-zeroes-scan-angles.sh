#!/usr/bin/env bash
# laspy 2.7.0: convert() between the old point formats (0 to 5) and the new ones (6 to 10) sets all scan angles to 0.
# The angle has another name and another unit there (scan_angle_rank in degrees, scan_angle in 0.006 degrees), and is
# not carried over; no error, no warning.
#
# Seen (Linux x86-64, Python 3.11):
#   format 3, scan_angle_rank [15, -30], to format 6     scan_angle [0, 0] (2500 and -5000 would be right)
#   format 6, scan_angle [2500, -5000], to format 3      scan_angle_rank [0, 0]
#   format 3 to format 1                                 the angles are kept
# Intensity and classification arrive in all three; a class that does not fit is refused (OverflowError).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check laspy==2.7.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
import laspy
import numpy as np


def converted(source: int, target: int, field: str, angles: list[int]) -> list[int]:
    las = laspy.create(point_format=source, file_version="1.4")
    las[field] = np.array(angles)
    las.intensity, las.classification = np.array([7, 8]), np.array([2, 5])
    found = laspy.convert(las, point_format_id=target)
    assert found.intensity.tolist() == [7, 8] and np.array(found.classification).tolist() == [2, 5]
    name = "scan_angle" if target >= 6 else "scan_angle_rank"
    print(f"format {source} {field} {angles} -> format {target} {name} {np.array(found[name]).tolist()}")
    return np.array(found[name]).tolist()


assert converted(3, 6, "scan_angle_rank", [15, -30]) == [0, 0]
assert converted(6, 3, "scan_angle", [2500, -5000]) == [0, 0]
assert converted(3, 1, "scan_angle_rank", [15, -30]) == [15, -30]
print("as described")
PY
