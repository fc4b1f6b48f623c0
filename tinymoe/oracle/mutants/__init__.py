"""Mutants: named wrong variants of the definition's steps, with the public bugs they stand for.

They are what tests must kill, what `diff` must find, and what `diagnose` tries one by one.

    setup = Setup(model.config, model.params, model.ops)
    for mutant in MODEL_MUTANTS:
        if mutant.applies(setup):
            config, params, ops = mutant.apply(setup)
            wrong = trace(params, config, ids, numerics, ops=ops)

`MODEL_MUTANTS` change a `Setup`; `FORMAT_MUTANTS` read stored tensors (one, or gate and up) into
wrong values; `SAMPLER_MUTANTS` turn a `Row` into wrong probabilities. Small models, tensors and
rows on which each of them shows are in `specimens.py`.
"""

from __future__ import annotations

from typing import Any

from tinymoe.core import TinymoeError
from tinymoe.oracle.mutants.attention import ATTENTION, SINKS, WINDOW
from tinymoe.oracle.mutants.choice import CHOICE
from tinymoe.oracle.mutants.experts import ACTIVATION, EXPERTS
from tinymoe.oracle.mutants.formats import FORMATS, LAYOUTS
from tinymoe.oracle.mutants.mutant import (
    FormatMutant,
    ModelMutant,
    Mutant,
    Row,
    SamplerMutant,
    Setup,
    Stored,
    Values,
)
from tinymoe.oracle.mutants.parallel import PARALLEL
from tinymoe.oracle.mutants.residual import NORMS, SHARED_EXPERT
from tinymoe.oracle.mutants.rope import ROPE
from tinymoe.oracle.mutants.router import ROUTER
from tinymoe.oracle.mutants.sampling import SAMPLER
from tinymoe.oracle.mutants.scaling import SCALING
from tinymoe.oracle.mutants.stored import decode

__all__ = [
    "FORMAT_MUTANTS",
    "MODEL_MUTANTS",
    "MUTANTS",
    "SAMPLER_MUTANTS",
    "FormatMutant",
    "ModelMutant",
    "Mutant",
    "Row",
    "SamplerMutant",
    "Setup",
    "Stored",
    "Values",
    "decode",
    "mutant",
]

MODEL_MUTANTS: tuple[ModelMutant, ...] = (
    *CHOICE,
    *ROUTER,
    *SCALING,
    *EXPERTS,
    *ACTIVATION,
    *SHARED_EXPERT,
    *ATTENTION,
    *WINDOW,
    *SINKS,
    *ROPE,
    *NORMS,
    *PARALLEL,
)
FORMAT_MUTANTS: tuple[FormatMutant, ...] = (*FORMATS, *LAYOUTS)
SAMPLER_MUTANTS: tuple[SamplerMutant, ...] = SAMPLER
MUTANTS: tuple[Mutant[Any, Any], ...] = (*MODEL_MUTANTS, *FORMAT_MUTANTS, *SAMPLER_MUTANTS)

_BY_NAME = {found.name: found for found in MUTANTS}


def mutant(name: str) -> Mutant[Any, Any]:
    """The mutant of that name; an error that lists those of the same step otherwise.

    >>> mutant("scaling.twice").case
    'vllm#24119'
    """
    if name not in _BY_NAME:
        step = name.partition(".")[0]
        near = [other for other in _BY_NAME if other.startswith(f"{step}.")]
        steps = sorted({found.step for found in MUTANTS})
        raise TinymoeError(
            f"no mutant is called {name!r}; "
            + (f"of {step!r} there are {', '.join(near)}" if near else f"steps: {', '.join(steps)}")
        )
    return _BY_NAME[name]
