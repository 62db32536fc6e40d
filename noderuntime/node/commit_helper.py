"""The thread that commits finished events while a slow handler keeps the loop of its operator busy."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable

from noderuntime.node.timerfd import OneShotTimer

LOOK_AGAIN_NS = 20_000_000


class CommitHelper(threading.Thread):
    """Calls `look` when a group that has begun is not being committed `after_ns` later; a little later once more, if it
    says that something still waits.
    """

    def __init__(self, look: Callable[[], bool], after_ns: int) -> None:
        super().__init__(name="noderuntime-commits", daemon=True)
        self._look = look
        self._timer = OneShotTimer(after_ns)
        self._stopped = False
        self.begun = self._timer.set
        self.committing = self._timer.clear
        self.start()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._stopped = True
        self._timer.set_in(0)
        self.join()
        self._timer.close()

    def run(self) -> None:
        try:
            while True:
                self._timer.wait()
                if self._stopped:
                    return
                if self._look():
                    self._timer.set_in(LOOK_AGAIN_NS)
        except BaseException:
            # nothing would notice that this thread is gone; the next life can go on
            traceback.print_exc()
            os._exit(1)
