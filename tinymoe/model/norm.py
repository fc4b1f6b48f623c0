"""Norms. RMSNorm: scale a vector to root mean square 1, then each dimension by a learned weight.

Zhang and Sennrich 2019 (arXiv:1910.07467).
"""

from __future__ import annotations

from tinymoe.core import Array, Numerics
from tinymoe.model.precision import array_module, store, vecdot


def rmsnorm(
    x: Array, weight: Array, eps: float, numerics: Numerics, *, rounds_before_weight: bool
) -> Array:
    """x (..., N) to `weight * x / sqrt(mean(x^2) + eps)`, (..., N).

    weight: (N,), or one for each head, (heads, N).

    The sum over N in `numerics.accumulate`, in the order of the BLAS dot product of the vector
    with itself. Storage rounding: of the result; and, where the family's own code does so (Llama,
    Qwen: `rounds_before_weight`), also of x / rms before the product with the weight.
    """
    xp = array_module(x)
    mean_square = vecdot(x, x)[..., None] / x.shape[-1]  # (..., 1)
    normed = x / xp.sqrt(mean_square + eps)
    if rounds_before_weight:
        normed = store(normed, numerics.storage)
    return store(normed * weight, numerics.storage)


def layernorm(x: Array, weight: Array, bias: Array, eps: float, numerics: Numerics) -> Array:
    """x (..., N) to `weight * (x - mean) / sqrt(var + eps) + bias`, (..., N).

    Ba, Kiros and Hinton 2016 (arXiv:1607.06450); var is the mean of (x - mean)^2. The mean's sum
    is NumPy's pairwise one, the other in the order of the BLAS dot product; all in
    `numerics.accumulate`, one rounding to storage at the end.
    """
    xp = array_module(x)
    centred = x - x.mean(axis=-1, keepdims=True)  # (..., N)
    variance = vecdot(centred, centred)[..., None] / x.shape[-1]  # (..., 1)
    return store(centred / xp.sqrt(variance + eps) * weight + bias, numerics.storage)


def layernorm_naive(x: Array, weight: Array, bias: Array, eps: float) -> list[float]:
    """The twin: one vector x (N,), plain Python floats, left to right."""
    mean = sum(float(value) for value in x) / len(x)
    root = (sum((float(value) - mean) ** 2 for value in x) / len(x) + eps) ** 0.5
    triples = zip(x, weight, bias, strict=True)
    return [float(w) * (float(value) - mean) / root + float(b) for value, w, b in triples]


def rmsnorm_naive(x: Array, weight: Array, eps: float) -> list[float]:
    """The twin: one vector x (N,), plain Python floats, left to right."""
    mean_square = sum(float(value) ** 2 for value in x) / len(x)
    root = (mean_square + eps) ** 0.5
    return [float(w) * float(value) / root for value, w in zip(x, weight, strict=True)]
