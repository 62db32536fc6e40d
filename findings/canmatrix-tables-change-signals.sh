#!/usr/bin/env bash
# canmatrix 1.3.3: of one signal of a CAN database, saved and loaded in formats of canmatrix's own choice, some come back
# as another signal, without an error or a warning: the physical values of each frame are then others. In an .xlsx file
# the offset comes back as the minimum.
#
# Seen (Linux x86-64, Python 3.11), signed, factor 0.1, offset -3.5, minimum -12, maximum 9; and a float of 32 bits:
#   .dbc     as they were
#   .xlsx    offset -12, unsigned; the float is an unsigned integer, its offset the minimum
#   .xls     offset 0, unsigned; the float is an unsigned integer
#   .sym     the float is an integer, the other as it was
# One raw byte 0x00 is thus -3.5 by .dbc and .sym, -12 by .xlsx and 0 by .xls.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check canmatrix==1.3.3 openpyxl==3.1.5 xlwt==1.3.0 xlrd==2.0.2
cd "$work"
venv/bin/python - <<'PY'
import logging
from decimal import Decimal

import canmatrix
import canmatrix.formats

logging.disable(logging.CRITICAL)
saved = canmatrix.CanMatrix()
frame = canmatrix.Frame("F", arbitration_id=canmatrix.ArbitrationId(0x123), size=8)
frame.add_signal(canmatrix.Signal("f", start_bit=0, size=32, is_signed=True, is_float=True))
frame.add_signal(
    canmatrix.Signal(
        "t", start_bit=32, size=8, is_signed=True, factor=Decimal("0.1"), offset=Decimal("-3.5"),
        min=Decimal(-12), max=Decimal(9),
    )
)  # fmt: skip
saved.add_frame(frame)

WANTED = {  # offset, signed; the other is a float
    "dbc": (-3.5, True, True),
    "xlsx": (-12.0, False, False),
    "xls": (0.0, False, False),
    "sym": (-3.5, True, False),
}
for kind, wanted in WANTED.items():
    canmatrix.formats.dumpp({"": saved}, f"db.{kind}")
    loaded = canmatrix.formats.loadp_flat(f"db.{kind}").frames[0]
    signal, number = loaded.signal_by_name("t"), loaded.signal_by_name("f")
    assert float(signal.factor) == 0.1
    found = (float(signal.offset), signal.is_signed, number.is_float)
    print(f"{kind}: offset, signed; the other is a float: {found}")
    assert found == wanted, (kind, found)
print("as described")
PY
