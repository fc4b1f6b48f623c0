"""Two traces without a model: their first difference is where the error jumps.

Nothing says here how large an error the format makes, so each tensor is measured by those before
it. In correct engines the relative error grows slowly from tap to tap; a fault is a jump:

    relative row error of this tensor  >  JUMP * the largest of those before it

and at least one rounding of the coarser numerics. Less sharp than the three-way comparison, which
needs the model: `tests/definition/test_diff_alarms.py` measures the growth over 200 seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.oracle.diff.routing import Flip
from tinymoe.oracle.diff.tensors import ROUNDOFF, Bound, TensorDiff, compare, wrong_shape
from tinymoe.oracle.diff.walk import Report, Trace, aligned, judge_ids

JUMP = 64.0


def diff_traces(
    reference: Trace, mine: Trace, numerics: tuple[Numerics, Numerics], *, replay: bool = False
) -> Report:
    """Compare two traces of the same tokens, made in the given numerics, reference first."""
    if any(n.activations == "checkpoint" for n in numerics):
        raise TinymoeError(
            "a trace whose activations are quantised ('checkpoint') is off by what its format "
            "costs, which a second trace does not tell: give the checkpoint with --model DIR"
        )
    names = [name for name in reference if name in mine]
    if not set(names) - {"tokens"}:
        raise TinymoeError(
            f"no tap in common: the reference has {list(reference)[:5]}, the other {list(mine)[:5]}"
        )
    if "tokens" in names and not np.array_equal(reference["tokens"], mine["tokens"]):
        raise TinymoeError(
            "the two traces are of other tokens: "
            f"{reference['tokens'][:8].tolist()}... and {mine['tokens'][:8].tolist()}..."
        )
    flips: list[Flip] = []
    tensors = tuple(_walk(names, reference, mine, numerics, flips, replay))
    first = next((t for t in tensors if t.status != "agrees"), None)
    return Report(
        mode="two-way",
        numerics=" and ".join(dict.fromkeys(n.name for n in numerics)),
        replay=replay,
        tensors=tensors,
        flips=tuple(flips),
        first=first,
        wrong=() if first is None else (first.name,),
        missing=tuple(n for n in reference if n not in mine and not n.endswith("expert_out")),
        extra=tuple(sorted(set(mine) - set(reference))),
        order=tuple(reference),
        notes=(
            f"two traces, no model: a tensor is wrong where the error jumps by more than {JUMP:g}; "
            "--model gives bounds of its own to every tensor, and knows groups of experts",
        ),
    )


def _walk(
    names: list[str],
    reference: Trace,
    mine: Trace,
    numerics: tuple[Numerics, Numerics],
    flips: list[Flip],
    replay: bool,
) -> Iterator[TensorDiff]:
    """Every common tap; tokens that met other experts are not judged from there on."""
    so_far = max(ROUNDOFF[n.storage] for n in numerics)
    judged: Array | None = None
    for name in names:
        a, b = reference[name], mine[name]
        if a.shape != b.shape:
            yield wrong_shape(name, a, b)
        elif name.endswith("router.ids"):
            here = list(_flips(name, reference, mine))
            flips += here
            yield judge_ids(name, a, b, here, replay)
            judged = _still(len(a), here, judged)
        else:
            limit = 0.0 if name == "tokens" else JUMP * so_far
            found = compare(name, a, aligned(mine, name, reference), Bound(limit, limit), judged)
            if name.endswith("router.margin"):  # a difference of scores, which were judged
                found = replace(found, status="agrees", excess=0.0, note="not judged by itself")
            elif found.status == "agrees" and judged is None:
                so_far = max(so_far, max(found.row_errors, default=0.0))
            if judged is not None and not judged.any():
                found = replace(found, note="not judged: every token met other experts before")
            yield found


def _flips(name: str, reference: Trace, mine: Trace) -> Iterator[Flip]:
    """Tokens on other experts; a tie is what the difference of the two runs' scores explains."""
    a, b = np.sort(reference[name]), np.sort(mine[name])
    scores = name.removesuffix("ids") + "scores"
    one, other = reference.get(scores), mine.get(scores)
    margin = reference.get(name.removesuffix("ids") + "margin")
    for t in np.flatnonzero((a != b).any(-1)):
        gap = moved = np.nan
        if one is not None:
            out, into = sorted(set(a[t]) - set(b[t])), sorted(set(b[t]) - set(a[t]))
            if into and into[0] >= 0 and into[-1] < one.shape[-1]:
                gap = float(one[t, out].max() - one[t, into].min())
        if margin is not None:  # of what chose, bias and all
            gap = float(margin[t])
        if one is not None and other is not None and one.shape == other.shape:
            moved = 2 * float(np.abs(one[t] - other[t]).max())
        size = 1.0 if one is None else float(np.abs(one[t]).max())
        yield Flip(
            layer=int(name.split(".")[1]),
            token=int(t),
            why="tie" if abs(gap) <= moved else "not a tie",
            gap=gap,
            ulps=gap / (2.0 ** np.floor(np.log2(max(size, 2.0**-126))) * 2.0**-23),
            tie=moved,
            reference=tuple(int(i) for i in a[t]),
            engine=tuple(int(i) for i in b[t]),
        )


def _still(tokens: int, flips: list[Flip], judged: Array | None) -> Array | None:
    """A token on other experts is another token from there on, and so are those that see it."""
    if not flips:
        return judged
    first = min(flip.token for flip in flips)
    kept = np.arange(tokens) < first
    return kept if judged is None else judged & kept
