"""Checks that need no reference: how the answers to two questions must be related.

A variant makes a second case of a first, and says which part of the first answer the second must
equal. The order of sums is the implementation's own business, so the numbers are judged by the op's
bound; but the same question in other company should have the same bits, and where it has not the
report says so (vllm#53257, flashinfer#3559: temperature 0 that does not repeat).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.contracts import contract

Case = dict[str, Any]

# Arguments whose first axis is tokens (or sequences), by op.
ROWS: Mapping[str, tuple[str, ...]] = {
    "linear": ("x",),
    "rmsnorm": ("x",),
    "rope": ("x", "tables"),
    "route": ("x",),
    "combine": ("expert_out", "weights"),
    "attention_decode": ("q", "block_tables", "lengths"),
    **{f"dequantize_{form}": ("codes", "scales") for form in ("nvfp4", "mxfp4")},
    **{f"gemm_{form}": ("x",) for form in ("nvfp4", "mxfp4")},
    **{f"gemm_{form}_w4a4": ("x_codes", "x_scales") for form in ("nvfp4", "mxfp4")},
}

# Arguments of a recurrence whose first axis is a prompt's tokens, and the one it begins from.
CARRIED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "causal_conv": (("x",), "before"),
    "gated_delta": (("q", "k", "v", "log_decay", "beta"), "state"),
    "lightning": (("q", "k", "v"), "state"),
}


class Related(NamedTuple):
    """A second case, and what of the first answer its answer must be."""

    case: Case
    part: Callable[[Any], Any]
    padded: bool = False  # the second answer holds the first's rows, and one more


Variant = Callable[[Case], Related | None]  # None: this case has no such variant


def take(value: Any, rows: Sequence[int]) -> Any:
    """Rows of an array, of each array of a tuple, or of a list."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(take(item, rows) for item in value)
    if isinstance(value, list):
        return [value[row] for row in rows]
    if isinstance(value, np.ndarray):
        return value[list(rows)]
    return type(value)(*(take(item, rows) for item in value))  # Routing


def some_rows(op: str, pick: Callable[[int], Sequence[int]]) -> Variant:
    """The op on some of its rows, in some order."""

    def make(case: Case) -> Related | None:
        count = len(case[ROWS[op][0]])
        rows = list(pick(count))
        if rows == list(range(count)):
            return None
        changed = {name: take(case[name], rows) for name in ROWS[op]}
        return Related({**case, **changed}, lambda answer: take(answer, rows))

    return make


def padded(op: str) -> Variant:
    """A row of NaN behind the others, as a batch that was filled up has it."""

    def make(case: Case) -> Related | None:
        count = len(case[ROWS[op][0]])
        changed = {name: _with_nan(case[name]) for name in ROWS[op]}
        rows = list(range(count))
        return Related({**case, **changed}, lambda answer: take(answer, rows), padded=True)

    return make


def _with_nan(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_with_nan(item) for item in value)
    row = np.full_like(value[:1], np.nan)
    return np.concatenate([value, row])


def second_chunk(case: Case) -> Related | None:
    """attention_prefill from the middle on: a prompt may be cut anywhere (vllm#26042)."""
    cut = len(case["q"]) // 2
    if not cut:
        return None
    changed = {"q": case["q"][cut:], "start": case["start"] + cut}
    return Related({**case, **changed}, lambda answer: answer[cut:])


def first_chunk(case: Case) -> Related | None:
    """attention_prefill of the first half: later keys must not matter."""
    cut = len(case["q"]) // 2
    return Related({**case, "q": case["q"][:cut]}, lambda answer: answer[:cut]) if cut else None


def carried_on(op: str) -> Variant:
    """A recurrence from the middle on, begun from the right state of the first half's end."""

    def make(case: Case) -> Related | None:
        tokens, begin = CARRIED[op]
        cut = len(case[tokens[0]]) // 2
        if not cut:
            return None
        first = {name: case[name][:cut] for name in tokens}
        second = {name: case[name][cut:] for name in tokens}
        second[begin] = contract(op).definition(**{**case, **first}).state
        return Related({**case, **second}, lambda answer: (answer.out[cut:], answer.state))

    return make


def renumbered_ffn(case: Case) -> Related | None:
    """Experts in reverse order, their rows with them."""
    groups = [range(start, stop) for start, stop in pairwise(case["offsets"].tolist())]
    if len(groups) < 2:
        return None
    rows = [row for group in groups[::-1] for row in group]
    sizes = [len(group) for group in groups[::-1]]
    changed: Case = {"x": case["x"][rows]}
    changed["offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype(case["offsets"].dtype)
    for name in ("gate_up", "down", "gate_up_bias", "down_bias"):
        if case.get(name) is not None:
            changed[name] = np.ascontiguousarray(case[name][::-1])
    return Related({**case, **changed}, lambda answer: answer[rows])


def renumbered_route(case: Case) -> Related | None:
    """Experts in reverse order: the same choice under other numbers.

    Groups are reversed with them, so the card stays as it is. Where scores tie the choice goes by
    number and may differ: such cases have no variant.
    """
    from tinymoe.model.router import route

    answer, card = route(**case), case["card"]
    if not (answer.margin > 0).all() or card.top_k == card.experts:
        return None
    choosing = answer.scores + (0 if case["bias"] is None else case["bias"])
    if any(len(np.unique(row)) < len(row) for row in (*choosing, *answer.weights)):
        return None
    changed = {"weight": np.ascontiguousarray(case["weight"][::-1])}
    for name in ("bias", "logit_bias"):
        if case.get(name) is not None:
            changed[name] = np.ascontiguousarray(case[name][::-1])

    def part(first: Any) -> Any:
        return first._replace(
            logits=first.logits[:, ::-1],
            scores=first.scores[:, ::-1],
            ids=card.experts - 1 - first.ids,
        )

    return Related({**case, **changed}, part)


def row_variants(op: str) -> dict[str, Variant]:
    """What rows that are independent of each other allow."""
    found = {
        "a batch of one is a row of a batch": some_rows(op, lambda n: [n - 1]),
        "rows in another order": some_rows(op, lambda n: range(n)[::-1]),
    }
    # codes have no NaN
    if op not in ("attention_decode", "rope") and not any("codes" in name for name in ROWS[op]):
        found["a row of NaN beside the others"] = padded(op)
    return found


VARIANTS: Mapping[str, Mapping[str, Variant]] = {
    **{op: row_variants(op) for op in ROWS},
    "route": {
        **row_variants("route"),
        "experts under other numbers": renumbered_route,
    },
    "expert_ffn": {"experts under other numbers": renumbered_ffn},
    "attention_prefill": {
        "a prompt cut in two: its second part": second_chunk,
        "a prompt cut in two: its first part": first_chunk,
    },
    **{op: {"a prompt cut in two: its second part": carried_on(op)} for op in CARRIED},
}


def array_inputs(case: Case) -> list[str]:
    """Arguments that are arrays of numbers or of codes: each must matter (flashinfer#3423)."""
    return [
        name
        for name, value in case.items()
        if isinstance(value, np.ndarray)
        and (value.dtype.kind == "f" or value.dtype == np.uint8)
        and value.size
    ]


def another(values: Array) -> Array:
    """Values of the same kind that differ from these nearly everywhere."""
    turned = values[..., ::-1] if values.ndim else values
    with np.errstate(over="ignore"):
        changed = turned ^ np.uint8(0x11) if values.dtype == np.uint8 else turned * 2 + 1
    return np.ascontiguousarray(changed).reshape(values.shape)


def same_bits(a: Any, b: Any) -> bool:
    """Equal in every bit but the sign of zero, whatever the containers; NaN equals NaN."""
    if isinstance(a, tuple | list):
        return all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")


def distance(a: Any, b: Any) -> float:
    """The largest difference of two answers' numbers; inf where only one is a number."""
    if isinstance(a, tuple | list):
        return max(distance(x, y) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape:
        return float("inf")
    same = (np.isnan(x) & np.isnan(y)) | (x == y)  # infinities too
    gap: Array = np.abs(np.where(same, 0.0, x) - np.where(same, 0.0, y))
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))


def size(value: Any) -> float:
    """The largest finite number of an answer."""
    if isinstance(value, tuple | list):
        return max(size(part) for part in value)
    numbers = np.abs(np.asarray(value, np.float64))
    return float(numbers[np.isfinite(numbers)].max(initial=0.0))
