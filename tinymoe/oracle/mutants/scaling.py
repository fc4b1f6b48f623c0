"""A routed scaling factor applied twice, never, or on one of two paths."""

from __future__ import annotations

from tinymoe.oracle.mutants.mutant import ModelMutant, model_mutant
from tinymoe.oracle.mutants.rerouting import WEIGHTS, after, half_unscaled, needs_scale, rescaled

SCALING: tuple[ModelMutant, ...] = (
    model_mutant(
        "scaling.twice",
        "the routed scaling factor is applied twice",
        WEIGHTS,
        rescaled(lambda f: f * f),
        case="vllm#24119",
        why_not=needs_scale,
    ),
    model_mutant(
        "scaling.lost",
        "the routed scaling factor is not applied",
        WEIGHTS,
        rescaled(lambda f: 1.0),
        case="sglang#12738",
        why_not=needs_scale,
    ),
    model_mutant(
        "scaling.divided",
        "the weights are divided by the routed scaling factor",
        WEIGHTS,
        rescaled(lambda f: 1 / f),
        why_not=needs_scale,
    ),
    model_mutant(
        "scaling.half-the-experts",
        "one path applies the routed scaling factor, the other one, of half the experts, does not",
        WEIGHTS,
        after(half_unscaled),
        case="sglang#35152",
        why_not=needs_scale,
    ),
)
