"""The cuTile kernel: its own Python on NumPy tiles, and what it compiles to where cuTile is."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.kernels.fp4_cases import BF16, FP32, product
from tinymoe.core import Array, TinymoeError
from tinymoe.formats import bf16, e2m1, e4m3, e8m0
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda import tile_gemm_nvfp4
from tinymoe.kernels.cuda.disassemble import sass
from tinymoe.kernels.cuda.tile_gemm_nvfp4 import Form, TileGemm

pytestmark = pytest.mark.kernels
HERE = importlib.util.find_spec("cuda.tile") is not None


class NumpyTiles(SimpleNamespace):
    """The words of cuTile that the kernel uses, each as NumPy has it: one block after another."""

    Constant = dict  # `Constant[int]` in the kernel's signature
    PaddingMode = SimpleNamespace(ZERO="zero")
    float32, bfloat16 = np.float32, "bfloat16"
    float4_e2m1fn, float8_e4m3fn, float8_e8m0fnu = "e2m1", "e4m3", "e8m0"

    def launch(self, stream: None, grid: tuple[int, ...], kernel: Any, arguments: Any) -> None:
        for self.at in np.ndindex(*grid):
            kernel(*arguments)

    def kernel(self, body: Callable[..., None]) -> Callable[..., None]:
        return body

    def bid(self, axis: int) -> int:
        return int(self.at[axis])

    def num_tiles(self, array: Array, axis: int, shape: tuple[int, int]) -> int:
        return -(-array.shape[axis] // shape[axis])

    def zeros(self, shape: tuple[int, int], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def load(self, array: Array, index: Any, shape: Any, padding_mode: str) -> Array:
        assert padding_mode == "zero"
        (i, j), (rows, columns) = index, shape
        part = array[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        missing = rows - part.shape[0], columns - part.shape[1]
        return np.pad(part, ((0, missing[0]), (0, missing[1])))

    def store(self, array: Array, index: Any, tile: Array) -> None:
        (i, j), (rows, columns) = index, tile.shape
        part = array[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        part[...] = tile[: part.shape[0], : part.shape[1]]

    def unpack_from_bytes(self, flat: Array, dtype: str) -> Array:
        assert dtype == "e2m1"
        return e2m1.decode(e2m1.unpack(flat), code_8="-0")

    def bitcast(self, tile: Array, dtype: str) -> Array:
        return e4m3.decode(tile) if dtype == "e4m3" else e8m0.decode(tile, reading="nan")

    def mma_scaled(self, x: Array, sx: Array, y: Array, sy: Array, total: Array) -> Array:
        block = x.shape[1] // sx.shape[1]
        left = x.astype(np.float64) * np.repeat(sx, block, axis=1)
        right = y.astype(np.float64) * np.repeat(sy, block, axis=0)
        return (total + left @ right).astype(np.float32)

    def astype(self, tile: Array, dtype: Any) -> Array:
        return bf16.round_to_bf16(tile) if dtype == "bfloat16" else tile.astype(dtype)


@pytest.mark.parametrize("op", ["gemm_nvfp4_w4a4", "gemm_mxfp4_w4a4"])
@pytest.mark.parametrize("numerics", [FP32, BF16], ids=["fp32", "bf16"])
def test_the_kernels_python_keeps_the_contract(op: str, numerics: Any) -> None:
    blocks = 320 // (16 if "nvfp4" in op else 32)  # three tiles along k, the last half full
    case = product(op, numerics, "exact", rows=130, outs=133, blocks=blocks)
    tiles = TileGemm(NumpyTiles(), np.empty, None)
    contract(op).judge(getattr(tiles, op), case)


def test_rows_that_are_not_aligned_are_refused() -> None:
    case = product("gemm_nvfp4_w4a4", FP32, "exact", rows=2, outs=3, blocks=3)
    with pytest.raises(TinymoeError, match="expected K a multiple of 64, .* got codes .2, 24."):
        TileGemm(NumpyTiles(), np.empty, None).gemm_nvfp4_w4a4(**case)


@pytest.mark.skipif(HERE, reason="cuTile is installed")
def test_without_cutile_it_says_what_is_missing() -> None:
    with pytest.raises(TinymoeError, match=r"needs cuTile: pip install 'cuda-tile\[tileiras\]'"):
        tile_gemm_nvfp4.cutile()


@pytest.mark.skipif(not HERE, reason="cuda-tile is not installed")
@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
@pytest.mark.parametrize(("chip", "instruction"), [("sm_100", "UTCOMMA"), ("sm_120", "OMMA.SF")])
def test_tensor_cores_are_used(form: Form, chip: str, instruction: str) -> None:
    text = sass(tile_gemm_nvfp4.cubin(form, to_bf16=True, chip=chip))
    assert instruction in text
