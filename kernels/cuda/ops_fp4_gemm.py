"""Products with four-bit weights, plain and of all experts at once, as launches of kernels.

NumPy arrays on the PTX machine, CuPy arrays on a GPU. Signatures and meaning: the rows of
`kernels/rows_formats.py`. A ladder of rungs, which differ in the order of sums alone:

| rung | file | W4A16 | W4A4 | experts |
|---|---|---|---|---|
| naive | gemm_naive_nvfp4.cu: a thread an output | yes | yes | no |
| shared | gemm_shared_nvfp4.cu: tiles in shared memory | yes | yes | no |
| mma | gemm_nvfp4_mma.cu: 16-bit tensor cores, sm_80 and later | yes | yes | yes |
| sm120 | gemm_nvfp4_sm120.cu: FP4 tensor cores, sm_120a | as mma | yes | yes |

No GPU has run these kernels yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.formats import conventions
from tinymoe.formats.conventions import MXFP4, NVFP4
from tinymoe.formats.nvfp4_encoders import PEAK
from tinymoe.kernels.cuda.arguments import NULL, floats, rounds
from tinymoe.kernels.cuda.launch import Device, launch
from tinymoe.kernels.cuda.ops_fp4 import READING, coded
from tinymoe.kernels.cuda.ops_routing import RoutingOps

Rung = Literal["naive", "shared", "mma", "sm120"]
BLOCK = {"nvfp4": 16, "mxfp4": 32}
THREADS = {"naive": 128, "shared": 256, "mma": 128, "sm120": 128}
TILE = {"naive": (1, 128), "shared": (32, 32), "mma": (16, 128), "sm120": (16, 128)}
FUSED_COLUMNS = 64  # hidden columns of a block of fused_gate_up.cu
Operand = list[Any]  # x as a kernel takes it: an array of numbers, or codes and scales


@dataclass(frozen=True)
class Fp4Gemm:
    """Kernels for the products on one device."""

    device: Device
    rung: Rung = "mma"

    # --------------------------------------------------------------------------- one weight

    def gemm_nvfp4(
        self, x: Array, weight_codes: Array, weight_scales: Array, tensor_scale: float,
        convention: str, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A16: x (T, K) times the values of a weight (N, K) -> (T, N)."""
        alpha = multiplier(np.float32(tensor_scale), convention)
        weight = weight_codes, weight_scales
        return self._plain("nvfp4", x, weight, alpha, None, numerics)

    def gemm_mxfp4(
        self, x: Array, weight_codes: Array, weight_scales: Array, convention: str,
        numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A16: x (T, K) times the values of a weight (N, K) -> (T, N)."""
        reading = READING[conventions.row(MXFP4, convention).reading]
        weight = weight_codes, weight_scales
        return self._plain("mxfp4", x, weight, np.float32(1), reading, numerics)

    def gemm_nvfp4_w4a4(
        self, x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array,
        alpha: float, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A4: alpha times the sum of code products times both block scales -> (T, N)."""
        weight = weight_codes, weight_scales
        return self._plain("nvfp4", (x_codes, x_scales), weight, np.float32(alpha), None, numerics)

    def gemm_mxfp4_w4a4(
        self, x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array,
        numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A4: the sum of code products times both block scales -> (T, N)."""
        weight = weight_codes, weight_scales
        return self._plain("mxfp4", (x_codes, x_scales), weight, np.float32(1), None, numerics)

    # ------------------------------------------------------------------------- every expert's

    def grouped_gemm_nvfp4(
        self, x: Array, weight_codes: Array, weight_scales: Array, tensor_scales: Array,
        offsets: Array, convention: str, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A16: rows x (S, K) in expert order, weights (E, N, K) -> (S, N)."""
        alphas = multiplier(floats(self.device, tensor_scales, "tensor_scales"), convention)
        weight = weight_codes, weight_scales
        return self._grouped("nvfp4", x, weight, alphas, offsets, None, numerics)

    def grouped_gemm_mxfp4(
        self, x: Array, weight_codes: Array, weight_scales: Array, offsets: Array,
        convention: str, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A16: rows x (S, K) in expert order, weights (E, N, K) -> (S, N)."""
        reading = READING[conventions.row(MXFP4, convention).reading]
        weight = weight_codes, weight_scales
        return self._grouped("mxfp4", x, weight, NULL, offsets, reading, numerics)

    def grouped_gemm_nvfp4_w4a4(
        self, x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array,
        alphas: Array, offsets: Array, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A4: rows (S, K) in expert order, weights (E, N, K), alphas (E,) -> (S, N)."""
        x, weight = (x_codes, x_scales), (weight_codes, weight_scales)
        alphas = floats(self.device, alphas, "alphas")
        return self._grouped("nvfp4", x, weight, alphas, offsets, None, numerics)

    def grouped_gemm_mxfp4_w4a4(
        self, x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array,
        offsets: Array, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """W4A4: rows (S, K) in expert order, weights (E, N, K) -> (S, N)."""
        x, weight = (x_codes, x_scales), (weight_codes, weight_scales)
        return self._grouped("mxfp4", x, weight, NULL, offsets, None, numerics)

    def expert_ffn_nvfp4_w4a4(
        self, x_codes: Array, x_scales: Array, gate_up_codes: Array, gate_up_scales: Array,
        gate_up_alphas: Array, hidden_scales: Array, down_codes: Array, down_scales: Array,
        down_alphas: Array, offsets: Array, numerics: Numerics,
    ) -> Array:  # fmt: skip
        """Rows (S, H) in expert order -> (S, H), in two launches and the list of tiles.

        fused_gate_up.cu leaves the intermediate quantised; the down product is a grouped GEMM.
        """
        device, bf16 = self.device, rounds(numerics)
        x = coded(device, x_codes, x_scales, 16, "x")
        weight = coded(device, gate_up_codes, gate_up_scales, 16, "gate_up")
        (rows, hidden), (experts, doubled) = _shape(x[0]), weight[0].shape[:2]
        width, tiles = doubled // 2, self._tiles(offsets, rows)
        _fits("expert_ffn_nvfp4_w4a4", hidden, _shape(weight[0])[1], experts, len(offsets) - 1)
        if width % 16:
            raise TinymoeError(f"gate_up: expected I in blocks of 16, got 2I = {doubled} rows")
        codes = device.empty((rows, width // 2), np.uint8)
        scales = device.empty((rows, width // 16), np.uint8)
        if rows:
            source = "fused_gate_up_sm120" if self.rung == "sm120" else "fused_gate_up"
            alphas, divisors = (
                floats(device, a, n)
                for a, n in ((gate_up_alphas, "alphas"), (hidden_scales, "hidden_scales"))
            )
            launch(
                device.kernel(source, f"fused_gate_up_{self.rung}"),
                (-(-width // FUSED_COLUMNS), len(tiles)),
                THREADS[self.rung],
                [
                    *(codes, scales, *x, *weight, alphas, divisors, tiles),
                    *(*_ints(hidden, width), bf16),
                ],
            )
        alphas = floats(device, down_alphas, "down_alphas")
        down = down_codes, down_scales
        return self._grouped("nvfp4", (codes, scales), down, alphas, offsets, None, numerics, tiles)

    # ------------------------------------------------------------------------------- launches

    def _plain(
        self, form: str, x: Any, weight: tuple[Array, Array], alpha: np.float32,
        reading: int | None, numerics: Numerics,
    ) -> Array:  # fmt: skip
        bf16, (w_codes, w_scales) = rounds(numerics), self._weight(form, weight)
        operand, name, rung, known = self._operand(form, x, numerics)
        (rows, width), (outs, inner) = _operand_shape(operand), _shape(w_codes)
        _fits(name, width, inner)
        out: Array = self.device.empty((rows, outs), np.float32)
        down, across = TILE[rung]
        source = f"gemm_nvfp4_{rung}" if rung in ("mma", "sm120") else f"gemm_{rung}_nvfp4"
        if out.size:
            launch(
                self.device.kernel(source, f"gemm_{name}"),
                (-(-outs // across), -(-rows // down)),
                THREADS[rung],
                [
                    *(out, *operand, w_codes, w_scales, alpha),
                    *(*_ints(rows, outs, inner), *_given(reading), *((bf16,) * (not known))),
                ],
            )
        return out

    def _grouped(
        self, form: str, x: Any, weight: tuple[Array, Array], alphas: Any, offsets: Array,
        reading: int | None, numerics: Numerics, tiles: Array | None = None,
    ) -> Array:  # fmt: skip
        bf16, (w_codes, w_scales) = rounds(numerics), self._weight(form, weight)
        operand, name, rung, known = self._operand(form, x, numerics)
        rows, width = _operand_shape(operand)
        experts, outs = w_codes.shape[:2]
        _fits(name, width, _shape(w_codes)[1], experts, len(offsets) - 1)
        if tiles is None:
            tiles = self._tiles(offsets, rows)
        out: Array = self.device.empty((rows, outs), np.float32)
        if out.size:
            launch(
                self.device.kernel(f"grouped_gemm_nvfp4_{rung}", f"grouped_gemm_{name}"),
                (-(-outs // TILE[rung][1]), len(tiles)),
                THREADS[rung],
                [
                    *(out, *operand, w_codes, w_scales, alphas, tiles),
                    *(*_ints(outs, width), *_given(reading), *((bf16,) * (not known))),
                ],
            )
        return out

    def _tiles(self, offsets: Array, rows: int) -> Array:
        """The list of tiles for `grouped_tile.cuh`."""
        if self.rung not in ("mma", "sm120"):
            raise TinymoeError(
                f"the rung {self.rung!r} has no kernel for all experts at once: use 'mma', which "
                "runs from sm_80 on, or 'sm120'"
            )
        return RoutingOps(self.device).schedule(offsets, TILE[self.rung][0], rows)

    def _weight(self, form: str, weight: tuple[Array, Array]) -> tuple[Array, Array]:
        return coded(self.device, *weight, BLOCK[form], f"weight ({form})")

    def _operand(self, form: str, x: Any, numerics: Numerics) -> tuple[Operand, str, Rung, bool]:
        """x for a kernel, the end of the kernel's name, the rung that has it.

        And whether that kernel is for one storage, so that it does not ask for it.
        """
        if isinstance(x, tuple):
            codes, scales = x
            operand = [*coded(self.device, codes, scales, BLOCK[form], f"x ({form})")]
            return operand, f"{form}_w4a4_{self.rung}", self.rung, False
        operand = [floats(self.device, x, "x")]
        rung: Rung = "mma" if self.rung == "sm120" else self.rung  # FP4 cores want codes
        precise = rung == "mma" and numerics.storage == "float32"
        return operand, f"{form}_{rung}{'_f32' * precise}", rung, rung == "mma"


def multiplier(tensor_scale: Any, convention: str) -> Any:
    """What products are multiplied by in the end, of a tensor scale or of several (E,), float32.

    A divisor's reciprocal is rounded once; on an exact grid it is a power of two.
    """
    meaning = conventions.row(NVFP4, convention).tensor_scale
    if meaning == "divisor":
        return np.float32(1) / tensor_scale
    return tensor_scale / PEAK if meaning == "amax" else tensor_scale


def _given(reading: int | None) -> list[np.int32]:
    """How to read E8M0: an argument of the kernels for MXFP4 weights alone."""
    return [] if reading is None else _ints(reading)


def _ints(*numbers: int) -> list[np.int32]:
    return [np.int32(number) for number in numbers]


def _shape(codes: Array) -> tuple[int, int]:
    """Rows and values of a row."""
    return codes.shape[-2], 2 * codes.shape[-1]


def _operand_shape(operand: Operand) -> tuple[int, int]:
    rows, width = operand[0].shape
    return rows, width if len(operand) == 1 else 2 * width


def _fits(what: str, width: int, inner: int, experts: int = 0, groups: int = 0) -> None:
    if width != inner or experts != groups:
        raise TinymoeError(
            f"{what}: x has rows of {width}, the weights of {inner}"
            + (f"; {groups} experts in offsets, {experts} in the weights" if experts else "")
        )
