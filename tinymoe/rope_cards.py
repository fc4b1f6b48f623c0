"""Rotary position embedding as values: which dimensions turn, how fast, and how it was stretched.

Handed on by `cards.py`, with the cards of the rest of a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Every angle divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Long wavelengths divided by `factor`, short ones as they are, those between blended."""

    factor: float
    low_freq_factor: float  # wavelengths above original_positions / this are divided
    high_freq_factor: float  # wavelengths below original_positions / this are not
    original_positions: int  # of the training before the extension


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """As Llama3Scaling with a linear ramp over dimensions; Peng et al. 2023 (arXiv:2309.00071)."""

    factor: float
    original_positions: int
    beta_fast: float  # dimensions that turn more often than this over original_positions stay
    beta_slow: float  # those that turn less often than this are divided by factor
    truncate: bool  # the ramp begins and ends at whole dimensions; gpt-oss: false
    attention_factor: float  # cos and sin are multiplied by it, so scores by its square


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling:
    """Each angle divided by a factor of its own (Phi)."""

    factors: tuple[float, ...]  # d/2
    attention_factor: float  # as in YarnScaling


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeCard:
    """Rotary position embedding: which dimensions turn, how fast, and how they are paired."""

    theta: float  # base of the geometric series of wavelengths
    rotary_dim: int  # leading dimensions of a head that turn; frequencies are over this number
    pairing: Literal["half", "interleaved"]  # j with j + d/2, or 2j with 2j + 1
    scaling: RopeScaling | None  # how the wavelengths were stretched after training
