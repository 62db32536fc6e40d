#!/usr/bin/env bash
# rosbags 0.11.9: a numpy array of another dtype, but of the same width, is written into a message as its bare bits.
# The array is neither converted nor refused: integers become denormal floats, a big-endian array another one.
#
# Seen (Linux x86-64, Python 3.11), std_msgs/msg/Float64MultiArray through serialize_cdr and deserialize_cdr:
#   data = array([1, 2, 3]) (int64)                   comes back as [4.9e-324, 9.9e-324, 1.5e-323]
#   data = array([1., 2., 3.], dtype=">f8")           comes back as [3.03865e-319, 3.16202e-322, 1.04347e-320]
#   the same for std_msgs/msg/Int32MultiArray and float32
# A dtype of another width (float32 here) is a ValueError.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check rosbags==0.11.9
cd "$work"
venv/bin/python - <<'PY'
import numpy as np
from rosbags.typesys import Stores, get_typestore

store = get_typestore(Stores.ROS2_HUMBLE)
layout = store.types["std_msgs/msg/MultiArrayLayout"]([], 0)


def back(kind: str, data: np.ndarray) -> np.ndarray:
    message = store.types[kind](layout, data)
    found = store.deserialize_cdr(store.serialize_cdr(message, kind), kind).data
    print(f"{kind}: {data.dtype.str} {data.tolist()} -> {found.dtype} {found.tolist()}")
    return found


FLOATS, INTS = "std_msgs/msg/Float64MultiArray", "std_msgs/msg/Int32MultiArray"
whole = np.array([1, 2, 3])
assert (back(FLOATS, whole) == whole.view("<f8")).all()
big = np.array([1.0, 2.0, 3.0], dtype=">f8")
assert (back(FLOATS, big) == np.frombuffer(big.tobytes(), "<f8")).all()
halves = np.array([0.5, 1.5], dtype="f4")
assert (back(INTS, halves) == halves.view("<i4")).all()
assert (back(FLOATS, np.array([0.5, 1.5])) == [0.5, 1.5]).all()
try:
    back(FLOATS, halves)
except ValueError as error:
    print("float32 into Float64MultiArray:", type(error).__name__)
else:
    raise SystemExit("float32 was accepted")
print("as described")
PY
