"""What a checkpoint says of its weights stored in few bits, whoever wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Any, Literal

from tinymoe.families.fields import Fields

Method = Literal[
    "none",
    "fp8",  # DeepSeek's blocks
    "fp8_ct",
    "fp8_modelopt",
    "mxfp4",  # gpt-oss's blocks and scales
    "mxfp4_ct",
    "nvfp4_ct",
    "nvfp4_modelopt",
]
Inputs = Literal["none", "nvfp4", "mxfp4", "fp8_tensor", "fp8_token", "fp8_group"]
Granularity = Literal["block", "channel", "tensor"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """What `quantization_config`, or ModelOpt's own file, says."""

    method: Method
    block: tuple[int, int] = (1, 1)  # rows and columns that share a scale, with "block"
    # modules said to be stored as they were; may hold wildcards. compressed-tensors' expressions
    # ("re:...") are not run: one may backtrack without end, and what is stored decides anyway
    kept: tuple[str, ...] = ()
    granularity: Granularity = "block"  # what shares a scale; in FP4 always a block
    inputs: Inputs = "none"  # how an engine quantises what these weights are multiplied with
    cache: str = "none"  # of keys and values: "fp8", one scale a tensor, or what the file says
    power_of_two: bool = False  # scales of FP8 inputs are rounded up to powers of two

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


def kept_names(fields: Fields, name: str) -> tuple[str, ...]:
    """A list of names of modules; missing and null: none."""
    names = fields.take(name, None)
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise fields.error(name, "a list of names of modules")
    return tuple(names)


def cache_of(algorithm: Any, scheme: Any) -> str:
    """How keys and values are stored, from `kv_cache_quant_algo` or `kv_cache_scheme`.

    Whatever is not FP8 with one static scale a tensor is handed on as the file says it, to be
    refused where it would be applied: never taken for FP8, and never for nothing.
    """
    if algorithm not in (None, "", "none"):
        return "fp8" if algorithm == "FP8" else str(algorithm)
    if scheme is None:
        return "none"
    fp8 = isinstance(scheme, dict) and (scheme.get("num_bits"), scheme.get("type")) == (8, "float")
    whole = fp8 and scheme.get("strategy") in (None, "tensor") and not scheme.get("dynamic")
    return "fp8" if whole else str(scheme)
