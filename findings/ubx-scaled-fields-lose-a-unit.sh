#!/usr/bin/env bash
# pyubx2 1.4.0: a message that is made from values of scaled fields holds many of them one unit too low. The quotient of
# value and scale is cut, not rounded: 0.29 / 0.01 is 28.999..., so the dilution of precision 0.29 travels as 0.28.
# Latitude and longitude (scale 1e-7) are right.
#
# Seen (Linux x86-64, Python 3.11), all multiples of the unit from 1 to 1999, made, serialized and parsed again:
#   NAV-DOP pDOP, unit 0.01         253 of them one unit lower, the first 0.29
#   NAV-HPPOSLLH hAcc, unit 0.1     a third of the first hundred, the first 0.3 (0.2)
#   NAV-PVT lat, unit 1e-7          all as they were
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyubx2==1.4.0
cd "$work"
venv/bin/python - <<'PY'
from pyubx2 import GET, UBXMessage, UBXReader


def lower(message: str, field: str, decimals: int, count: int) -> list[tuple[float, float]]:
    """Pairs of a value and what a parsed message says instead."""
    found = []
    for units in range(1, count):
        value = float(f"{units}e-{decimals}")
        made = UBXMessage("NAV", message, GET, **{field: value})
        read = getattr(UBXReader.parse(made.serialize(), msgmode=GET), field)
        if read != value:
            assert round((value - read) * 10**decimals) == 1, (value, read)
            found.append((value, read))
    print(message, field, "one unit lower:", len(found), found[:3])
    return found


dilution = lower("NAV-DOP", "pDOP", 2, 2000)
assert len(dilution) == 253 and dilution[0] == (0.29, 0.28)
accuracy = lower("NAV-HPPOSLLH", "hAcc", 1, 101)
assert len(accuracy) > 30 and accuracy[0] == (0.3, 0.2)
assert lower("NAV-PVT", "lat", 7, 2000) == []
print("as described")
PY
