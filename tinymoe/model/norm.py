"""RMSNorm: scale a vector to root mean square 1, then each dimension by a learned weight.

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


def rmsnorm_naive(x: Array, weight: Array, eps: float) -> list[float]:
    """The twin: one vector x (N,), plain Python floats, left to right."""
    mean_square = sum(float(value) ** 2 for value in x) / len(x)
    root = (mean_square + eps) ** 0.5
    return [float(w) * float(value) / root for value, w in zip(x, weight, strict=True)]
