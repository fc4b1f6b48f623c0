"""Quantisers and their inverses, compiled: the definition's bytes in every convention.

The same on a CPU without extras: a fused or a reassociated operation there would be another byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.on_threads import bits, keeps_contract
from tests.kernels.plain_cpu import on_a_plain_cpu
from tinymoe.core import Array, TinymoeError
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.formats.conventions import MXFP4, NVFP4
from tinymoe.kernels import formats_ops
from tinymoe.kernels.cpu.ops_formats import CpuFormats
from tinymoe.kernels.cpu.team import Team

pytestmark = pytest.mark.kernels
ALONE, TOGETHER = (CpuFormats(Team(threads)) for threads in (1, 2))
OPS = [f"{way}quantize_{form}" for form in ("nvfp4", "mxfp4", "fp8") for way in ("", "de")]


@pytest.mark.parametrize("op", OPS)
def test_an_op_keeps_its_contract(op: str) -> None:
    keeps_contract(op, ALONE, [TOGETHER], 50)


def loud_and_quiet(rows: int, columns: int) -> Array:
    """Zeros, subnormals and 1e6 in one matrix; more than 16 blocks of every size in a row."""
    rng = np.random.default_rng(3)
    loudness = 10.0 ** rng.uniform(-8, 6, (rows, columns // 32))
    x = rng.standard_normal((rows, columns)) * loudness.repeat(32, axis=1)
    x *= rng.random((rows, columns)) > 0.1
    x[:, 32:64] *= 0
    x[:, 64:96] *= 1e-40
    return x.astype(np.float32)


def whole_matrices() -> list[Any]:
    """Each convention on one matrix, there and back."""
    made: list[Any] = []
    x = loud_and_quiet(48, 32 * 35)
    for convention, row in NVFP4.items():
        scale = None if row.tensor_scale == "none" else 0.37
        made.append(ALONE.quantize_nvfp4(x, scale, convention, "float32"))
        made.append(ALONE.dequantize_nvfp4(*made[-1], scale, convention))
    x = round_to_bf16(x * (np.abs(x) > 1e-30))  # what the rules of a logarithm are judged on
    for convention in MXFP4:
        made.append(ALONE.quantize_mxfp4(x, convention))
        made.append(ALONE.dequantize_mxfp4(*made[-1], convention))
    for name in ("tensor", "channel", "block", "group"):
        made.append(ALONE.quantize_fp8(x, "ct", name, "bfloat16", "no"))  # type: ignore[arg-type]
        made.append(ALONE.quantize_fp8(x, "deepgemm", name, "float32", "bits"))  # type: ignore[arg-type]
    made.append(ALONE.dequantize_fp8(*made[-1], (1, 128)))
    return made


def test_whole_matrices_have_the_definition_s_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    got = whole_matrices()
    asked: list[str] = []

    def by_definition(op: str) -> Any:
        def called(_: CpuFormats, *given: Any) -> Any:
            asked.append(op)
            return getattr(formats_ops, op)(*given)

        return called

    for op in OPS:
        monkeypatch.setattr(CpuFormats, op, by_definition(op))
    want = whole_matrices()
    assert len(asked) == len(want)
    for op, ours, theirs in zip(asked, got, want, strict=True):
        parts = [each if isinstance(each, tuple) else (each,) for each in (ours, theirs)]
        for mine, other in zip(*parts, strict=True):
            np.testing.assert_array_equal(mine, other, op)


def test_a_cpu_without_extras_writes_the_same_bytes() -> None:
    there = on_a_plain_cpu(__file__, "b''.join(map(bits, whole_matrices()))")
    assert there == b"".join(map(bits, whole_matrices()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", ["quantize_nvfp4", "quantize_mxfp4", "quantize_fp8"])
def test_what_is_not_finite_is_refused(op: str, bad: float) -> None:
    """A maximum that skips NaN would write codes for it."""
    x = np.ones((3, 64), np.float32)
    x[2, 40] = bad
    more = {
        "quantize_nvfp4": (1.0, "kernel", "float32"),
        "quantize_mxfp4": ("vllm",),
        "quantize_fp8": ("deepgemm", "group", "float32", "no"),
    }[op]
    with pytest.raises(TinymoeError, match="1 NaN or infinite"):
        getattr(ALONE, op)(x, *more)
