"""Which mutants a vector tells from the right function: proved by running each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinymoe.oracle.mutants import (
    FORMAT_MUTANTS,
    MODEL_MUTANTS,
    MUTANTS,
    SAMPLER_MUTANTS,
    Stored,
    Values,
)
from tinymoe.oracle.mutants.mutant import FormatMutant, ModelMutant
from tinymoe.oracle.vectors.answers import answer, read_all, read_answer, row_of, setup_for
from tinymoe.oracle.vectors.vector import Vector, wrong

# Mutants of these steps are tried on vectors of this op; no other changes its answer.
STEPS: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "route": ("router", "scaling"),
    "permute": ("experts",),
    "expert_ffn": ("experts", "activation", "parallel"),
    "combine": ("experts", "parallel"),
    "rope": ("rope",),
    "rmsnorm": ("norm",),
    "attention_prefill": ("attention", "window", "sinks"),
    "attention_decode": ("attention", "window", "sinks"),
    "moe": ("router", "scaling", "experts", "activation", "shared", "parallel"),
    "model": (
        *("attention", "latent", "window", "sinks", "rope", "norm", "dense", "multipliers"),
        *("shared", "parallel", "scaling"),
    ),
}
COUNTED = tuple(m for m in MUTANTS if not m.equivalent)  # the others are no wrong function


def killed_by(vector: Vector) -> tuple[str, ...]:
    """Names of the mutants whose answer is outside the vector's tolerance, in the list's order."""
    with np.errstate(all="ignore"):
        killed = {m.name for m in MODEL_MUTANTS if _model_dies(vector, m)}
        killed |= {m.name for m in FORMAT_MUTANTS if _format_dies(vector, m)}
        if vector.op == "sample":
            row = row_of(vector)
            killed |= {
                m.name
                for m in SAMPLER_MUTANTS
                if m.applies(row) and wrong(vector, {"probabilities": m.apply(row)})
            }
    return tuple(m.name for m in COUNTED if m.name in killed)


def _model_dies(vector: Vector, mutant: ModelMutant) -> bool:
    if mutant.equivalent or mutant.step not in STEPS.get(vector.op, ()):
        return False
    setup = setup_for(vector)
    if setup is None or not mutant.applies(setup):
        return False
    try:
        got = answer(vector, mutant.apply(setup))
    except (IndexError, ValueError):  # it cannot even run: nobody's numbers, no kill
        return False
    return wrong(vector, got, partly=True) is not None


def _format_dies(vector: Vector, mutant: FormatMutant) -> bool:
    """A tensor read wrongly, or all that were fused; the rest is read rightly."""

    def read(stored: Stored) -> Values:
        return mutant.apply(stored) if mutant.applies(stored) else read_all(stored)

    given: Any = vector.given
    products = ("gemm", "grouped_gemm")
    if vector.op not in ("dequantize", *products) and "stored" not in given:
        return False
    if wrong(vector, read_answer(vector, read), partly=True) is not None:
        return True
    if vector.op not in products:
        return False
    return wrong(vector, read_answer(vector, read_all, read), partly=True) is not None


def survivors(vectors: Iterable[Vector]) -> tuple[str, ...]:
    """Mutants that no vector claims to kill."""
    killed = {name for vector in vectors for name in vector.kills}
    return tuple(m.name for m in COUNTED if m.name not in killed)
