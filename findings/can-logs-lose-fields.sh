#!/usr/bin/env bash
# python-can 4.6.1: of one list of CAN frames, written by can.Logger and read by can.LogReader, each text format and
# the SQLite one gives back other frames, without an error or a warning.
#
# Seen (Linux x86-64, Python 3.11):
#   .csv, .db  every frame comes back as received and without its channel; a CAN FD frame with 64 bytes comes back
#              as a classic frame (is_fd and bitrate_switch are False) that still has its 64 bytes
#   .log       (candump) a remote frame with DLC 8 comes back with DLC 0; an error frame loses id, data and channel
#   .asc       an error frame loses id and data; a channel that is a name ("can0") comes back as channel 0; times
#              count from the first frame on
#   .blf, .mf4 all of that is kept, but for the name of the channel (0)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check python-can==4.6.1 asammdf==8.8.28
cd "$work"
venv/bin/python -W ignore - <<'PY'
import can

T = 1_700_000_000.0
FRAMES = [
    can.Message(timestamp=T, arbitration_id=0x100, data=[1] * 8, is_extended_id=False, is_rx=False, channel=1),
    can.Message(timestamp=T + 1, arbitration_id=0x1ABCDEF0, data=[2], is_extended_id=True, channel="can0"),
    can.Message(timestamp=T + 2, arbitration_id=0x5, is_remote_frame=True, dlc=8, is_extended_id=False, channel=1),
    can.Message(timestamp=T + 3, arbitration_id=0x20, is_error_frame=True, data=[1] * 8, channel=1),
    can.Message(timestamp=T + 4, arbitration_id=0x7FF, is_fd=True, bitrate_switch=True, data=bytes(64),
                is_extended_id=False, channel=1),
]


def back(ending: str) -> list[can.Message]:
    with can.Logger(f"frames.{ending}") as log:
        for frame in FRAMES:
            log(frame)
    return list(can.LogReader(f"frames.{ending}"))


read = {ending: back(ending) for ending in ("csv", "db", "log", "asc", "blf", "mf4")}
for ending, frames in read.items():
    print(f".{ending}")
    for f in frames:
        print(f"  t={f.timestamp:.1f} id={f.arbitration_id:x} rx={f.is_rx} channel={f.channel} dlc={f.dlc} "
              f"bytes={len(f.data)} error={f.is_error_frame} fd={f.is_fd} brs={f.bitrate_switch}")
    assert len(frames) == len(FRAMES), ending

for ending in ("csv", "db"):
    assert all(f.is_rx and f.channel is None for f in read[ending])
    last = read[ending][4]
    assert (last.is_fd, last.bitrate_switch, len(last.data)) == (False, False, 64)
remote, error = read["log"][2:4]
assert remote.is_remote_frame and remote.dlc == 0
assert (error.arbitration_id, len(error.data), error.channel) == (0, 0, None)
error = read["asc"][3]
assert (error.arbitration_id, len(error.data)) == (0, 0)
assert read["asc"][1].channel == 0 and read["asc"][0].timestamp == 0.0
for ending in ("blf", "mf4"):
    sent, remote, error, fd = read[ending][0], *read[ending][2:]
    assert (sent.is_rx, sent.channel, remote.dlc) == (False, 1, 8)
    assert (error.arbitration_id, len(error.data), fd.is_fd, fd.bitrate_switch) == (0x20, 8, True, True)
    assert read[ending][1].channel == 0
print("as described")
PY
