#!/usr/bin/env bash
# msgspec 0.22.0 and msgpack 1.2.4 read one MessagePack timestamp as two datetimes: nanoseconds below a microsecond are
# rounded by the one and cut by the other. At the end of a second, a day or a year they differ in that, too.
#
# Seen (Linux x86-64, Python 3.11), msgpack.Timestamp(seconds, nanoseconds) packed, then
# msgspec.msgpack.decode / msgpack.unpackb(timestamp=3):
#   10 s 500 ns                   00:00:10.000001 / 00:00:10
#   10 s 999999500 ns             00:00:11 / 00:00:10.999999
#   the last ns before 2024       2024-01-01T00:00:00 / 2023-12-31T23:59:59.999999
# Of 1000 timestamps with equally spread nanoseconds 500 differ. Whole microseconds are the same in both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check msgspec==0.22.0 msgpack==1.2.4
cd "$work"
venv/bin/python - <<'PY'
import msgpack
import msgspec


def both(seconds: int, nanoseconds: int) -> tuple[str, str]:
    packed = msgpack.packb(msgpack.Timestamp(seconds, nanoseconds))
    return msgspec.msgpack.decode(packed).isoformat()[:26], msgpack.unpackb(packed, timestamp=3).isoformat()[:26]


NEW_YEAR = 1_704_067_200
for case in ((10, 500), (10, 999_999_500), (NEW_YEAR - 1, 999_999_999), (10, 123_456_000)):
    print(case, *both(*case))
assert both(10, 500) == ("1970-01-01T00:00:10.000001", "1970-01-01T00:00:10+00:00"[:26])
rounded, cut = both(10, 999_999_500)
assert rounded.startswith("1970-01-01T00:00:11") and cut == "1970-01-01T00:00:10.999999"
rounded, cut = both(NEW_YEAR - 1, 999_999_999)
assert rounded.startswith("2024-01-01T00:00:00") and cut == "2023-12-31T23:59:59.999999"
assert len(set(both(10, 123_456_000))) == 1
differ = sum(len(set(both(10, nanoseconds))) == 2 for nanoseconds in range(1000))
print("of 1000 timestamps differ:", differ)
assert differ == 500
print("as described")
PY
