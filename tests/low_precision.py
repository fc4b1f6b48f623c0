"""Small checkpoints in each low-precision layout, written as its exporter writes them.

`made(layout)` gives the stored tensors and, for every matrix, the values that the format's own
decoder makes of them. Each tensor is louder than the one before, and so is its input's scale: a
neighbour's scale would be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.stored import Tensors, config_of
from tinymoe.core import QuantTensor
from tinymoe.families import expected_tensors, read_config
from tinymoe.formats import bf16, fp8, mxfp4, nvfp4

QWEN: dict[str, Any] = config_of("qwen3_moe") | {
    **{"hidden_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 40},
    **{"num_experts": 4, "num_experts_per_tok": 2},
}
INPUT = 0.004  # of the first module: a calibration that saw inputs up to 2688 * 0.004 = 10.8


class Stored(NamedTuple):
    """One matrix as it is stored."""

    tensors: Tensors  # by what follows the module's name
    values: np.ndarray  # float32
    quantised: QuantTensor


def one(value: Any, shape: tuple[int, ...] = (), kind: str = "F32") -> tuple[str, np.ndarray]:
    """A scale of one number."""
    array = np.full(shape, value, np.float32)
    return (kind, array) if kind == "F32" else (kind, bf16.encode(array))


def _nvfp4_modelopt(w: np.ndarray, scale: float) -> Stored:
    q = nvfp4.encode(w, convention="modelopt", source="float32", zero_tensor="refuse")
    tensors = {
        ".weight": ("U8", q.codes),
        ".weight_scale": ("F8_E4M3", q.scales),
        ".weight_scale_2": one(q.tensor_scale),
        ".input_scale": one(scale),
    }
    return Stored(tensors, nvfp4.decode(q), q)


def _nvfp4_ct(w: np.ndarray, scale: float) -> Stored:
    q = nvfp4.encode(w, convention="ct", source="float32", zero_tensor="refuse")
    tensors = {
        ".weight_packed": ("U8", q.codes),
        ".weight_scale": ("F8_E4M3", q.scales),
        ".weight_global_scale": one(q.tensor_scale, (1,)),
        ".input_global_scale": one(1 / scale, (1,)),
    }
    return Stored(tensors, nvfp4.decode(q), q)


def _mxfp4_ct(w: np.ndarray, scale: float) -> Stored:
    q = mxfp4.encode(w, convention="ct")
    tensors = {".weight_packed": ("U8", q.codes), ".weight_scale": ("U8", q.scales)}
    return Stored(tensors, mxfp4.decode(q), q)


def _fp8(
    granularity: Any, shape: Callable[[np.ndarray], Any], kind: str = "F32", name: str = "_scale"
) -> Callable[[np.ndarray, float], Stored]:
    """`shape`: the exporter's, of scales (n, k); a BF16 scale is rounded before it is used."""

    def make(w: np.ndarray, scale: float) -> Stored:
        convention = "ct" if kind == "BF16" else "div32"
        w = bf16.round_to_bf16(w) if kind == "BF16" else w
        source: Any = "bfloat16" if kind == "BF16" else "float32"
        q = fp8.encode(
            w, convention=convention, granularity=granularity, source=source, power_of_two="no"
        )
        scales = q.scales.reshape(shape(q.scales))
        stored = (kind, bf16.encode(scales) if kind == "BF16" else scales)
        tensors = {".weight": ("F8_E4M3", q.codes), f".weight{name}": stored}
        if granularity == "tensor":
            tensors[".input_scale"] = one(scale * 6, (1,) if kind == "BF16" else (), kind)
        return Stored(tensors, fp8.decode(q), q)

    return make


def modelopt(algorithm: str, **more: Any) -> dict[str, Any]:
    """`quantization_config` as ModelOpt's recent exports have it in config.json."""
    return {
        **{"quant_method": "modelopt", "quant_algo": algorithm, "producer": {"name": "modelopt"}},
        "ignore": ["lm_head", "model.layers.*.mlp.gate"],
        **more,
    }


def ct(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """compressed-tensors' `quantization_config` with one group."""
    common = {"type": "float", "symmetric": True, "observer": "minmax"}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "dynamic": False, **weights},
        "input_activations": None if inputs is None else common | inputs,
        "output_activations": None,
    }
    return {
        **{"quant_method": "compressed-tensors", "format": form, "kv_cache_scheme": None},
        **{"config_groups": {"group_0": group}, "ignore": ["lm_head", "re:.*mlp.gate$"]},
        **{"quantization_status": "compressed", "sparsity_config": {}, "transform_config": {}},
    }


NV = {"num_bits": 4, "group_size": 16, "strategy": "tensor_group"}
MX = {"num_bits": 4, "group_size": 32, "strategy": "group", "scale_dtype": "torch.uint8"}
NVFP4, MXFP4, FLOAT = "nvfp4-pack-quantized", "mxfp4-pack-quantized", "float-quantized"
CHANNEL = ct(
    FLOAT,
    {"num_bits": 8, "strategy": "channel"},
    {"num_bits": 8, "strategy": "token", "dynamic": True},
)
BLOCK = ct(
    FLOAT,
    {"num_bits": 8, "strategy": "block", "block_structure": [128, 128]},
    {"num_bits": 8, "strategy": "group", "group_size": 128, "dynamic": True},
)
TENSOR = ct(
    FLOAT,
    {"num_bits": 8, "strategy": "tensor"},
    {"num_bits": 8, "strategy": "tensor", "dynamic": False},
)
DEEPSEEK = {
    **{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"},
    "weight_block_size": [128, 128],
}
Make = Callable[[np.ndarray, float], Stored]
LAYOUTS: dict[str, tuple[dict[str, Any], Make]] = {
    "modelopt NVFP4": (modelopt("NVFP4", group_size=16), _nvfp4_modelopt),
    "modelopt W4A16_NVFP4": (modelopt("W4A16_NVFP4"), _nvfp4_modelopt),
    "ct NVFP4": (ct(NVFP4, NV, NV | {"dynamic": "local"}), _nvfp4_ct),
    "ct NVFP4A16": (ct(NVFP4, NV, None), _nvfp4_ct),
    "ct MXFP4": (ct(MXFP4, MX, MX | {"dynamic": True}), _mxfp4_ct),
    "ct MXFP4A16": (ct(MXFP4, MX, None), _mxfp4_ct),
    "modelopt FP8": (modelopt("FP8"), _fp8("tensor", lambda s: ())),
    "modelopt FP8 channel": (
        modelopt("FP8_PER_CHANNEL_PER_TOKEN"),
        _fp8("channel", lambda s: (len(s),)),
    ),
    "modelopt FP8 block": (
        modelopt("fp8_pb_wo"),
        _fp8("block", lambda s: (s.shape[0], 1, s.shape[1], 1)),
    ),
    "ct FP8 tensor": (TENSOR, _fp8("tensor", lambda s: (1,), "BF16")),
    "ct FP8 channel": (CHANNEL, _fp8("channel", lambda s: s.shape, "BF16")),
    "ct FP8 block": (BLOCK, _fp8("block", lambda s: s.shape, "BF16")),
    "DeepSeek FP8": (DEEPSEEK, _fp8("block", lambda s: s.shape, name="_scale_inv")),
}
PROJECTIONS = ("_proj.weight",)
WEIGHT_ONLY = ("modelopt W4A16_NVFP4", "ct NVFP4A16", "ct MXFP4A16", "modelopt FP8 block")


class Made(NamedTuple):
    """A checkpoint's content."""

    config: dict[str, Any]  # with its quantization_config
    low: Tensors
    plain: Tensors  # the same with the decoder's values
    modules: dict[str, Stored]


def made(
    layout: str,
    config: dict[str, Any] = QWEN,
    only: str = "",
    matrices: tuple[str, ...] = PROJECTIONS,
) -> Made:
    """All `matrices`, by the ends of their names, in the layout; `only`: those with this in them.

    Rows that do not divide into the layout's blocks stay as they are, as all else does.
    """
    scheme, make = LAYOUTS[layout]
    block = 16 if "NVFP4" in layout else 32 if "MXFP4" in layout else 1
    rng = np.random.default_rng(8)
    low, plain, modules = Tensors(), Tensors(), dict[str, Stored]()
    for name, shape in expected_tensors(read_config(config)):
        w = rng.standard_normal(shape).astype(np.float32)
        # layers that add to the stream and neither vanish nor drown it
        w = w * np.float32((1 + len(plain) / 64) / (shape[-1] ** 0.5 if len(shape) > 1 else 1))
        w = bf16.round_to_bf16(w)
        low[name] = plain[name] = ("F32", w)
        wanted = name.endswith(matrices) and only in name and len(shape) == 2
        if not wanted or shape[1] % block:
            continue
        module = name.removesuffix(".weight")
        stored = make(w, INPUT * (1 + len(modules) / 16))
        del low[name]
        tensors = dict(stored.tensors)
        if layout in WEIGHT_ONLY:
            tensors = {end: value for end, value in tensors.items() if "input" not in end}
        low |= {module + end: value for end, value in tensors.items()}
        plain[name], modules[module] = ("F32", stored.values), stored
    return Made(config | {"quantization_config": scheme}, low, plain, modules)
