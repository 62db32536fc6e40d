"""How often something may be started again without making progress, and how long to wait before it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Budget:
    """Restarts without progress: how many are left, and how long to wait. A function of (spent, now,
    window)."""

    max_restarts: int
    window_s: float
    delay_s: float
    max_delay_s: float
    spent_s: list[float] = field(default_factory=list)
    streak: int = 0

    def spend(self, now_s: float) -> float | None:
        """The seconds to wait before the next life; None when the budget is used up."""
        if self.max_restarts:
            self.spent_s = [at_s for at_s in self.spent_s if now_s - at_s < self.window_s]
            if len(self.spent_s) >= self.max_restarts:
                return None
            self.spent_s.append(now_s)
        self.streak += 1
        if self.streak == 1:
            return 0.0
        # a float doubles about a thousand times, a crash loop lasts longer
        return min(self.delay_s * 2.0 ** min(self.streak - 2, 60), self.max_delay_s)

    def reset(self) -> None:
        """Progress was made."""
        self.spent_s.clear()
        self.streak = 0
