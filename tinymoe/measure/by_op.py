"""Where the time of a step goes, op by op, for a backend that is called op by op.

Every member of `Ops` is wrapped by one that looks at the clock before and after; what is between
the ops (norms of the residual stream, the head, Python itself) is the rest of the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from tinymoe.measure.machine import Clock
from tinymoe.measure.runs import Subject

REST = "the rest"


def by_op(
    subject: Subject, call: Callable[[Subject], Any], clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Seconds of each op in one `call` with the subject, the largest first, and the rest."""
    spent: dict[str, float] = {}
    running: list[str] = []  # an op may call another: its time is the inner one's

    def timed(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            if running:
                return op(*args, **named)
            running.append(name)
            begin = clock()
            try:
                return op(*args, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + clock() - begin
                running.pop()

        return wrapped

    names = [field.name for field in fields(subject.ops) if field.name != "step"]
    wrapped: dict[str, Any] = {name: timed(name, getattr(subject.ops, name)) for name in names}
    begin = clock()
    call(subject._replace(ops=replace(subject.ops, **wrapped)))
    total = clock() - begin
    spent[REST] = total - sum(spent.values())
    return dict(sorted(spent.items(), key=lambda item: -item[1]))
