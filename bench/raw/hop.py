"""One way between two processes, nothing else: `hop.py KIND ROLE PATH COUNT WARMUP`.

KIND is datagram (a unix datagram, the floor for any message between processes), fifo (a byte channel that is polled,
as our doorbells are) or zmq (PUSH and PULL over ipc). The receiver prints the latencies in nanoseconds as JSON.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

PAUSE_S = 0.003
VALUE = struct.Struct("<Q56x")  # 64 bytes: the time of sending, CLOCK_MONOTONIC in ns


def receiver(kind: str, path: str) -> Callable[[], bytes]:
    if kind == "datagram":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(path)
        return lambda: sock.recv(64)
    if kind == "fifo":
        os.mkfifo(path)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        poller = select.poll()
        poller.register(fd, select.POLLIN)

        def receive() -> bytes:
            poller.poll()
            return os.read(fd, 64)

        return receive
    import zmq

    pull = zmq.Context().socket(zmq.PULL)
    pull.bind(f"ipc://{path}")
    return pull.recv


def sender(kind: str, path: str) -> Callable[[bytes], object]:
    if kind == "datagram":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.connect(path)
        return sock.send
    if kind == "fifo":
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        return lambda value: os.write(fd, value)
    import zmq

    push = zmq.Context().socket(zmq.PUSH)
    push.connect(f"ipc://{path}")
    return push.send


def main(kind: str, role: str, path: str, count: int, warmup: int) -> None:
    if role == "send":
        while not Path(path).exists():
            time.sleep(0.01)
        send = sender(kind, path)
        for _ in range(count + warmup):
            time.sleep(PAUSE_S)
            send(VALUE.pack(time.monotonic_ns()))
        time.sleep(0.1)  # zmq sends in a thread of its own
        return
    receive = receiver(kind, path)
    took = []
    for _ in range(count + warmup):
        value = receive()
        now_ns = time.monotonic_ns()
        took.append(now_ns - VALUE.unpack(value)[0])
    print(json.dumps(took[warmup:]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
