#!/usr/bin/env bash
# pypcd4 1.5.1: a point cloud saved as text (Encoding.ASCII) has ten decimals, however small the numbers are: float64
# and float32 values below 5e-11 come back as 0, others near that lose digits. And a text file of one point is read
# without its axis of points: pc_data has the shape () instead of (1,).
#
# Seen (Linux x86-64, Python 3.11), x, y as float64, saved and read again:
#   [[1e-11, 2.0], [3.333333333333333e-07, 0.5]]     [[0.0, 2.0], [3.333e-07, 0.5]] as ASCII
#                                                    as given as BINARY and BINARY_COMPRESSED
#   one point                                        pc_data.shape is () as ASCII, (1,) as BINARY
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pypcd4==1.5.1 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
import numpy as np
from pypcd4 import Encoding, PointCloud

POINTS = np.array([[1e-11, 2.0], [3.333333333333333e-07, 0.5]])


def back(points: np.ndarray, encoding: Encoding, kind=np.float64) -> PointCloud:
    PointCloud.from_points(points, ("x", "y"), (kind, kind)).save("cloud.pcd", encoding=encoding)
    found = PointCloud.from_path("cloud.pcd")
    print(encoding.name, kind.__name__, found.numpy().tolist(), found.pc_data.shape)
    return found


assert back(POINTS, Encoding.ASCII).numpy().tolist() == [[0.0, 2.0], [3.333e-07, 0.5]]
assert back(POINTS, Encoding.ASCII, np.float32).numpy()[0, 0] == 0
for encoding in (Encoding.BINARY, Encoding.BINARY_COMPRESSED):
    assert back(POINTS, encoding).numpy().tolist() == POINTS.tolist()
assert back(POINTS[:1], Encoding.ASCII).pc_data.shape == ()
assert back(POINTS[:1], Encoding.BINARY).pc_data.shape == (1,)
print("as described")
PY
