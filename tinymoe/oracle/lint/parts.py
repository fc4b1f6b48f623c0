"""Which tensors are parts of one quantised matrix, by their names alone.

`families/layouts.py` knows what a config's scheme asks for. Here nothing is asked: whatever is
named like a scale is put beside what it scales, so that a checkpoint which contradicts its config,
or whose family nobody knows, can still be looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from tinymoe.checkpoint import Checkpoint

Meaning = Literal["multiplier", "divisor"]
Kind = Literal["codes", "local", "global", "input", "pre_quant", "cache"]

# last part of a name -> what the tensor is, and how it enters; a scale that divides is
# compressed-tensors' (modular#6600: multiplied by, it is off by its square)
PARTS: dict[str, tuple[Kind, Meaning]] = {
    "weight_packed": ("codes", "multiplier"),
    "qweight": ("codes", "multiplier"),  # GPTQ, AWQ: known as quantised, and no more
    "blocks": ("codes", "multiplier"),
    "weight_scale": ("local", "multiplier"),
    "weight_scale_inv": ("local", "multiplier"),  # named for an inverse, and multiplies
    "scale_inv": ("local", "multiplier"),
    "scales": ("local", "multiplier"),
    "weight_scale_2": ("global", "multiplier"),
    "weight_global_scale": ("global", "divisor"),
    "input_scale": ("input", "multiplier"),
    "activation_scale": ("input", "multiplier"),
    "input_global_scale": ("input", "divisor"),
    "pre_quant_scale": ("pre_quant", "multiplier"),
    "k_scale": ("cache", "multiplier"),
    "v_scale": ("cache", "multiplier"),
    "kv_scale": ("cache", "multiplier"),
    "output_scale": ("cache", "multiplier"),
}
# the shortest stem, so that X.weight_scale_inv is not X.weight with a scale_inv
_NAME = re.compile(rf"(.+?)[._]({'|'.join(sorted(PARTS, key=len, reverse=True))})")
LOW = ("U8", "I8", "F8_E4M3", "F8_E5M2")  # types of codes


@dataclass(slots=True)
class Module:
    """One matrix, or a stack of them, and what belongs to it."""

    stem: str  # without .weight
    codes: str | None = None
    dtype: str = ""  # of the codes
    # two conventions beside each other are possible, and a finding
    parts: dict[Kind, list[tuple[str, Meaning]]] = field(default_factory=dict)

    @property
    def quantised(self) -> bool:
        """Whether its weights are codes."""
        packed = self.codes is not None and self.codes.endswith(("weight_packed", "qweight"))
        return packed or (self.codes is not None and self.dtype in LOW)

    def of(self, kind: Kind) -> str | None:
        """Name of the (first) tensor of a kind."""
        return self.parts[kind][0][0] if self.parts.get(kind) else None

    def names(self) -> list[str]:
        """All its tensors."""
        found = [name for kind in self.parts.values() for name, _ in kind]
        return ([self.codes] if self.codes is not None else []) + found


def kind_of(name: str) -> Kind | None:
    """What a tensor is by the last part of its name; None for a plain one."""
    found = _NAME.fullmatch(name)
    return None if found is None else PARTS[found[2]][0]


def modules_of(checkpoint: Checkpoint) -> dict[str, Module]:
    """Every module that has a quantised weight or anything named like a scale, by stem."""
    modules: dict[str, Module] = {}
    for name in checkpoint.names():
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        stem, last = found[1], found[2]
        kind, meaning = PARTS[last]
        plain = last in ("blocks", "scales") and checkpoint.entry(name).dtype not in LOW
        if plain and f"{stem}.qweight" not in checkpoint:
            continue
        module = modules.setdefault(stem, Module(stem))
        if kind == "codes":
            module.codes, module.dtype = name, checkpoint.entry(name).dtype
        else:
            module.parts.setdefault(kind, []).append((name, meaning))
    for name in checkpoint.names():
        stem, dtype = name.removesuffix(".weight"), checkpoint.entry(name).dtype
        plain = stem in modules and modules[stem].codes is None
        if plain or (name.endswith(".weight") and dtype.startswith("F8_")):
            module = modules.setdefault(stem, Module(stem))
            module.codes, module.dtype = name, dtype
    return modules


def role(name: str) -> str:
    """The name with every number of a layer or an expert as *."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
