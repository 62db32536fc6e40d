#!/usr/bin/env bash
# pyarrow 26.0.1 and polars 2.1.0: a numpy array of times whose unit is a multiple ("25us", "10ms") becomes an array of
# the plain unit with the same integers: each time and each duration is divided by that factor, without an error or a
# warning.
#
# Seen (Linux x86-64, Python 3.11, numpy 2.4.6), pyarrow.array and polars.Series alike:
#   np.array([4], "datetime64[25us]")     1970-01-01 00:00:00.000004; numpy says 00:00:00.000100
#   np.array([40], "timedelta64[10ms]")   40 ms; numpy says 400 ms
# pyarrow.table and pyarrow.scalar take them so, too: a Parquet file or IPC stream made of them is wrong. pandas 3.1.1
# refuses such a unit (ValueError); hours, which Arrow has not, pyarrow refuses as well.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  pyarrow==26.0.1 polars==2.1.0 pandas==3.1.1 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

times, spans = np.array([4], "datetime64[25us]"), np.array([40], "timedelta64[10ms]")
for values, right, seen in (
    (times, datetime(1970, 1, 1, 0, 0, 0, 100), datetime(1970, 1, 1, 0, 0, 0, 4)),
    (spans, timedelta(milliseconds=400), timedelta(milliseconds=40)),
):
    found = {
        "pyarrow.array": pa.array(values)[0].as_py(),
        "pyarrow.scalar": pa.scalar(values[0]).as_py(),
        "pyarrow.table": pa.table({"t": values})["t"][0].as_py(),
        "polars": pl.Series(values).to_list()[0],
    }
    print(values.dtype, "numpy:", values[0].item(), found)
    assert values[0].item() == right
    assert set(found.values()) == {seen}
    try:
        pd.Series(values)
    except ValueError as error:
        print("pandas:", error)
    else:
        raise SystemExit("pandas took the array")
try:
    pa.array(np.array([4], "datetime64[h]"))
except pa.ArrowNotImplementedError as error:
    print("hours in pyarrow:", error)
else:
    raise SystemExit("hours were accepted")
print("as described")
PY
