#!/usr/bin/env bash
# asammdf 8.8.28: of a channel whose samples are a two-dimensional array of anything wider than a byte, an MDF 4 file
# keeps the first column. The other columns are not in the file; no error, no warning. Bytes (uint8) are kept.
#
# Seen (Linux x86-64, Python 3.11), Signal(samples=[[0, 1, 2], [3, 4, 5]]) appended to an MDF of version 4.10:
#   int64      before saving get() gives [[0, 0, 0], [1, 0, 0]], after saving and opening it gives [0, 1]: the numbers
#              0 and 1 are the first two of the whole array, not even the first of each row
#   float64    after saving [0.0, 1.0]
#   uint8      [[0, 1, 2], [3, 4, 5]], as it was
#   int64 in a record array whose one field is named as the channel is kept too (as records)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check asammdf==8.8.28 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
import numpy as np
from asammdf import MDF, Signal

TIMES = np.array([0.0, 1.0])
ROWS = np.array([[0, 1, 2], [3, 4, 5]])


def back(samples: np.ndarray) -> tuple[list, list]:
    """The samples of a channel, before the file is saved and after it is opened again."""
    mdf = MDF(version="4.10")
    mdf.append([Signal(samples=samples, timestamps=TIMES, name="x")])
    before = mdf.get("x").samples.tolist()
    path = mdf.save("x.mf4", overwrite=True)
    mdf.close()
    with MDF(path) as saved:
        after = saved.get("x").samples.tolist()
    print(samples.dtype, samples.tolist(), "-> before", before, "after", after)
    return before, after


assert back(ROWS) == ([[0, 0, 0], [1, 0, 0]], [0, 1])
assert back(ROWS.astype("f8"))[1] == [0.0, 1.0]
assert back(ROWS.astype("u1"))[1] == ROWS.tolist()
records = np.rec.fromarrays([ROWS.astype("u2")], dtype=[("x", "<u2", (3,))])
assert [list(row[0]) for row in back(records)[1]] == ROWS.tolist()
print("as described")
PY
