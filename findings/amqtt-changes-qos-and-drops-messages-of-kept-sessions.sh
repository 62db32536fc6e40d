#!/usr/bin/env bash
# amqtt 0.12.1 (broker): a message reaches a subscriber with the QoS of the subscription, not with the lower one of the
# two (MQTT 3.1.1, 3.8.4). And what is sent to a session that is away, of a client that asked to keep it (clean_session
# False), is lost wherever allow_anonymous is on: then every client is anonymous, one with a user name as well.
#
# Seen (Linux x86-64, Python 3.11, clients: paho-mqtt 2.2.0):
#   sent with QoS 0, 1, 2 to a subscription with QoS 2    all arrive with QoS 2; QoS 1: all with 1
#   subscribed with QoS 1, away, a message with QoS 1     gone after the client is back, without and with a user name
#   the same with allow_anonymous False and a user name   the message is delivered
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check amqtt==0.12.1 paho-mqtt==2.2.0
cd "$work"
venv/bin/python - <<'PY'
import asyncio
import logging
import socket
import threading
import time

import paho.mqtt.client as mqtt
from amqtt.broker import Broker

logging.disable(logging.CRITICAL)


class Client:
    """A connected client that keeps the payload and the QoS of what it receives."""

    def __init__(self, port: int, name: str, clean: bool = True, user: str | None = None) -> None:
        self.got, self.up, self.down, self.subscribed = [], threading.Event(), threading.Event(), threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean)
        if user is not None:
            self.client.username_pw_set(user, "password")
        self.client.on_message = lambda _, __, message: self.got.append((message.payload.decode(), message.qos))
        self.client.on_connect = lambda *_: self.up.set()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_disconnect = lambda *_: self.down.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.up.wait(30)

    def subscribe(self, topic: str, qos: int) -> None:
        self.client.subscribe(topic, qos)
        assert self.subscribed.wait(30)

    def publish(self, topic: str, payload: str, qos: int) -> None:
        self.client.publish(topic, payload, qos).wait_for_publish(30)

    def wait_for(self, payload: str) -> list[tuple[str, int]]:
        end = time.monotonic() + 30
        while not any(found == payload for found, _ in self.got):
            assert time.monotonic() < end, self.got
            time.sleep(0.02)
        return self.got

    def close(self) -> None:
        self.client.disconnect()
        assert self.down.wait(30)
        self.client.loop_stop()


def delivered(port: int, granted: int) -> list[tuple[str, int]]:
    sender, receiver = Client(port, "sender"), Client(port, "receiver")
    receiver.subscribe("t", granted)
    for qos in (0, 1, 2):
        sender.publish("t", f"sent with {qos}", qos)
        receiver.wait_for(f"sent with {qos}")
    receiver.close()
    sender.close()
    print(f"subscription with QoS {granted}:", receiver.got)
    return receiver.got


def kept(port: int, user: str | None) -> list[str]:
    """What a kept session that was away receives when its client is back, up to a message that is sent then."""
    sender, client = Client(port, "sender", user=user), Client(port, "kept", clean=False, user=user)
    client.subscribe("k", 1)
    client.close()
    time.sleep(0.3)
    sender.publish("k", "while away", 1)
    time.sleep(0.3)
    client = Client(port, "kept", clean=False, user=user)
    client.subscribe("k", 1)
    sender.publish("k", "back", 1)
    found = [payload for payload, _ in client.wait_for("back")]
    client.close()
    sender.close()
    print(f"kept session, user {user}:", found)
    return found


async def with_broker(allow_anonymous: bool, run, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": allow_anonymous}}
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
    broker = Broker({"listeners": listeners, "plugins": plugins})
    await broker.start()
    try:
        return await asyncio.to_thread(run, port, *arguments)
    finally:
        await broker.shutdown()


for granted in (1, 2):
    found = asyncio.run(with_broker(True, delivered, granted))
    assert found == [(f"sent with {qos}", granted) for qos in (0, 1, 2)]
assert asyncio.run(with_broker(True, kept, None)) == ["back"]
assert asyncio.run(with_broker(True, kept, "user")) == ["back"]
assert sorted(asyncio.run(with_broker(False, kept, "user"))) == ["back", "while away"]
print("as described")
PY
