"""Hears which revisions a Redis server publishes, so that those who wait for a change need not ask for it."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

PAUSE_FIRST_S = 0.01
PAUSE_MAX_S = 1.0


class Listener:
    """A thread that listens to the revisions that the server publishes. It reconnects with doubling pauses."""

    def __init__(self, server: redis.Redis, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._changed = threading.Condition()
        self._revision = 0
        self._times = 0  # how often it was (re)connected, or woken: then anything may have happened
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="noderuntime-redis", daemon=True)
        self._thread.start()

    def wait(self, revision: int, timeout_s: float, closed: threading.Event) -> None:
        with self._changed:
            if self._times == 0:  # not connected yet: earlier publications were missed
                self._changed.wait_for(lambda: self._times or closed.is_set(), timeout_s)
                return
            times = self._times
            self._changed.wait_for(
                lambda: self._revision > revision or self._times != times or closed.is_set(), timeout_s
            )

    def wake(self) -> None:
        with self._changed:
            self._times += 1
            self._changed.notify_all()

    def _listen(self) -> None:
        pause_s = PAUSE_FIRST_S
        while not self._closed.is_set():
            # any error: the server may be lost, other clients may publish non-numbers; this thread must continue
            with suppress(Exception), self._pubsub() as heard:
                heard.subscribe(self._channel)
                self.wake()
                pause_s = PAUSE_FIRST_S
                while not self._closed.is_set():
                    message = heard.get_message(timeout=0.2)
                    if message is not None:
                        with self._changed:
                            self._revision = int(message["data"])
                            self._changed.notify_all()
            self._closed.wait(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    def _pubsub(self) -> Any:
        server: Any = self._server
        return server.pubsub(ignore_subscribe_messages=True)

    def close(self) -> None:
        self._closed.set()
        self.wake()
        self._thread.join()
