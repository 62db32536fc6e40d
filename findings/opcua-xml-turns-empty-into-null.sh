#!/usr/bin/env bash
# asyncua 2.1.0: empty values that go out by export_xml(export_values=True) and come in by import_xml are null. An empty
# string and an empty array lose their type as well; inside arrays an empty string or byte string becomes None.
#
# Seen (Linux x86-64, Python 3.11), written on one server, read on another that imported the file:
#   ""                         None, of type Null
#   [] of Int32                None, of type Null
#   ["a", ""], [b"a", b""]     ["a", None], [b"a", None]
# NaN, strings with spaces around, large UInt64, times and two-dimensional arrays are kept.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check asyncua==2.1.0
cd "$work"
venv/bin/python - <<'PY'
import asyncio
import logging
import math
from datetime import datetime, timezone

from asyncua import Server, ua

logging.disable(logging.CRITICAL)
INT32 = ua.VariantType.Int32
TIME = datetime(2024, 1, 1, 1, 2, 3, 456789, tzinfo=timezone.utc)
VALUES = {
    "empty": "", "none": ua.Variant([], INT32, is_array=True), "texts": ["a", ""], "blobs": [b"a", b""],
    "nan": math.nan, "spaces": "  x ", "large": ua.Variant(2**63 + 1, ua.VariantType.UInt64), "time": TIME,
    "matrix": ua.Variant([[1, 2], [3, 4]], INT32),
}


async def server() -> tuple[Server, int]:
    made = Server()
    await made.init()
    return made, await made.register_namespace("urn:finding")


async def main() -> dict:
    one, index = await server()
    folder = await one.nodes.objects.add_object(index, "folder")
    nodes = {name: await folder.add_variable(index, name, value) for name, value in VALUES.items()}
    await one.export_xml([folder, *nodes.values()], "nodes.xml", export_values=True)
    two, _ = await server()
    await two.import_xml("nodes.xml")
    found = {name: (await two.get_node(node.nodeid).read_data_value()).Value for name, node in nodes.items()}
    for name, variant in found.items():
        print(f"{name}: {VALUES[name]!r} -> {variant.Value!r} ({variant.VariantType.name})")
    return found


found = asyncio.run(main())
for name in ("empty", "none"):
    assert found[name].Value is None and found[name].VariantType == ua.VariantType.Null
assert found["texts"].Value == ["a", None] and found["blobs"].Value == [b"a", None]
assert math.isnan(found["nan"].Value) and found["spaces"].Value == "  x " and found["large"].Value == 2**63 + 1
assert found["time"].Value == TIME and found["matrix"].Value == [[1, 2], [3, 4]]
print("as described")
PY
