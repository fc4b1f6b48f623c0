"""Rope out of config.json, in the style of transformers 4 or 5, into a `RopeCard`."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

from tinymoe.cards import LinearScaling, Llama3Scaling, RopeCard, RopeScaling, YarnScaling
from tinymoe.core import TinymoeError
from tinymoe.families.fields import Fields

SCALED = ("linear", "llama3", "yarn")  # types that any family may be stretched by


def read_rope(
    fields: Fields,
    head_dim: int,
    *,
    pairing: Literal["half", "interleaved"] = "half",
    types: Collection[str] = SCALED,
    fraction: float | None = None,
) -> RopeCard:
    """The card of a head of `head_dim`, from `rope_theta`, `rope_scaling`, `rope_parameters`.

    `types`: what may be asked for besides "default". `fraction`: of the head that turns, where
    the config does not say (`partial_rotary_factor`); None: the family turns whole heads.
    """
    bases, fractions, scaling = [], [], None
    if "rope_theta" in fields:
        bases.append(fields.positive("rope_theta"))
    if "partial_rotary_factor" in fields:
        fractions.append(fields.positive("partial_rotary_factor"))
    for name in ("rope_scaling", "rope_parameters"):
        if name in fields:
            rope = rope_object(fields, name)
            scaling = _scaling(rope, fields, types) or scaling
            bases += [rope.positive("rope_theta")] if "rope_theta" in rope else []
            given = "partial_rotary_factor" in rope
            fractions += [rope.positive("partial_rotary_factor")] if given else []
            rope.finish(frozenset({"rope_theta", "partial_rotary_factor"}))
    for name in ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"):
        fields.take(name, None)
    if not bases:
        raise TinymoeError(f"{fields.where}: expected 'rope_theta', or 'rope_parameters' with it")
    if min(bases) != max(bases):
        raise fields.error("rope_theta", f"the same everywhere; rope_parameters has {bases[1]}")
    if fraction is None and any(given != 1 for given in fractions):
        raise TinymoeError(
            f"{fields.where}: partial_rotary_factor is {fractions}, but whole heads turn in this "
            "family; it would change the results, so the model is not run without it"
        )
    if fractions and (min(fractions) != max(fractions) or fractions[0] > 1):
        raise fields.error("partial_rotary_factor", "one number, at most 1, the same everywhere")
    rotary_dim = int(head_dim * (fractions[0] if fractions else fraction or 1.0))
    if rotary_dim % 2 or not rotary_dim:
        raise fields.error(
            "partial_rotary_factor",
            f"such that an even number of the head's {head_dim} dimensions turns, in pairs",
        )
    return RopeCard(theta=bases[0], rotary_dim=rotary_dim, pairing=pairing, scaling=scaling)


def rope_object(fields: Fields, name: str) -> Fields:
    """One of the two rope objects, to be read field by field."""
    value = fields.take(name)
    if not isinstance(value, dict):
        raise fields.error(name, "an object or null")
    return Fields(value, f"{fields.where}: {name}")


def _scaling(rope: Fields, fields: Fields, types: Collection[str]) -> RopeScaling | None:
    """The scaling that a rope object asks for; an error for a type that is not in `types`."""
    for key in ("rope_type", "type"):
        rope.only(key, None, "default", *types)
    kinds = {rope.take(key) for key in ("rope_type", "type") if key in rope}
    if len(kinds) > 1:
        raise rope.error("type", "the same as rope_type")
    kind = kinds.pop() if kinds else "default"
    if kind == "longrope":  # the family reads it
        for name in ("short_factor", "long_factor", "short_mscale", "long_mscale"):
            rope.take(name, None)
        rope.take("original_max_position_embeddings", None)
        return None
    if kind == "dynamic":  # with a fixed alpha: the family reads that into theta
        for name in ("alpha", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
            rope.take(name, None)
        return None
    if kind == "linear":
        return LinearScaling(factor=rope.positive("factor"))
    if kind == "llama3":
        return Llama3Scaling(
            factor=rope.positive("factor"),
            low_freq_factor=rope.positive("low_freq_factor"),
            high_freq_factor=rope.positive("high_freq_factor"),
            original_positions=rope.count("original_max_position_embeddings"),
        )
    return _yarn(rope, fields) if kind == "yarn" else None


def _yarn(rope: Fields, fields: Fields) -> YarnScaling:
    """YaRN's numbers; those of the original context stand in for a missing one."""
    factor = rope.positive("factor")
    given = "original_max_position_embeddings" in rope
    positions: int = (rope if given else fields).count(
        "original_max_position_embeddings" if given else "max_position_embeddings"
    )
    rope.take("original_max_position_embeddings", None)
    slow, fast = rope.positive("beta_slow", 1.0), rope.positive("beta_fast", 32.0)
    return YarnScaling(
        factor=factor,
        original_positions=positions,
        beta_fast=fast,
        beta_slow=slow,
        truncate=rope.flag("truncate", True),
        attention_factor=_attention_factor(rope, factor),
    )


def _attention_factor(rope: Fields, factor: float) -> float:
    """What cos and sin are multiplied by: given, or m(mscale) / m(mscale_all_dim), or m(1)."""
    mscale, all_dim = (_number(rope, name) for name in ("mscale", "mscale_all_dim"))
    if "attention_factor" in rope:
        return rope.positive("attention_factor")
    rope.take("attention_factor", None)
    if mscale and all_dim:
        return yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all_dim)
    return yarn_magnitude(factor, 1.0)


def _number(rope: Fields, name: str) -> float:
    """A number of either sign or 0; 0 where it is null or missing."""
    value: Any = rope.take(name, None)
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not math.isfinite(value):
        raise rope.error(name, "a number")
    return float(value)


def yarn_magnitude(factor: float, mscale: float) -> float:
    """m(s, k) = 0.1 k ln s + 1, and 1 without stretching."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def yarn_score_factor(config: dict[str, Any]) -> float:
    """m(factor, mscale_all_dim)^2, by which DeepSeek multiplies the scale of its scores."""
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.get(name)
        if isinstance(rope, dict) and "yarn" in (rope.get("type"), rope.get("rope_type")):
            fields = Fields(rope, f"config.json: {name}")
            all_dim = _number(fields, "mscale_all_dim")
            return yarn_magnitude(fields.positive("factor"), all_dim) ** 2 if all_dim else 1.0
    return 1.0
