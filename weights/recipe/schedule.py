"""When the run begins, cools down and ends: by the clock or by tokens."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

COOLDOWN = 0.35  # last part of the run in which learning rates fall to zero
LONG_CONTEXT = 0.15  # last part at twice the context
FLOOR = 0.01  # lowest speed: the clock may overrun the end by a step, never reverse it
REWARM_STEPS = 50  # after a restart from bare weights, whose optimiser state is empty


@dataclass(frozen=True)
class Schedule:
    """A budget and the learning speed along it.

    With `until` (seconds since the epoch) the run is measured by the clock from `started`, so that
    it ends on time however slow the machine gets, and whether or not it was interrupted.
    Otherwise `tokens` is the budget.
    """

    started: float
    until: float | None
    tokens: int | None
    warmup_steps: int

    def progress(self, now: float, tokens: int) -> float:
        """Share of the run that is over, 0 to 1 (and beyond)."""
        if self.until is not None:
            return (now - self.started) / max(self.until - self.started, 1.0)
        if self.tokens is None:
            raise ValueError("a schedule needs an end")
        return tokens / self.tokens

    def speed(self, progress: float, steps: int) -> float:
        """Factor on all learning rates after `steps` steps since the (re)start of warm-up."""
        warm = min(1.0, (steps + 1) / max(self.warmup_steps, 1))
        left = max(1.0 - progress, 0.0) / COOLDOWN
        return min(warm, max(left, FLOOR))

    def state(self) -> dict[str, Any]:
        """Plain values, to be saved."""
        return asdict(self)


def clock_time(text: str, now: datetime.datetime | None = None) -> float:
    """The next local time HH:MM, as seconds since the epoch."""
    now = now or datetime.datetime.now()
    hour, minute = map(int, text.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if then <= now:
        then += datetime.timedelta(days=1)
    return then.timestamp()
