#!/usr/bin/env bash
# apache-arrow 21.2.0 (JavaScript): decimals of 256 bits read from an IPC stream have, as text and in JSON, nothing but
# their last digit; those of 128 bits have all. In both the scale is left out: 1.10 is "110". Needs node and npm.
#
# Seen (Linux x86-64, Node 20), 1.10, -1.10 and 123.45 written by pyarrow 26.0.1 with scale 2, String(value) of each:
#   decimal128(20, 2)     "110", "-110", "12345"
#   decimal256(40, 2)     "0", "-0", "5"; the words of the first value are right (110, then seven times 0)
# JSON.stringify gives the same texts, in quotes of their own ("\"0\""). No error, no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cd "$work"
npm install --silent --no-audit --no-fund --no-update-notifier --prefix "$work" apache-arrow@21.2.0 > /dev/null
venv/bin/python - <<'PY'
from decimal import Decimal

import pyarrow as pa

for name, kind in (("128", pa.decimal128(20, 2)), ("256", pa.decimal256(40, 2))):
    values = pa.array([Decimal("1.10"), Decimal("-1.10"), Decimal("123.45")], kind)
    batch = pa.record_batch([values], names=["d"])
    with pa.OSFile(f"{name}.arrows", "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
PY
cat > read.cjs <<'JS'
const assert = require("assert");
const fs = require("fs");
const { tableFromIPC } = require("apache-arrow");

const read = (bits) => {
  const column = tableFromIPC(fs.readFileSync(`${bits}.arrows`)).getChild("d");
  assert.strictEqual(column.type.bitWidth, bits);
  assert.strictEqual(column.type.scale, 2);
  const texts = [...column].map(String);
  console.log(`decimal${bits}:`, texts, "JSON", JSON.stringify([...column]), "words", [...column.get(0)].join(" "));
  assert.strictEqual(column.get(0)[0], 110);
  const quoted = texts.map((text) => `"${text}"`);
  assert.deepStrictEqual(JSON.parse(JSON.stringify([...column])), quoted);
  return texts;
};

assert.deepStrictEqual(read(128), ["110", "-110", "12345"]);
assert.deepStrictEqual(read(256), ["0", "-0", "5"]);
console.log("as described");
JS
node read.cjs
