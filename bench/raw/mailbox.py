"""What bounds our messages per second: the same mailbox in the same LMDB, with nothing around it.

Two bare processes; one puts 64-byte messages in groups of 64, the other takes them in groups, and each group leaves a
state behind: commits, queue counts, back-pressure and doorbells as ours, but no events, no handlers, no fence, no
marks, no metadata. Prints messages per second as JSON.

    python mailbox.py COUNT
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
import tempfile
import time
from itertools import islice

import lmdb

GROUP, QUEUE_MAX = 64, 1000
PLACE = struct.Struct(">QI")
HEAD = struct.Struct("<BBHIQq")
COUNTS = struct.Struct("<QQ")


def bell(path: str) -> tuple[int, select.poll]:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return fd, poller


def wait(fd: int, poller: select.poll) -> None:
    if poller.poll(50):
        os.read(fd, 4096)


def send(folder: str, count: int) -> None:
    env = lmdb.open(folder, map_size=1 << 28, sync=False, metasync=False, max_dbs=0, meminit=False)
    full, room = bell(f"{folder}/room")
    ring, _ = bell(f"{folder}/bell")
    sent = 0
    while sent < count:
        records = [
            HEAD.pack(1, 0, 0, 0, number, time.time_ns()) + struct.pack("<QQ48x", time.monotonic_ns(), number)
            for number in range(sent, min(count, sent + GROUP))
        ]
        while True:
            txn = env.begin(write=True)
            queued, size = COUNTS.unpack(txn.get(b"q") or bytes(16))
            if queued + len(records) <= QUEUE_MAX:
                break
            txn.abort()
            wait(full, room)
        sequence = txn.id()
        txn.cursor().putmulti([(b"m" + PLACE.pack(sequence, at), record) for at, record in enumerate(records)])
        sent += len(records)
        txn.put(b"q", COUNTS.pack(queued + len(records), size + sum(map(len, records))))
        txn.put(b"p0", struct.pack("<Q", sent))
        txn.commit()
        if not queued:
            os.write(ring, b"\1")


def receive(folder: str, count: int) -> float:
    env = lmdb.open(folder, map_size=1 << 28, sync=False, metasync=False, max_dbs=0, meminit=False)
    rung, waiting = bell(f"{folder}/bell")
    ring, _ = bell(f"{folder}/room")
    taken, first_ns = 0, 0
    while taken < count:
        with env.begin() as txn:
            cursor = txn.cursor()
            found = list(islice(cursor, GROUP)) if cursor.set_range(b"m") else []
        found = [item for item in found if item[0].startswith(b"m")]
        if not found:
            wait(rung, waiting)
            continue
        for _, record in found:
            sent_ns, _ = struct.unpack_from("<QQ", record, HEAD.size)
            first_ns = first_ns or sent_ns
        taken += len(found)
        with env.begin(write=True) as txn:
            queued, size = COUNTS.unpack(txn.get(b"q"))
            cursor = txn.cursor()
            for key, _ in found:
                if cursor.key() == key or cursor.set_key(key):
                    cursor.delete()
            left = queued - len(found)
            txn.put(b"q", COUNTS.pack(left, size - sum(len(record) for _, record in found)))
            txn.put(b"p1", struct.pack("<Q", taken))
        if queued > QUEUE_MAX // 2 >= left:
            os.write(ring, b"\1")
    return 1e9 * count / (time.monotonic_ns() - first_ns)


def main() -> None:
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="noderuntime-bench-", dir="/dev/shm") as folder:
        for name in ("bell", "room"):
            os.mkfifo(f"{folder}/{name}")
        sender = os.fork()
        if not sender:
            time.sleep(0.2)
            send(folder, count)
            os._exit(0)
        print(json.dumps(receive(folder, count)))
        os.waitpid(sender, 0)


main()
