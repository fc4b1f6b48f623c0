"""compressed-tensors: what `config_groups` says, as llm-compressor writes it.

    format                  weights                                   inputs
    nvfp4-pack-quantized    E2M1, E4M3 a block of 16, a divisor       none, or "local": found in
                                                                      each row, static divisor
    mxfp4-pack-quantized    E2M1, E8M0 a block of 32                  none, or found in each row
    float-quantized         E4M3: tensor, channel, block [128, 128]   none, static tensor, dynamic
                                                                      token, dynamic group of 128

Several groups are read when they say the same: else one could not tell which module has which
without running their expressions. Sparsity and rotations (`transform_config`) are refused.
Source: compressed-tensors' `quantization/quant_args.py`, `quant_scheme.py`, `compressors/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinymoe.families.fields import Fields
from tinymoe.families.scheme import Granularity, Inputs, Method, Scheme, cache_of, kept_names

FORMATS: Mapping[str, Method] = {
    "nvfp4-pack-quantized": "nvfp4_ct",
    "mxfp4-pack-quantized": "mxfp4_ct",
    "float-quantized": "fp8_ct",
}
# of an "args" object: what it must say; a key it lacks counts as null
NVFP4 = {"num_bits": 4, "type": "float", "group_size": 16, "strategy": "tensor_group"}
MXFP4 = {"num_bits": 4, "type": "float", "group_size": 32, "strategy": "group"}
FP8 = {"num_bits": 8, "type": "float"}
TENSOR, CHANNEL, BLOCK = ({"strategy": name} for name in ("tensor", "channel", "block"))
WEIGHTS: Mapping[Method, Mapping[Granularity, Mapping[str, Any]]] = {
    "nvfp4_ct": {"block": NVFP4},
    "mxfp4_ct": {"block": MXFP4},
    "fp8_ct": {
        "tensor": FP8 | TENSOR,
        "channel": FP8 | CHANNEL,
        "block": FP8 | BLOCK | {"block_structure": [128, 128]},
    },
}
INPUTS: Mapping[Method, Mapping[Inputs, Mapping[str, Any]]] = {
    "nvfp4_ct": {"nvfp4": NVFP4 | {"dynamic": "local"}},
    "mxfp4_ct": {"mxfp4": MXFP4 | {"dynamic": True}},
    "fp8_ct": {
        "fp8_tensor": FP8 | TENSOR | {"dynamic": False},
        "fp8_token": FP8 | {"strategy": "token", "dynamic": True},
        "fp8_group": FP8 | {"strategy": "group", "group_size": 128, "dynamic": True},
    },
}
BLOCKS: Mapping[Method, tuple[int, int]] = {"nvfp4_ct": (1, 16), "mxfp4_ct": (1, 32)}


def read_compressed_tensors(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """One scheme, of all groups."""
    form = fields.take("format", None)
    if form not in FORMATS:
        raise fields.unsupported("format")
    method, groups = FORMATS[form], fields.take("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise fields.error("config_groups", "an object of groups, each with its weights")
    said = {_group(fields, name, group, form, method) for name, group in groups.items()}
    if len(said) > 1:
        raise fields.error("config_groups", "groups that all say the same")
    granularity, inputs = said.pop()
    fields.only("sparsity_config", None, {})
    fields.only("transform_config", None, {})
    for name in ("quantization_status", "global_compression_ratio", "version"):
        fields.take(name, None)
    return Scheme(
        method,
        BLOCKS.get(method, (128, 128)),
        kept_names(fields, "ignore"),
        granularity=granularity,
        inputs=inputs,
        cache=cache_of(None, fields.take("kv_cache_scheme", None)),
    )


def _group(
    fields: Fields, name: str, group: Any, form: str, method: Method
) -> tuple[Granularity, Inputs]:
    """What one group says."""
    where = f"{fields.where}, config_groups, {name}"
    if not isinstance(group, dict):
        raise fields.error("config_groups", "groups that are objects")
    inner = Fields(group, where)
    inner.only("format", None, form)
    inner.only("output_activations", None)
    inner.take("targets", None)
    weights, inputs = inner.take("weights", None), inner.take("input_activations", None)
    inner.finish(frozenset())
    granularity = _match(weights, {**WEIGHTS[method]}, dynamic=False)
    if granularity is None:
        raise fields.error("config_groups", f"of weights that {form!r} has ({name})")
    if inputs is None:
        return granularity, "none"
    found = _match(inputs, {**INPUTS[method]}, dynamic=None)
    if found is None:
        raise fields.error("config_groups", f"of input_activations that {form!r} has ({name})")
    return granularity, found


def _match(args: Any, wanted: dict[Any, Mapping[str, Any]], *, dynamic: Any) -> Any:
    """Which of the known forms an args object has, or None. Only symmetric ones are known."""
    if not isinstance(args, dict) or args.get("symmetric") is False or args.get("actorder"):
        return None
    if dynamic is not None and args.get("dynamic", dynamic) is not dynamic:
        return None
    for name, form in wanted.items():
        if all(args.get(key) == value for key, value in form.items()):
            return name
    return None
