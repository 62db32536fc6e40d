#!/usr/bin/env bash
# cantools 45.1.0: a signal that belongs to several values of a multiplexer keeps the first of them when a database is
# dumped as KCD: with the new database, frames with the other values are refused.
#
# Seen (Linux x86-64, Python 3.11), a DBC file with the signal w for the values 2 to 4 of S (SG_MUL_VAL_):
#   DBC                              multiplexer_ids [2, 3, 4]; S = 3 decodes to {S: 3, w: 7}
#   as_kcd_string, loaded again      multiplexer_ids [2];       S = 3 and S = 4 are refused (DecodeError)
#   as_dbc_string, loaded again      as the first
# No error, no warning at dumping.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check cantools==45.1.0
cd "$work"
venv/bin/python - <<'PY'
import cantools
from cantools.database.errors import DecodeError

DBC = '''VERSION ""
BU_: ECU
BO_ 200 X: 8 ECU
 SG_ S M : 0|8@1+ (1,0) [0|0] "" ECU
 SG_ x m0 : 8|8@1+ (1,0) [0|0] "" ECU
 SG_ w m2 : 32|8@1+ (1,0) [0|0] "" ECU
SG_MUL_VAL_ 200 x S 0-0;
SG_MUL_VAL_ 200 w S 2-4;
'''
FRAME = {value: bytes([value, 1, 0, 0, 7, 0, 0, 0]) for value in (2, 3, 4)}


def seen(database) -> tuple[list[int], list]:
    message = database.get_message_by_name("X")
    decoded = []
    for frame in FRAME.values():
        try:
            decoded.append(message.decode(frame))
        except DecodeError as error:
            decoded.append(type(error).__name__)
    ids = list(message.get_signal_by_name("w").multiplexer_ids)
    print(ids, decoded)
    return ids, decoded


source = cantools.database.load_string(DBC, "dbc")
whole = [2, 3, 4], [{"S": value, "w": 7} for value in FRAME]
assert seen(source) == whole
assert seen(cantools.database.load_string(source.as_dbc_string(), "dbc")) == whole
ids, decoded = seen(cantools.database.load_string(source.as_kcd_string(), "kcd"))
assert ids == [2] and decoded[0] == {"S": 2, "w": 7}
assert decoded[1:] == ["DecodeError"] * 2
print("as described")
PY
