"""How often something may be started again without making progress, and how long to wait before it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Budget:
    """Restarts without progress: how many are left, and how long to wait. A function of (spent, now, window).

    A `plain` one counts all restarts, waits before the first one too, and its window begins with the first one in it.
    """

    max_restarts: int
    window_s: float
    delay_s: float
    max_delay_s: float
    spent_s: list[float] = field(default_factory=list)
    streak: int = 0
    plain: bool = False
    since_s: float | None = None  # when the window of a plain one began

    def spend(self, now_s: float) -> float | None:
        """The seconds to wait before the next life; None when the budget is used up."""
        if self.plain and (self.since_s is None or now_s - self.since_s >= self.window_s):
            self.spent_s, self.streak, self.since_s = [], 0, now_s
        if self.max_restarts:
            if not self.plain:
                self.spent_s = [at_s for at_s in self.spent_s if now_s - at_s < self.window_s]
            if len(self.spent_s) >= self.max_restarts:
                return None
            self.spent_s.append(now_s)
        self.streak += 1
        doublings = self.streak - (1 if self.plain else 2)
        if doublings < 0:
            return 0.0
        # a float doubles about a thousand times, a crash loop lasts longer
        return min(self.delay_s * 2.0 ** min(doublings, 60), self.max_delay_s)

    def reset(self) -> None:
        """Progress was made."""
        if not self.plain:
            self.spent_s.clear()
            self.streak = 0
