#!/usr/bin/env bash
# fastavro 1.13.1 and avro 1.12.2 write an int into a union of a float and an integer type as another number, each in
# another order of the union: fastavro takes the first member that fits, avro the last, and an int fits a float for
# both, however many digits it loses. No error, no warning.
#
# Seen (Linux x86-64, Python 3.11), written by fastavro / by avro, each read by itself:
#   ["double", "long"]   2**53 + 1     9007199254740992.0 / 9007199254740993
#   ["long", "double"]   2**53 + 1     9007199254740993 / 9007199254740992.0
#   ["float", "int"]     2**24 + 1     16777216.0 / 16777217
#   ["int", "float"]     2**24 + 1     16777217 / 16777216.0
# The first byte tells it: fastavro names member 0, avro member 1, in all four.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check fastavro==1.13.1 avro==1.12.2
cd "$work"
venv/bin/python - <<'PY'
import io
import json

import avro.io
import avro.schema
import fastavro


def both(union: list[str], value: int) -> tuple[float, float]:
    parsed, out = fastavro.parse_schema(union), io.BytesIO()
    fastavro.schemaless_writer(out, parsed, value)
    fast = fastavro.schemaless_reader(io.BytesIO(out.getvalue()), parsed)
    schema, other = avro.schema.parse(json.dumps(union)), io.BytesIO()
    avro.io.DatumWriter(schema).write(value, avro.io.BinaryEncoder(other))
    slow = avro.io.DatumReader(schema, schema).read(avro.io.BinaryDecoder(io.BytesIO(other.getvalue())))
    print(union, value, "-> fastavro", repr(fast), out.getvalue().hex(), "avro", repr(slow), other.getvalue().hex())
    assert out.getvalue()[0] // 2 == 0 and other.getvalue()[0] // 2 == 1
    return fast, slow


for real, whole, edge in (("double", "long", 2**53), ("float", "int", 2**24)):
    assert both([real, whole], edge + 1) == (edge, edge + 1)
    assert both([whole, real], edge + 1) == (edge + 1, edge)
print("as described")
PY
