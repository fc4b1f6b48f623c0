"""W4A4 on data-centre Blackwell (sm_100), and any later chip, through cuTile: an optional backend.

The tensor cores of sm_100 are driven by descriptors, barriers and a memory of their own ("TMEM"),
bit fields that no compiler checks: 55 lines for one tile. cuTile is NVIDIA's language of tiles in
Python; its compiler does all of that. The whole kernel is `product` below: load tiles, unpack
codes, multiply with scales, store. What it compiles to is checked in the SASS (UTCOMMA on sm_100,
OMMA on sm_120), and what it computes by running its Python on NumPy tiles; no GPU has run it.

Needs the package cuda-tile with its compiler (pip install 'cuda-tile[tileiras]', CUDA 13), which
does not go into one environment with the CUDA 12 packages of the extra `compile`: hence no extra of
this project, and no import before it is asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.kernels.cuda.arguments import rounds

Form = Literal["nvfp4", "mxfp4"]
BLOCK = {"nvfp4": 16, "mxfp4": 32}
# Rows, columns and depth of a tile. Below 128 rows cuTile silently leaves the tensor cores of
# sm_100: 64 x 64 x 128 becomes scalar code, 7,119 accesses to local memory.
TILE = (128, 128, 128)
DEPTH = 64  # of an instruction: rows of this length keep codes and scales aligned


def cutile() -> Any:
    """The package, if it is there."""
    try:
        import cuda.tile
    except ImportError as error:
        raise TinymoeError(
            "the backend for sm_100 needs cuTile: pip install 'cuda-tile[tileiras]' (CUDA 13), in "
            "an environment without the CUDA 12 packages of 'tinymoe[compile]'"
        ) from error
    return cuda.tile


def product(ct: Any, form: Form, to_bf16: bool) -> Callable[..., None]:
    """The kernel's body, in the words of `ct`: cuTile, or what stands in for it in a test.

    x (T, K/2), sx (T, K/block), w (N, K/2), sw (N, K/block) uint8; out (T, N) float32. Products are
    exact, sums float32 in the tensor core's order; alpha comes after them, then the rounding.
    """
    block = BLOCK[form]
    scale = ct.float8_e4m3fn if form == "nvfp4" else ct.float8_e8m0fnu
    zero = ct.PaddingMode.ZERO  # beyond a matrix: zero codes

    def gemm(
        x: Any, sx: Any, w: Any, sw: Any, alpha: Any, out: Any,
        rows: int, columns: int, depth: int,
    ) -> None:  # fmt: skip
        m, n = ct.bid(0), ct.bid(1)
        total = ct.zeros((rows, columns), ct.float32)
        for k in range(ct.num_tiles(x, axis=1, shape=(rows, depth // 2))):
            a = ct.load(x, index=(m, k), shape=(rows, depth // 2), padding_mode=zero)
            b = ct.load(w, index=(n, k), shape=(columns, depth // 2), padding_mode=zero)
            sa = ct.load(sx, index=(m, k), shape=(rows, depth // block), padding_mode=zero)
            sb = ct.load(sw, index=(n, k), shape=(columns, depth // block), padding_mode=zero)
            left = ct.unpack_from_bytes(a.reshape((rows * depth // 2,)), ct.float4_e2m1fn)
            right = ct.unpack_from_bytes(b.reshape((columns * depth // 2,)), ct.float4_e2m1fn)
            total = ct.mma_scaled(
                left.reshape((rows, depth)),
                ct.bitcast(sa, scale),
                right.reshape((columns, depth)).transpose(),
                ct.bitcast(sb, scale).transpose(),
                total,
            )
        result = total * alpha
        if to_bf16:
            result = ct.astype(ct.astype(result, ct.bfloat16), ct.float32)
        ct.store(out, index=(m, n), tile=result)

    # these three are known when it is compiled; a name in quotes would not be found from outside
    gemm.__annotations__ = dict.fromkeys(("rows", "columns", "depth"), ct.Constant[int])
    return gemm


def cubin(form: Form, to_bf16: bool, chip: str) -> bytes:
    """The kernel for a chip ("sm_100", "sm_120"), compiled without a GPU."""
    ct = cutile()
    from cuda.tile import compilation

    def matrix(dtype: Any, row: int) -> Any:
        """Rows of a contiguous array, each a multiple of `row` elements long."""
        return compilation.ArrayConstraint(
            dtype,
            2,
            index_dtype=ct.int32,
            stride_lower_bound_incl=0,
            alias_groups=(),
            may_alias_internally=False,
            stride_constant=(None, 1),
            stride_divisible_by=(row, 1),
            shape_divisible_by=(1, row),
            base_addr_divisible_by=16,
        )

    scales = DEPTH // BLOCK[form]
    arguments = [matrix(ct.uint8, 16), matrix(ct.uint8, scales)] * 2
    signature = compilation.KernelSignature(
        [*arguments, compilation.ScalarConstraint(ct.float32), matrix(ct.float32, 4), *TILE],
        compilation.CallingConvention.cutile_python_v1(),
        f"gemm_{form}_w4a4",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        kernel = ct.kernel(product(ct, form, to_bf16))
        compilation.export_kernel(
            kernel, [signature], str(path), gpu_code=chip, output_format="cubin"
        )
        return path.read_bytes()


@dataclass(frozen=True)
class TileGemm:
    """W4A4 products of CuPy arrays by cuTile; `stream` is CuPy's, by its address."""

    ct: Any  # cutile()
    empty: Callable[..., Any]  # cupy.empty
    stream: Any  # cupy.cuda.get_current_stream().ptr

    def gemm_nvfp4_w4a4(
        self, x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array,
        alpha: float, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """alpha times the sum of code products times both block scales -> (T, N)."""
        operands = x_codes, x_scales, weight_codes, weight_scales
        return self._launch("nvfp4", operands, np.float32(alpha), numerics)

    def gemm_mxfp4_w4a4(
        self, x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array,
        numerics: Numerics,
    ) -> Array:  # fmt: skip
        """The sum of code products times both block scales -> (T, N)."""
        operands = x_codes, x_scales, weight_codes, weight_scales
        return self._launch("mxfp4", operands, np.float32(1), numerics)

    def _launch(
        self, form: Form, operands: tuple[Array, ...], alpha: np.float32, numerics: Numerics
    ) -> Array:
        (rows, half), outs = operands[0].shape, len(operands[2])
        if 2 * half % DEPTH or operands[2].shape[1] != half:
            raise TinymoeError(
                f"cuTile's {form} product: expected K a multiple of {DEPTH}, the same for x and "
                f"weight, got codes {operands[0].shape} and {operands[2].shape}"
            )
        out: Array = self.empty((rows, outs), np.float32)
        if out.size:
            kernel = self.ct.kernel(product(self.ct, form, bool(rounds(numerics))))
            grid = -(-rows // TILE[0]), -(-outs // TILE[1]), 1
            arguments = (*operands, float(alpha), out, *TILE)
            self.ct.launch(self.stream, grid, kernel, arguments)
        return out
