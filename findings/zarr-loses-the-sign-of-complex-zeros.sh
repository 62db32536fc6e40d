#!/usr/bin/env bash
# zarr 3.1.6: an array of complex numbers, or of records, whose chunk is minus zero throughout loses the signs. The
# chunk compares equal to the fill value 0, is not written, and reads back as plus zero. For floats the sign is looked
# at.
#
# Seen (Linux x86-64, Python 3.11), open_array with all defaults, zarr_format 3 and 2:
#   float64     [-0.0, -0.0]                           comes back as it was
#   complex128  [complex(-0.0, -0.0)] * 2              comes back as [0j, 0j], no chunk is stored
#   record      [(-0.0,)] of dtype [("a", "<f8")]      comes back as [(0.0,)]
#   complex128  with config={"write_empty_chunks": True}   comes back as it was
# So the angle of such a number (pi) is 0 afterwards.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check zarr==3.1.6 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import zarr


def back(values: np.ndarray, **options) -> np.ndarray:
    array = zarr.open_array(store={}, mode="w", shape=values.shape, dtype=values.dtype, chunks=values.shape, **options)
    array[:] = values
    found = array[:]
    print(values.dtype, values.tolist(), options, "->", found.tolist(), "chunks stored:", array.nchunks_initialized)
    return found


floats, numbers = np.full(2, -0.0), np.full(2, complex(-0.0, -0.0))
records = np.array([(-0.0,)], dtype=[("a", "<f8")])
for zarr_format in (3, 2):
    assert np.signbit(back(floats, zarr_format=zarr_format)).all()
    found = back(numbers, zarr_format=zarr_format)
    assert not np.signbit(found.real).any() and not np.signbit(found.imag).any()
    assert not np.signbit(back(records, zarr_format=zarr_format)["a"]).any()
assert abs(np.angle(numbers[0])) > 3 and np.angle(found[0]) == 0
kept = back(numbers, config={"write_empty_chunks": True})
assert np.signbit(kept.real).all() and np.signbit(kept.imag).all()
print("as described")
PY
