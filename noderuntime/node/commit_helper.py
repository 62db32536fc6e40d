"""The thread that commits finished events while a slow handler keeps the loop of its operator busy.

It only decides when: what is committed is the operator's group (group.py), which starts this thread.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable

from noderuntime.node.timerfd import OneShotTimer

LOOK_AGAIN_NS = 20_000_000


class CommitHelper(threading.Thread):
    """Calls `look` if a group is still not committed `after_ns` after it has begun, and calls it again a little later
    while it returns that events still wait.
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
            # nothing would notice that this thread has died; the next life can continue
            traceback.print_exc()
            os._exit(1)
