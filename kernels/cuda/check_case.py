"""One case on a device: the contract kept or broken, the PTX machine's bits, milliseconds.

A GPU and the PTX machine run the same instructions on the same inputs, so their bits may differ
only where PTX leaves a result open: approximate exp2, sine and reciprocals, the sums inside a
tensor core, the order of atomics. Hence two questions for each case. The second fails nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinymoe.core import TinymoeError
from tinymoe.kernels.contract import Case, Contract, Implementation
from tinymoe.kernels.cuda.table import home
from tinymoe.kernels.cuda.timed_devices import Timed, TimedPtx
from tinymoe.kernels.ptx import DefectError

REPEATS = 3  # timed runs of a case on a GPU, after the one that is judged (and that compiles)
MOST_EVIDENCE = 256 * 1024  # bytes of arrays that a report carries of a case


@dataclass(frozen=True, slots=True)
class Pair:
    """A rung on the device, and the same on the PTX machine (None: the device is that machine)."""

    contract: Contract
    device: Timed
    here: Implementation
    reference_device: TimedPtx | None
    reference: Implementation | None


@dataclass(slots=True)
class Outcome:
    """What a case showed. Times: milliseconds of the kernels of a call."""

    number: int
    size: int  # bytes of the arrays given
    shapes: dict[str, str] = field(default_factory=dict)
    failure: str = ""  # how it broke the contract
    lost: bool = False  # the device cannot be trusted any more: go on in another process
    compared: bool = False  # both gave a result
    difference: str = ""  # where their bits differ
    reference_failure: str = ""  # why the PTX machine gave none
    evidence: str = ""  # arguments and results, if something is wrong
    device_ms: list[float] = field(default_factory=list)
    ptx_ms: float | None = None


def begun(number: int, case: Case) -> Outcome:
    """A case that has not been run: what is known should the process not live through it."""
    shapes = {name: in_words(value) for name, value in case.items()}
    return Outcome(number, sum(a.nbytes for a in arrays(list(case.values()))), shapes)


def run_case(pair: Pair, number: int, case: Case) -> Outcome:
    """Judge, time, compare."""
    outcome, seen = begun(number, case), list[Any]()

    def watched(**given: Any) -> Any:
        seen.append(home(pair.device, pair.here(**given)))
        return seen[0]

    pair.device.forget()
    try:
        pair.contract.judge(watched, case)
    except AssertionError as error:
        outcome.failure = str(error) or "the contract's check failed"
    except (TinymoeError, DefectError) as error:  # refused, or found by the PTX machine
        outcome.failure = f"raised {type(error).__name__}: {error}"
    except Exception as error:  # of a GPU, such an error comes again at every call
        outcome.failure = f"raised {type(error).__name__}: {error}"
        outcome.lost = pair.reference is not None
    if seen and not outcome.lost:  # else there are no bits, and no time that means anything
        _time(pair, case, outcome)
        _compare(pair, case, seen[0], outcome)
    if outcome.failure or outcome.difference:
        outcome.evidence = evidence({"given": case, "got": seen[0] if seen else None})
    return outcome


def _time(pair: Pair, case: Case, outcome: Outcome) -> None:
    """A GPU's first call may have loaded a module between; the PTX machine's own one serves."""
    device = pair.device
    if isinstance(device, TimedPtx):
        outcome.device_ms = [device.last_call_ms()]
        return
    try:
        for _ in range(REPEATS):
            device.forget()
            pair.here(**case)
            outcome.device_ms.append(device.last_call_ms())
    except Exception as error:
        outcome.failure = outcome.failure or f"raised when called again: {error}"
        outcome.lost = True


def _compare(pair: Pair, case: Case, got: Any, outcome: Outcome) -> None:
    if pair.reference is None or pair.reference_device is None:
        return
    pair.reference_device.forget()
    try:
        want = pair.reference(**case)
    except Exception as error:
        outcome.reference_failure = f"{type(error).__name__}: {error}"
        return
    outcome.ptx_ms = pair.reference_device.last_call_ms()
    outcome.compared, outcome.difference = True, difference(got, want)


def difference(got: Any, want: Any) -> str:
    """Where two results differ in bits; empty if nowhere. NaN equals the same NaN."""
    found = []
    for number, (a, b) in enumerate(zip(arrays(got), arrays(want), strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"array {number}: {a.dtype} {a.shape}, there {b.dtype} {b.shape}")
        elif a.tobytes() != b.tobytes():
            bits = np.dtype(f"u{a.itemsize}")
            unequal = np.ravel(a).view(bits) != np.ravel(b).view(bits)
            far = _far(np.ravel(a)[unequal], np.ravel(b)[unequal])
            found.append(f"array {number}: {int(unequal.sum())} of {a.size} numbers{far}")
    return "; ".join(found)


def _far(a: Any, b: Any) -> str:
    """How far apart, in units in the last place of the larger number."""
    if a.dtype.kind != "f":
        return ""
    with np.errstate(invalid="ignore", over="ignore"):
        units = np.abs(a - b) / np.spacing(np.maximum(np.abs(a), np.abs(b)))
    return f", by up to {np.nanmax(units):.3g} ulp" if np.isfinite(units).any() else ""


def arrays(value: Any) -> list[Any]:
    """Every array and number of a result, in order, as arrays."""
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in arrays(part)]
    if isinstance(value, np.ndarray | np.generic | int | float):
        return [np.ascontiguousarray(value)]
    return []


def in_words(value: Any) -> str:
    """An argument in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return "[" + ", ".join(map(in_words, value)) + "]"
    return str(getattr(value, "name", None) or repr(value))


def evidence(parts: dict[str, Any]) -> str:
    """Arrays as a base64 `.npz`, for whoever has no such GPU; empty if it would be too long.

    `np.load(io.BytesIO(base64.b64decode(text)))`: "given.x", "got.0", ...
    """
    named: dict[str, Any] = {}
    for part, value in parts.items():
        items = value.items() if isinstance(value, dict) else enumerate(arrays(value))
        for name, one in items:
            found = arrays(one)
            ends = [""] if len(found) == 1 else [f".{number}" for number in range(len(found))]
            named |= {f"{part}.{name}{end}": a for end, a in zip(ends, found, strict=True)}
    if sum(a.nbytes for a in named.values()) > MOST_EVIDENCE:
        return ""
    file = io.BytesIO()
    np.savez_compressed(file, **named)
    return base64.b64encode(file.getvalue()).decode("ascii")


def opened(text: str) -> dict[str, Any]:
    """The arrays of `evidence`."""
    with np.load(io.BytesIO(base64.b64decode(text))) as file:
        return dict(file)


def drawn(row: Contract, cases: int, seed: int, takes: Callable[[Case], bool]) -> list[Case]:
    """Cases of an op's strategy that a rung is for. The same call gives the same cases."""
    strategy = row.inputs()  # raises TinymoeError where hypothesis is missing
    import hypothesis

    found: list[Case] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        phases=[hypothesis.Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=strategy.filter(takes))
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found[:cases]
