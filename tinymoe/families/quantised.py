"""What config.json says of weights stored in few bits; `layouts.py` says which tensors those are.

Only what is stored is read from it. That a checkpoint's authors also quantised activations, or the
key/value cache, is arithmetic: here weights take their values and all else stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Any, Literal

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import TinymoeError
from tinymoe.families.fields import Fields
from tinymoe.strict_json import read_object

WHERE = "config.json, quantization_config"
MODELOPT_FILE = "hf_quant_config.json"

Method = Literal["none", "fp8", "mxfp4", "nvfp4_ct", "nvfp4_modelopt"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """What `quantization_config` says."""

    method: Method
    block: tuple[int, int] = (1, 1)  # rows and columns that share a scale (fp8)
    # modules said to be stored as they were; may hold wildcards. compressed-tensors' expressions
    # ("re:...") are not run: one may backtrack without end, and what is stored decides anyway
    kept: tuple[str, ...] = ()

    def says_kept(self, name: str) -> bool:
        """Whether the list names the tensor's module, one around it, or its own last part."""
        whole, patterns = _prepared(self.kept)
        module = name.removesuffix(".weight")
        if patterns.match(module):
            return True
        steps = module.split(".")
        ends = range(1, len(steps) + 1)
        return any(".".join(steps[i:j]) in whole for j in ends for i in range(j))


@lru_cache
def _prepared(kept: tuple[str, ...]) -> tuple[frozenset[str], re.Pattern[str]]:
    """Names in a set and wildcards as one pattern: models have 50,000 tensors and long lists."""
    wild = [name for name in kept if set(name) & set("*?[") and not name.startswith("re:")]
    forms = [translate(form) for name in wild for form in (name, f"{name}.*")]
    return frozenset(kept), re.compile("|".join(forms) or "(?!)")


def scheme_of(checkpoint: Checkpoint) -> Scheme:
    """From config.json, else from ModelOpt's own file, which older exports have alone."""
    scheme, file = read_scheme(checkpoint.config), checkpoint.path / MODELOPT_FILE
    if scheme.method != "none" or not file.is_file():
        return scheme
    inner = read_object(file).get("quantization")
    if not isinstance(inner, dict):
        raise TinymoeError(f"{file}: expected an object 'quantization', found {inner!r}")
    fields = Fields(inner, f"{MODELOPT_FILE}, quantization")
    scheme = _read_modelopt(fields, checkpoint.config)
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
    if method not in METHODS:
        raise TinymoeError(
            f"{WHERE}: quant_method is {method!r}; those this version of tinymoe reads: "
            f"{', '.join(METHODS)}"
        )
    scheme = METHODS[method](fields, config)
    fields.finish(frozenset({"dequantize"}))  # a wish about loading, not about what is stored
    return scheme


def _read_fp8(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """DeepSeek's: E4M3, one scale a block. Without blocks it would be one a tensor: not here."""
    fields.only("fmt", None, "e4m3")
    fields.only("activation_scheme", None, "dynamic")
    fields.only("scale_fmt", None, "ue8m0")  # scales that are powers of two multiply all the same
    block = fields.take("weight_block_size")
    good = isinstance(block, list) and len(block) == 2
    if not good or any(type(side) is not int or side < 1 for side in block):
        raise fields.error("weight_block_size", "two whole numbers, as [128, 128]")
    return Scheme("fp8", (block[0], block[1]), _kept(fields, "modules_to_not_convert"))


def _read_mxfp4(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """gpt-oss's: stacked experts as blocks and scales."""
    if config.get("model_type") != "gpt_oss":
        raise TinymoeError(
            f"{WHERE}: quant_method 'mxfp4' is read for gpt_oss, whose tensors are *_blocks and "
            f"*_scales; model_type is {config.get('model_type')!r}"
        )
    return Scheme("mxfp4", kept=_kept(fields, "modules_to_not_convert"))


def _read_modelopt(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """ModelOpt's NVFP4, in config.json or in its own file, which calls the list otherwise."""
    fields.only("quant_algo", "NVFP4", "W4A16_NVFP4")  # the AWQ kinds scale activations besides
    fields.only("group_size", None, 16)
    kept = [_kept(fields, name) for name in ("ignore", "exclude_modules")]
    # of the groups the weights' are what quant_algo says; a quantised cache is arithmetic
    for name in ("config_groups", "producer", "kv_cache_quant_algo", "kv_cache_scheme", "targets"):
        fields.take(name, None)
    return Scheme("nvfp4_modelopt", (1, 16), kept[0] + kept[1])


def _read_compressed_tensors(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """NVFP4 alone: its other formats, several at once, sparsity and rotations are refused."""
    fields.only("format", "nvfp4-pack-quantized")
    groups = fields.take("config_groups")
    if not isinstance(groups, dict) or not all(map(_is_nvfp4, groups.values())):
        raise fields.error("config_groups", "groups of 4-bit float weights, 16 to a scale")
    fields.only("sparsity_config", None, {})
    fields.only("transform_config", None, {})
    for name in ("quantization_status", "global_compression_ratio", "version", "kv_cache_scheme"):
        fields.take(name, None)
    return Scheme("nvfp4_ct", (1, 16), _kept(fields, "ignore"))


def _is_nvfp4(group: Any) -> bool:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        return False
    wanted = {"num_bits": 4, "type": "float", "group_size": 16, "strategy": "tensor_group"}
    return all(weights.get(name) == value for name, value in wanted.items())


def _kept(fields: Fields, name: str) -> tuple[str, ...]:
    """A list of names."""
    names = fields.take(name, None)
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise fields.error(name, "a list of names of modules")
    return tuple(names)


METHODS: Mapping[str, Callable[[Fields, Mapping[str, Any]], Scheme]] = {
    "fp8": _read_fp8,
    "mxfp4": _read_mxfp4,
    "compressed-tensors": _read_compressed_tensors,
    "modelopt": _read_modelopt,
}
