"""What waits to be sent to one tap: bounded, and the oldest events are dropped. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from noderuntime.watching.frames import Frame

SENT_AT_ONCE: Final = 64 * 1024


class Backlog:
    """Frames for one tap. Events beyond `bytes_max` push out the oldest ones; one always stays, however large.

    Bodies are shared with the backlogs of other taps, and are not copied.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames: deque[tuple[Frame, bool]] = deque()  # and whether it may be dropped
        self._kept: deque[Frame] = deque()  # what must not be dropped, from between events that were
        self._waiting = 0  # bytes of the events
        self._sending: deque[memoryview] = deque()  # has begun to be sent, so all of it has to be

    @property
    def is_empty(self) -> bool:
        return not (self._sending or self._kept or self._frames)

    def tell(self, frame: Frame) -> None:
        """Add what must not be dropped."""
        self._frames.append((frame, False))

    def add(self, frame: Frame) -> None:
        """Add an event."""
        self._frames.append((frame, True))
        self._waiting += len(frame[0]) + len(frame[1])
        while self._waiting > self._bytes_max and len(self._frames) > 1:
            self._drop()

    def drop_all(self) -> None:
        """Drop all events that wait."""
        while self._frames:
            self._drop()

    def _drop(self) -> None:
        frame, is_event = self._frames.popleft()
        if is_event:
            self._waiting -= len(frame[0]) + len(frame[1])
        else:
            self._kept.append(frame)

    def front(self) -> memoryview:
        """What to send next; not empty unless the backlog is."""
        if not self._sending:
            self._begin()
        return self._sending[0] if self._sending else memoryview(b"")

    def sent(self, count: int) -> None:
        """So many bytes of `front` are gone."""
        view = self._sending[0]
        if count == len(view):
            self._sending.popleft()
        else:
            self._sending[0] = view[count:]

    def _begin(self) -> None:
        parts: list[bytes] = []
        size = 0
        while size < SENT_AT_ONCE and (self._kept or self._frames):
            if self._kept:
                head, body = self._kept.popleft()
            else:
                (head, body), is_event = self._frames.popleft()
                self._waiting -= len(head) + len(body) if is_event else 0
            parts.append(head)
            size += len(head) + len(body)
            if len(body) > SENT_AT_ONCE:
                self._sending += [memoryview(b"".join(parts)), memoryview(body)]
                return
            parts.append(body)
        if parts:
            self._sending.append(memoryview(b"".join(parts)))
