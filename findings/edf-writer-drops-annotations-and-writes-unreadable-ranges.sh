#!/usr/bin/env bash
# pyedflib 0.1.42: of the annotations of an EDF+ file only as many are in it as the file has data records (seconds, by
# default); writeAnnotation() and close() accept the others without an error. And a signal whose physical range is below
# 1e-6 is written into a file that pyedflib itself does not open: "not compliant (Physical Maximum)".
#
# Seen (Linux x86-64, Python 3.11), one signal of 10 samples a second:
#   1 s, annotations at 0.1, 0.2 and 0.3 s       one of the three is read
#   3 s, the same                                all three
#   physical range of 1e-5                       read as written
#   physical range of 1e-7                       OSError when it is opened
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyedflib==0.1.42
cd "$work"
venv/bin/python - <<'PY'
import numpy as np
import pyedflib

NOTES = [(0.1, -1, "first"), (0.2, -1, "second"), (0.3, -1, "third")]


def write(name: str, seconds: int, limit: float) -> None:
    with pyedflib.EdfWriter(name, 1) as writer:
        writer.setSignalHeader(
            0,
            {
                "label": "x", "dimension": "V", "sample_frequency": 10, "physical_max": limit, "physical_min": -limit,
                "digital_max": 32767, "digital_min": -32768, "transducer": "", "prefilter": "",
            },
        )  # fmt: skip
        writer.writeSamples([np.full(10 * seconds, limit / 2)])
        for note in NOTES:
            writer.writeAnnotation(*note)


for seconds, kept in ((1, 1), (3, 3)):
    write("notes.edf", seconds, 1.0)
    with pyedflib.EdfReader("notes.edf") as reader:
        texts = list(reader.readAnnotations()[2])
    print(f"{seconds} s: {len(NOTES)} annotations written, {len(texts)} read:", texts)
    assert texts == [text for _, _, text in NOTES][:kept]

write("small.edf", 1, 1e-5)
with pyedflib.EdfReader("small.edf") as reader:
    assert reader.getPhysicalMaximum(0) == 1e-5
    assert np.allclose(reader.readSignal(0), 5e-6, rtol=1e-3)
write("smaller.edf", 1, 1e-7)
try:
    pyedflib.EdfReader("smaller.edf")
except OSError as error:
    print("range 1e-7:", error)
    assert "Physical Maximum" in str(error)
else:
    raise AssertionError("it opens")
print("as described")
PY
