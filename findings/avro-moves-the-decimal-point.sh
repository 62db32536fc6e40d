#!/usr/bin/env bash
# avro 1.12.2 (Apache, Python): a Decimal with fewer decimal places than its schema has is written without being brought
# to that scale: the point moves. Bytes and fixed are alike; no error, no warning.
#
# Seen (Linux x86-64, Python 3.11), logical type decimal, precision 8, scale 2, written and read by avro:
#   Decimal("1.1")  0.11       Decimal("5")  0.05       Decimal("1E+2")  0.01       Decimal("-7")  -0.07
#   Decimal("1.10")  1.10: right when the places are as many
# fastavro 1.13.1 writes all of them as they are. More places than the scale both refuse.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check avro==1.12.2 fastavro==1.13.1
cd "$work"
venv/bin/python - <<'PY'
import io
import json
from decimal import Decimal

import avro.io
import avro.schema
import fastavro

DECIMAL = {"logicalType": "decimal", "precision": 8, "scale": 2}
SCHEMAS = {"bytes": {"type": "bytes", **DECIMAL}, "fixed": {"type": "fixed", "name": "F", "size": 6, **DECIMAL}}


def by_avro(schema: dict, value: Decimal) -> Decimal:
    parsed, out = avro.schema.parse(json.dumps(schema)), io.BytesIO()
    avro.io.DatumWriter(parsed).write(value, avro.io.BinaryEncoder(out))
    return avro.io.DatumReader(parsed, parsed).read(avro.io.BinaryDecoder(io.BytesIO(out.getvalue())))


def by_fastavro(schema: dict, value: Decimal) -> Decimal:
    parsed, out = fastavro.parse_schema(schema), io.BytesIO()
    fastavro.schemaless_writer(out, parsed, value)
    return fastavro.schemaless_reader(io.BytesIO(out.getvalue()), parsed)


for kind, schema in SCHEMAS.items():
    for text, seen in (("1.1", "0.11"), ("5", "0.05"), ("1E+2", "0.01"), ("-7", "-0.07"), ("1.10", "1.10")):
        ours, theirs = by_avro(schema, Decimal(text)), by_fastavro(schema, Decimal(text))
        print(f"{kind}: {text} -> avro {ours}, fastavro {theirs}")
        assert ours == Decimal(seen) and theirs == Decimal(text)
print("as described")
PY
