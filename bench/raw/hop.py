"""One way between two processes, nothing else: `hop.py KIND ROLE FOLDER COUNT WARMUP`.

KIND is datagram (a unix datagram, the floor for any message between processes), fifo (a byte channel that is polled,
as our doorbells are), zmq (PUSH and PULL over ipc) or iceoryx2 (a sample is published, an event wakes the receiver).
The receiver prints the latencies in nanoseconds as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAUSE_S = 0.003
VALUE = struct.Struct("<Q56x")  # 64 bytes: the time of sending, CLOCK_MONOTONIC in ns


def receiver(kind: str, folder: Path) -> Callable[[], bytes]:
    path = str(folder / "channel")
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
    if kind == "iceoryx2":
        return iceoryx2_receiver(folder)
    import zmq

    pull = zmq.Context().socket(zmq.PULL)
    pull.bind(f"ipc://{path}")
    return pull.recv


def sender(kind: str, folder: Path) -> Callable[[bytes], object]:
    path = str(folder / "channel")
    if kind == "datagram":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.connect(path)
        return sock.send
    if kind == "fifo":
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        return lambda value: os.write(fd, value)
    if kind == "iceoryx2":
        return iceoryx2_sender(folder)
    import zmq

    push = zmq.Context().socket(zmq.PUSH)
    push.connect(f"ipc://{path}")
    return push.send


class Sample(ctypes.Structure):
    _fields_ = [("value", ctypes.c_uint8 * VALUE.size)]


def iceoryx2_services(folder: Path) -> tuple[Any, Any, Any]:
    """The node, and its two services: one carries samples, the other wakes."""
    import iceoryx2

    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    config = iceoryx2.config.default()
    config.global_cfg.root_path = iceoryx2.Path.new(str(folder))
    config.global_cfg.prefix = iceoryx2.FileName.new(f"{folder.name}-")  # of what it leaves in shared memory
    node = iceoryx2.NodeBuilder.new().config(config).create(iceoryx2.ServiceType.Ipc)
    name = folder.name
    samples = node.service_builder(iceoryx2.ServiceName.new(f"{name}/samples")).publish_subscribe(Sample)
    events = node.service_builder(iceoryx2.ServiceName.new(f"{name}/events")).event()
    return node, samples.open_or_create(), events.open_or_create()


def iceoryx2_receiver(folder: Path) -> Callable[[], bytes]:
    node, samples, events = iceoryx2_services(folder)
    subscriber = samples.subscriber_builder().create()
    listener = events.listener_builder().create()
    (folder / "channel").touch()

    def receive(keep: Any = node) -> bytes:
        while True:
            sample = subscriber.receive()
            if sample is not None:
                return bytes(sample.payload().contents.value)
            listener.blocking_wait()

    return receive


def iceoryx2_sender(folder: Path) -> Callable[[bytes], object]:
    node, samples, events = iceoryx2_services(folder)
    publisher = samples.publisher_builder().create()
    notifier = events.notifier_builder().create()

    def send(value: bytes, keep: Any = node) -> None:
        sample = publisher.loan_uninit()
        ctypes.memmove(sample.payload_ptr, value, VALUE.size)
        sample.assume_init().send()
        notifier.notify()

    return send


def main(kind: str, role: str, folder: Path, count: int, warmup: int) -> None:
    if role == "send":
        while not (folder / "channel").exists():
            time.sleep(0.01)
        send = sender(kind, folder)
        for _ in range(count + warmup):
            time.sleep(PAUSE_S)
            send(VALUE.pack(time.monotonic_ns()))
        time.sleep(0.1)  # zmq sends in a thread of its own
        return
    receive = receiver(kind, folder)
    took = []
    for _ in range(count + warmup):
        value = receive()
        now_ns = time.monotonic_ns()
        took.append(now_ns - VALUE.unpack(value)[0])
    print(json.dumps(took[warmup:]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
