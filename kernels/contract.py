"""One row of the op table: what an op owes, and who implements it. The table is `contracts.py`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Case = dict[str, Any]  # an op's arguments by name
Exactness = Literal["exact", "exact on the exact grid", "derived bound"]
Implementation = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One row of the table."""

    name: str
    signature: str  # arguments and result, with shapes
    exactness: Exactness
    promise: str  # what "equal" means here, in a sentence
    check: Callable[[Case, Any], None]  # raises AssertionError
    implementations: dict[str, Implementation]  # "definition" is what all must equal

    @property
    def definition(self) -> Implementation:
        """The function that says what is right."""
        return self.implementations["definition"]

    @property
    def anywhere(self) -> dict[str, Implementation]:
        """The implementations that need no GPU."""
        return {name: one for name, one in self.implementations.items() if name != "cuda"}

    def inputs(self) -> SearchStrategy[Case]:
        """A hypothesis strategy of cases: the op's arguments by name."""
        try:
            from tinymoe.kernels import strategies
        except ModuleNotFoundError as error:
            if error.name != "hypothesis":
                raise
            raise TinymoeError(
                "drawing inputs for an op needs hypothesis: pip install 'tinymoe[test]'"
            ) from error
        return strategies.STRATEGIES[self.name]()

    def judge(self, implementation: Implementation, case: Case) -> None:
        """Run an implementation on a case; AssertionError unless it keeps the contract."""
        given = deepcopy(case)
        got = implementation(**given)
        for name, value in case.items():
            if not _same(value, given[name]):
                raise AssertionError(f"{self.name}: the implementation changed its input {name!r}")
        self.check(case, got)


def _same(a: Any, b: Any) -> bool:
    """Equal values, arrays bit for bit."""
    if isinstance(a, np.ndarray):
        return a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
