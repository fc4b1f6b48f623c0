"""Which scheme a checkpoint's weights are stored in; `layouts.py` says which tensors those are.

Two things are read from it: how the bytes stand for values, and what an engine does with the
inputs of these weights and with its cache. The second is arithmetic, and only numerics that ask
for it (`Numerics.activations`) apply it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import TinymoeError
from tinymoe.families.compressed_tensors import read_compressed_tensors
from tinymoe.families.fields import Fields
from tinymoe.families.modelopt import read_modelopt
from tinymoe.families.scheme import Scheme as Scheme
from tinymoe.families.scheme import kept_names
from tinymoe.strict_json import read_object

WHERE = "config.json, quantization_config"
MODELOPT_FILE = "hf_quant_config.json"


def scheme_of(checkpoint: Checkpoint) -> Scheme:
    """From config.json, else from ModelOpt's own file, which older exports have alone."""
    scheme, file = read_scheme(checkpoint.config), checkpoint.path / MODELOPT_FILE
    if scheme.method != "none" or not file.is_file():
        return scheme
    inner = read_object(file).get("quantization")
    if not isinstance(inner, dict):
        raise TinymoeError(f"{file}: expected an object 'quantization', found {inner!r}")
    fields = Fields(inner, f"{MODELOPT_FILE}, quantization")
    scheme = read_modelopt(fields, checkpoint.config)
    fields.finish(frozenset())
    return scheme


def read_scheme(config: Mapping[str, Any]) -> Scheme:
    """From a config.json; a text model inside another may say it at either level."""
    inner = config.get("text_config")
    found = config.get("quantization_config")
    if isinstance(inner, dict):
        found = inner.get("quantization_config", found)
    if found is None:
        return Scheme("none")
    if not isinstance(found, dict):
        raise TinymoeError(f"{WHERE}: expected an object, found {found!r}")
    fields = Fields(found, WHERE)
    method = fields.take("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise TinymoeError(
            f"{WHERE}: quant_method is {method!r}; those this version of tinymoe reads: "
            f"{', '.join(METHODS)}"
        )
    scheme = METHODS[method](fields, config)
    fields.finish(frozenset({"dequantize"}))  # a wish about loading, not about what is stored
    return scheme


def _read_fp8(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """DeepSeek's: E4M3, one scale a block, inputs in groups of 128 of a row, scaled as they come.

    Without blocks it would be one scale a tensor: not here. "ue8m0" are scales that are powers of
    two: stored ones multiply all the same, those of inputs are rounded up to one.
    """
    fields.only("fmt", None, "e4m3")
    fields.only("activation_scheme", None, "dynamic")
    power = "scale_fmt" in fields
    fields.only("scale_fmt", None, "ue8m0")
    block = fields.take("weight_block_size")
    good = isinstance(block, list) and len(block) == 2
    if not good or any(type(side) is not int or side < 1 for side in block):
        raise fields.error("weight_block_size", "two whole numbers, as [128, 128]")
    kept = kept_names(fields, "modules_to_not_convert")
    return Scheme("fp8", (block[0], block[1]), kept, inputs="fp8_group", power_of_two=power)


def _read_mxfp4(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """gpt-oss's: stacked experts as blocks and scales; activations stay as they are (W4A16)."""
    if config.get("model_type") != "gpt_oss":
        raise TinymoeError(
            f"{WHERE}: quant_method 'mxfp4' is read for gpt_oss, whose tensors are *_blocks and "
            f"*_scales; model_type is {config.get('model_type')!r}"
        )
    return Scheme("mxfp4", (1, 32), kept_names(fields, "modules_to_not_convert"))


METHODS: Mapping[str, Callable[[Fields, Mapping[str, Any]], Scheme]] = {
    "fp8": _read_fp8,
    "mxfp4": _read_mxfp4,
    "compressed-tensors": read_compressed_tensors,
    "modelopt": read_modelopt,
}
