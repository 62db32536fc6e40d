#!/usr/bin/env bash
# mcap-ros2-support 0.6.0 and rosbags 0.11.9 read one MCAP file of ROS 2 messages as other numbers: the types `char` and
# `byte` are signed in the one where they are unsigned in the other, and the other way about.
#
# Seen (Linux x86-64, Python 3.11), the byte C8 of a message in a file written by rosbags, read by mcap_ros2 / rosbags:
#   char c      -56 / 200         char[] c    [-56, 1] / [200, 1] (uint8)
#   byte c      200 / -56         byte[] c    c8 01 as bytes / [-56, 1] (int8)
#   uint8 c     200 / 200         int8 c      -56 / -56
# The writers differ alike: of 200, mcap_ros2 refuses a char and takes a byte.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  mcap-ros2-support==0.6.0 mcap==1.6.0 rosbags==0.11.9 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
from pathlib import Path

import numpy as np
from mcap_ros2.reader import read_ros2_messages
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

MANY = np.array([0xC8, 1], np.uint8)


def both(field: str, value) -> list[list[int]]:
    """The numbers of the field `c` of one message in one file, as mcap_ros2 and as rosbags read them."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    name = "sign_msgs/msg/T"
    store.register(get_types_from_msg(field, name))
    folder = Path(field.split()[0].replace("[]", "s"))
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection("/t", name, typestore=store)
        bag.write(connection, 1, store.serialize_cdr(store.types[name](value), name))
    with Reader(folder) as bag:
        theirs = [store.deserialize_cdr(raw, name).c for _, _, raw in bag.messages()]
    path = next(folder.glob("*.mcap"))
    mcap = [read.ros_msg.c for read in read_ros2_messages(str(path))]
    found = [np.atleast_1d(list(c) if isinstance(c, bytes) else c).tolist() for c in (*mcap, *theirs)]
    print(f"{field}: mcap_ros2 {found[0]}, rosbags {found[1]}")
    return found


assert both("char c", 0xC8) == [[-56], [200]]
assert both("char[] c", MANY) == [[-56, 1], [200, 1]]
assert both("byte c", -56) == [[200], [-56]]
assert both("byte[] c", MANY.view("i1")) == [[200, 1], [-56, 1]]
assert both("uint8 c", 0xC8) == [[200], [200]]
assert both("int8 c", -56) == [[-56], [-56]]
print("as described")
PY
