#!/usr/bin/env bash
# npTDMS 1.13.0: two kinds of valid channel data are written as other numbers, without an error or a warning.
#
# Seen (Linux x86-64, Python 3.11), ChannelObject written by TdmsWriter, read by TdmsFile.read:
#   array([1, 2], dtype=">i4")            comes back as int32 [16777216, 33554432]: bytes of the one order, read in the other
#   [1, 2.5] (a list)                     comes back as int8 [1, 2]: the first element decides the type of all
# Arrays in the machine's order and lists that begin with the float come back as they were.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nptdms==1.13.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
import numpy as np
from nptdms import ChannelObject, TdmsFile, TdmsWriter


def back(data):
    with TdmsWriter("x.tdms") as writer:
        writer.write_segment([ChannelObject("group", "channel", data)])
    found = TdmsFile.read("x.tdms")["group"]["channel"][:]
    print(getattr(data, "dtype", "list"), list(data), "->", found.dtype, found.tolist())
    return found


assert back(np.array([1, 2], dtype=">i4")).tolist() == [16777216, 33554432]
assert back(np.array([1, 2], dtype="<i4")).tolist() == [1, 2]
mixed = back([1, 2.5])
assert (mixed.dtype, mixed.tolist()) == (np.int8, [1, 2])
assert back([2.5, 1]).tolist() == [2.5, 1.0]
print("as described")
PY
