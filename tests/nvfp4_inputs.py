"""What the NVFP4 tests share: conventions by kind, small inputs, one call to encode."""

from __future__ import annotations

import numpy as np

from tinymoe.core import QuantTensor
from tinymoe.formats import bf16, e2m1, nvfp4
from tinymoe.formats.conventions import NVFP4

ROWWISE = [name for name in NVFP4 if name != "te_2d"]
KERNELS = [name for name, row in NVFP4.items() if row.association == "reciprocal"]


def row(*values: tuple[int, float], K: int = 32) -> np.ndarray:
    """One row of K zeros with some values set."""
    x = np.zeros((1, K), np.float32)
    for index, value in values:
        x[0, index] = value
    return x


def encode(x: np.ndarray, convention: str, source: str = "bfloat16") -> QuantTensor:
    return nvfp4.encode(x, convention=convention, source=source, zero_tensor="as_library")


def codes(q: QuantTensor) -> list[list[int]]:
    return e2m1.unpack(q.codes).tolist()


def random(shape: tuple[int, int], seed: int, source: str) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.02)
    return bf16.round_to_bf16(x) if source == "bfloat16" else x
