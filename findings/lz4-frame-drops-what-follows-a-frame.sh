#!/usr/bin/env bash
# lz4 4.4.5 (Python): lz4.frame.decompress gives the first frame of its bytes and drops the rest without an error. What
# was appended to a file of LZ4 frames is thus missing, and a file that begins with a skippable frame is empty.
#
# Seen (Linux x86-64, Python 3.11), of the frames of b"first" and b"second", one behind the other:
#   lz4.frame.decompress                                           b"first"
#   lz4.frame.open, cramjam 2.14.0, pyarrow 26.0.1 (stream)        b"firstsecond"
# of a skippable frame with 4 bytes and the frame of b"first":
#   lz4.frame.decompress                                           b""
#   the three others                                               b"first"
# For gzip, bz2 and zstd pyarrow and cramjam give all members as well.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lz4==4.4.5 cramjam==2.14.0 pyarrow==26.0.1
cd "$work"
venv/bin/python - <<'PY'
import io
import struct

import cramjam
import lz4.frame
import pyarrow as pa


def read(data: bytes) -> dict[str, bytes]:
    found = {
        "decompress": lz4.frame.decompress(data),
        "open": lz4.frame.open(io.BytesIO(data)).read(),
        "cramjam": bytes(cramjam.lz4.decompress(data)),
        "pyarrow": pa.CompressedInputStream(pa.BufferReader(data), "lz4").read(),
    }
    print(found)
    return found


first, second = lz4.frame.compress(b"first"), lz4.frame.compress(b"second")
skippable = struct.pack("<II", 0x184D2A50, 4) + b"meta"
for data, whole, cut in ((first + second, b"firstsecond", b"first"), (skippable + first, b"first", b"")):
    found = read(data)
    assert found.pop("decompress") == cut
    assert set(found.values()) == {whole}
print("as described")
PY
