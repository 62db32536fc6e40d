"""The thread that commits finished events while a slow handler keeps the loop of its operator busy. Floor 2."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable

HELPER_S = 0.001
IDLE_TURNS_MAX = 50


class CommitHelper(threading.Thread):
    """Looks every HELPER_S, while groups are being handled, whether finished events wait: calls `look`, which tells
    whether anything is left to look after.

    Waking it for each group would cost a switch of threads per group; so it stays awake while there is a backlog.
    """

    def __init__(self, look: Callable[[], bool]) -> None:
        super().__init__(name="noderuntime-commits", daemon=True)
        self._look = look
        self._armed = threading.Event()
        self._used = False
        self._stopped = False
        self.start()

    def arm(self) -> None:
        self._used = True
        if not self._armed.is_set():
            self._armed.set()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._stopped = True
        self._armed.set()
        self.join()

    def run(self) -> None:
        try:
            self._watch()
        except BaseException:
            # nothing would notice that this thread is gone; the next life can go on
            traceback.print_exc()
            os._exit(1)

    def _watch(self) -> None:
        idle_turns = 0
        while not self._stopped:
            if idle_turns > IDLE_TURNS_MAX:
                idle_turns = 0
                self._armed.clear()
                self._armed.wait()
            time.sleep(HELPER_S)
            used, self._used = self._used, False
            idle_turns = 0 if self._look() or used else idle_turns + 1
