"""Which CUDA kernels each op has: one list, for the op table, for `conform --device` and for tests.

    KERNELS["route"]                                       its rungs, the one to use first
    on("route", PtxDevice("80"))["fused"](x=..., ...)      a rung on a device
    contract("route").implementations["cuda"](x=..., ...)  the first rung, on the GPU that is here

A rung is one way to do an op: other kernels, the same contract. This module imports no kernel until
one is asked for, so that the op table can name them all where there is NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymoe.core import RouterCard, TinymoeError

if TYPE_CHECKING:
    from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice
Case = dict[str, Any]
Implementation = Callable[..., Any]


def _model(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_model import ModelOps

    return ModelOps(device, rung)


def _attention(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_attention import AttentionOps

    return AttentionOps(device, rung)


def _routing(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_routing import RoutingOps

    return RoutingOps(device, rung if rung in ("naive", "steps") else "fused")


def _sample(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_sample import SampleOps

    return SampleOps(device)


def _recurrent(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_recurrent import RecurrentOps

    return RecurrentOps(device)


def _numba(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_numba import NumbaOps

    return NumbaOps(device)


def _fp4(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_fp4 import Fp4Ops

    return Fp4Ops(device)


def _fp8(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_fp8 import Fp8Ops

    return Fp8Ops(device)


def _products(device: Any, rung: Any) -> Any:
    from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm

    return Fp4Gemm(device, rung)


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to do an op."""

    make: Callable[[Any, str], Any]  # of device and rung: what has a method for the op
    files: str  # the sources of its kernels, by name, with blanks between
    method: str = ""  # if it is not the op's own name
    most: int = 2048  # of `route`: experts times K, one chain of steps for a thread or a warp

    @property
    def python(self) -> bool:
        """Whether its kernels are Numba-CUDA's."""
        return self.make is _numba

    def takes(self, case: Case) -> bool:
        """Whether it is for such a case: float32 sums; Numba's store float32 alone.

        On the PTX machine, rows of `route` with all of 512 experts chosen take minutes: left out.
        """
        numerics, card = case.get("numerics"), case.get("card")
        if numerics is not None and numerics.accumulate != "float32":
            return False
        if self.python and numerics is not None and numerics.storage != "float32":
            return False
        return not isinstance(card, RouterCard) or card.experts * card.top_k <= self.most

    def lacks(self, device: Any) -> str:
        """What is missing for this rung on a device; empty if nothing is."""
        chip = int(device.arch.rstrip("af"))
        if self.make is _products:
            from tinymoe.kernels.cuda.source import source

            for name in self.files.split():
                only = source(name).only
                if only and device.arch not in only:
                    return f"{name} is for sm_{', sm_'.join(only)}"
                if "mma" in self.files and chip < 80:
                    return f"{name} needs tensor cores of sm_80 or later"
        if self.python:
            from tinymoe.kernels.cuda.numba_launch import CAPABILITY, numba_cuda

            if chip < 10 * CAPABILITY[0]:
                return f"Numba's PTX is made for sm_{10 * CAPABILITY[0]} or later"
            try:
                numba_cuda()
            except TinymoeError as error:
                return str(error)
        return ""


def _product_rungs(*, grouped: bool, codes: bool) -> dict[str, Rung]:
    """The ladder of `ops_fp4_gemm.py`; `codes`: x is four-bit too, which FP4 tensor cores take."""
    kind = "grouped_gemm_nvfp4" if grouped else "gemm_nvfp4"
    ladder = {"mma": Rung(_products, f"{kind}_mma.cu" + " permute.cu" * grouped)}
    if codes:
        ladder = {"sm120": Rung(_products, f"{kind}_sm120.cu" + " permute.cu" * grouped), **ladder}
    if not grouped:
        ladder |= {rung: Rung(_products, f"gemm_{rung}_nvfp4.cu") for rung in ("shared", "naive")}
    return ladder


def _experts(rung: str) -> Rung:
    gate_up = "fused_gate_up_sm120.cu" if rung == "sm120" else "fused_gate_up.cu"
    return Rung(_products, f"{gate_up} grouped_gemm_nvfp4_{rung}.cu permute.cu")


STEPS = "linear.cu scores.cu groups.cu topk.cu weights.cu"
DECODE = "attention_decode.cu attention_latent.cu"
KERNELS: dict[str, dict[str, Rung]] = {
    "linear": {
        "fast": Rung(_model, "linear.cu"),
        "naive": Rung(_model, "linear.cu"),
        "numba": Rung(_numba, "gemm_numba.py route_numba.py"),
    },
    "rmsnorm": {"fast": Rung(_model, "rmsnorm.cu"), "naive": Rung(_model, "rmsnorm.cu")},
    "rope": {"fast": Rung(_model, "rope.cu")},
    "attention_prefill": {
        "fast": Rung(_attention, "attention_prefill.cu attention_latent.cu"),
        "naive": Rung(_attention, "attention_decode.cu"),
    },
    "attention_decode": {
        "fast": Rung(_attention, DECODE),
        "naive": Rung(_attention, "attention_decode.cu"),
    },
    "causal_conv": {"fast": Rung(_recurrent, "recurrent.cu")},
    "gated_delta": {"fast": Rung(_recurrent, "recurrent.cu")},
    "lightning": {"fast": Rung(_recurrent, "recurrent.cu")},
    "route": {
        "fused": Rung(_routing, "linear.cu route.cu " + STEPS.partition(" ")[2]),
        "steps": Rung(_routing, STEPS),
        "naive": Rung(_routing, STEPS, most=256),
        "numba": Rung(_numba, "gemm_numba.py route_numba.py"),
    },
    "permute": {
        "fast": Rung(_routing, "permute.cu"),
        "naive": Rung(_routing, "permute.cu", "permute_naive"),
        "numba": Rung(_numba, "permute_numba.py"),
    },
    "expert_ffn": {"fast": Rung(_model, "expert_ffn.cu"), "naive": Rung(_model, "expert_ffn.cu")},
    "combine": {
        "fast": Rung(_routing, "combine.cu"),
        "scatter": Rung(_routing, "combine.cu", "combine_scatter"),
        "numba": Rung(_numba, "combine_numba.py"),
    },
    "sample": {"fast": Rung(_sample, "sample.cu")},
    "quantize_nvfp4": {"fast": Rung(_fp4, "quantize_nvfp4.cu")},
    "dequantize_nvfp4": {"fast": Rung(_fp4, "decode_nvfp4.cu")},
    "quantize_mxfp4": {"fast": Rung(_fp4, "quantize_mxfp4.cu")},
    "dequantize_mxfp4": {"fast": Rung(_fp4, "decode_nvfp4.cu")},
    "quantize_fp8": {"fast": Rung(_fp8, "quantize_fp8.cu")},
    "dequantize_fp8": {"fast": Rung(_fp8, "quantize_fp8.cu")},
    "swizzle_scales": {"fast": Rung(_fp4, "swizzle.cu")},
    "unswizzle_scales": {"fast": Rung(_fp4, "swizzle.cu")},
    "gemm_nvfp4": _product_rungs(grouped=False, codes=False),
    "gemm_nvfp4_w4a4": _product_rungs(grouped=False, codes=True),
    "grouped_gemm_nvfp4": _product_rungs(grouped=True, codes=False),
    "grouped_gemm_nvfp4_w4a4": _product_rungs(grouped=True, codes=True),
    "gemm_mxfp4": _product_rungs(grouped=False, codes=False),
    "gemm_mxfp4_w4a4": _product_rungs(grouped=False, codes=True),
    "grouped_gemm_mxfp4": _product_rungs(grouped=True, codes=False),
    "grouped_gemm_mxfp4_w4a4": _product_rungs(grouped=True, codes=True),
    "expert_ffn_nvfp4_w4a4": {rung: _experts(rung) for rung in ("sm120", "mma")},
}


def on(op: str, device: PtxDevice | CupyDevice) -> dict[str, Implementation]:
    """An op's rungs on a device, those that its chip has, the one to use first."""
    if op not in KERNELS:
        raise TinymoeError(f"op {op!r} has no CUDA kernel: expected one of {', '.join(KERNELS)}")
    return {
        name: getattr(rung.make(device, name), rung.method or op)
        for name, rung in KERNELS[op].items()
        if not rung.lacks(device)
    }


@dataclass(frozen=True, slots=True)
class OnGpu:
    """An op's first rung on the current GPU, as the op table has it: NumPy arrays in and out.

    Raises TinymoeError, and says what is missing, where there is no GPU. Never run on one yet.
    """

    op: str

    def __call__(self, *args: Any, **case: Any) -> Any:
        """The result, read back."""
        device = _gpu()
        first, *_ = on(self.op, device).values()
        return home(device, first(*args, **case))


def implementation(op: str) -> dict[str, Implementation]:
    """What a row of the op table says of CUDA: {"cuda": ...}."""
    if op not in KERNELS:
        raise TinymoeError(f"op {op!r} has no CUDA kernel: expected one of {', '.join(KERNELS)}")
    return {"cuda": OnGpu(op)}


@cache
def _gpu() -> CupyDevice:
    from tinymoe.kernels.cuda.devices import CupyDevice

    return CupyDevice()


def home(device: PtxDevice | CupyDevice, result: Any) -> Any:
    """A result with its arrays in NumPy; waits for the kernels that make them."""
    if isinstance(result, tuple):  # Routing, Permutation, Packed, Drawn; or a plain one
        parts = [home(device, part) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    if device.is_array(result) and not isinstance(result, np.generic):
        return device.to_numpy(result)
    return result
