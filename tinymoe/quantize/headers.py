"""What config.json and hf_quant_config.json say of a quantised checkpoint.

Sources: NVIDIA Model-Optimizer, `torch/export/convert_hf_config.py`; compressed-tensors,
`quantization/quant_scheme.py` (its presets NVFP4, NVFP4A16, MXFP4, FP8, FP8_DYNAMIC, FP8_BLOCK);
deepseek-ai/DeepSeek-V3 and openai/gpt-oss-20b, config.json.
"""

from __future__ import annotations

from typing import Any

from tinymoe import __version__
from tinymoe.formats import fp8, mxfp4, nvfp4
from tinymoe.quantize.writers import Layout

_E4M3, _BYTE = "torch.float8_e4m3fn", "torch.uint8"


def quantization_config(layout: Layout, kept: tuple[str, ...], static: bool) -> dict[str, Any]:
    """The object for config.json. `kept`: modules as they were; `static`: inputs have scales."""
    if layout.convention == "modelopt":
        return _modelopt(layout, kept, static)
    if layout.convention == "compressed-tensors":
        return _compressed_tensors(layout, kept, static)
    if layout.convention == "gpt-oss":
        # the release's own list, then what else stayed
        listed = ["model.layers.*.self_attn", "model.layers.*.mlp.router"]
        listed += ["model.embed_tokens", "lm_head"]
        listed += [name for name in kept if name.endswith(("gate_up_proj", "down_proj"))]
        return {"quant_method": "mxfp4", "modules_to_not_convert": listed}
    return {
        **{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8"},
        "weight_block_size": [fp8.SIDE, fp8.SIDE],
        "modules_to_not_convert": list(kept),
    }


def hf_quant_config(layout: Layout, kept: tuple[str, ...], static: bool) -> dict[str, Any] | None:
    """ModelOpt's own file; None for the other conventions.

    Engines look for the producer "modelopt" to know the layout; the version tells who wrote it.
    """
    if layout.convention != "modelopt":
        return None
    said: dict[str, Any] = {"quant_algo": _algorithm(layout, static), "kv_cache_quant_algo": None}
    if layout.format == "nvfp4":
        said["group_size"] = nvfp4.BLOCK
    return {"producer": _producer(), "quantization": said | {"exclude_modules": list(kept)}}


def _producer() -> dict[str, str]:
    return {"name": "modelopt", "version": f"tinymoe-{__version__}"}


def _algorithm(layout: Layout, static: bool) -> str:
    if layout.format == "nvfp4":
        return "NVFP4" if static else "W4A16_NVFP4"
    return "FP8" if layout.scales == "tensor" else "FP8_PER_CHANNEL_PER_TOKEN"


def _modelopt(layout: Layout, kept: tuple[str, ...], static: bool) -> dict[str, Any]:
    """It resembles compressed-tensors' and is not: the tensors' names and scales are ModelOpt's.

    "dynamic": false stands there for activations too, whose block scales are dynamic.
    """
    bits: dict[str, Any] = {"dynamic": False, "num_bits": 8, "type": "float"}
    if layout.format == "nvfp4":
        bits |= {"num_bits": 4, "group_size": nvfp4.BLOCK}
    group: dict[str, Any] = {"weights": bits, "targets": ["Linear"]}
    if static:
        group["input_activations"] = dict(bits)
    # for FP8_PER_CHANNEL_PER_TOKEN the exporter writes no groups
    groups = {"config_groups": {"group_0": group}} if layout.scales != "channel" else {}
    return {
        **groups,
        "ignore": list(kept),
        "quant_algo": _algorithm(layout, static),
        "producer": _producer(),
        "quant_method": "modelopt",
    }


def _arguments(**given: Any) -> dict[str, Any]:
    """One QuantizationArgs as its library writes it, fields that are not used as null."""
    unused = dict.fromkeys(("actorder", "block_structure", "group_size", "observer", "scale_dtype"))
    fixed = {"type": "float", "symmetric": True, "observer_kwargs": {}}
    return unused | fixed | given


def _compressed_tensors(layout: Layout, kept: tuple[str, ...], static: bool) -> dict[str, Any]:
    """One group for all Linear modules but the ignored."""
    weights, inputs, name = _compressed_groups(layout, static)
    group = {
        **{"format": name, "input_activations": inputs, "output_activations": None},
        **{"targets": ["Linear"], "weights": weights},
    }
    return {
        "config_groups": {"group_0": group},
        **{"format": name, "global_compression_ratio": None, "ignore": list(kept)},
        **{"kv_cache_scheme": None, "quant_method": "compressed-tensors"},
        **{"quantization_status": "compressed", "sparsity_config": {}, "transform_config": {}},
    }


def _compressed_groups(
    layout: Layout, static: bool
) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """Weights, input activations, and the name of the format."""
    if layout.format == "nvfp4":
        blocks: dict[str, Any] = {"strategy": "tensor_group", "group_size": nvfp4.BLOCK}
        blocks |= {"num_bits": 4, "scale_dtype": _E4M3}
        weights = _arguments(**blocks, dynamic=False)
        # "local": scales of blocks from each token, the tensor's scale from the file
        inputs = _arguments(**blocks, dynamic="local", observer="static_minmax")
        return weights, inputs if static else None, "nvfp4-pack-quantized"
    if layout.format == "mxfp4":
        blocks = {"strategy": "group", "group_size": mxfp4.BLOCK}
        blocks |= {"num_bits": 4, "scale_dtype": _BYTE}
        weights, inputs = _arguments(**blocks, dynamic=False), _arguments(**blocks, dynamic=True)
        return weights, inputs, "mxfp4-pack-quantized"
    more: dict[str, Any] = {}
    seen: dict[str, Any] = {"strategy": "token", "dynamic": True}
    if layout.scales == "tensor":
        seen = {"strategy": "tensor", "dynamic": False, "observer": "static_minmax"}
    elif layout.scales == "block":
        more = {"block_structure": [fp8.SIDE, fp8.SIDE]}
        seen = {"strategy": "group", "dynamic": True, "group_size": fp8.SIDE}
    weights = _arguments(num_bits=8, strategy=layout.scales, dynamic=False, **more)
    return weights, _arguments(num_bits=8, **seen), "float-quantized"
