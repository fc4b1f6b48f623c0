"""What the rules look at: a checkpoint that may be broken, and what is known of it.

Everything here is worked out once, when the first rule asks. Nothing goes through `load_params`,
which refuses what a lint is for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tinymoe.cards import ModelConfig
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, TinymoeError
from tinymoe.families import FAMILIES
from tinymoe.families.layouts import Shape, layout_of
from tinymoe.families.quantised import MODELOPT_FILE, Scheme, scheme_of
from tinymoe.families.tensors import Change, Listing
from tinymoe.oracle.lint.parts import Module, kind_of, modules_of
from tinymoe.oracle.lint.reading import Reading, read_leniently, reason
from tinymoe.oracle.lint.samples import Sample, sample
from tinymoe.oracle.lint.shards import open_folder
from tinymoe.strict_json import read_object

_MOST = 100_000  # tensors that any config may ask for
# towers beside the text model, and tables that some exporters store and the config says
_BESIDE = ("vision_model.", "visual.", "model.visual.", "vision_tower.", "multi_modal_projector.")
_TABLES = (
    *("rotary_emb.inv_freq", "self_attn.slope_rate"),
    *("self_attn.query_decay", "self_attn.key_decay", "self_attn.diagonal_decay"),
)


@dataclass(slots=True)
class Comparison:
    """The tensors that config.json asks for against those that are there."""

    used: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)  # of those: by a layout, not by name alone
    missing: list[str] = field(default_factory=list)
    scales_missing: list[str] = field(default_factory=list)  # of a tensor whose codes are there
    shapes: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)  # (wanted, found)
    dtypes: dict[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # name -> why no layout is known
    cut: str = ""  # why the list of what is asked for is not whole


class _Bounded(Listing):
    """The names that a config asks for, up to a limit: it may ask for millions."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """Note it; `TinymoeError` past the limit."""
        if len(self.seen) >= self._most:
            raise TinymoeError(
                f"config.json asks for more than {self._most:,} tensors, far more than are stored"
            )
        super().fill(name, out, stored, change)


class Subject:
    """One checkpoint folder."""

    def __init__(self, path: str | Path) -> None:
        """Open it; `TinymoeError` where not even the headers can be read."""
        self.checkpoint, self.index = open_folder(path)
        self.path, self.config = self.checkpoint.path, self.checkpoint.config

    @cached_property
    def names(self) -> list[str]:
        """Of all tensors that can be read, sorted."""
        return self.checkpoint.names()

    @cached_property
    def reading(self) -> Reading:
        """config.json, as far as it can be read."""
        head = any(name.endswith("lm_head.weight") for name in self.names)
        return read_leniently(self.config, tied=not head)

    @property
    def model(self) -> ModelConfig | None:
        """None where config.json says too little for the names of tensors."""
        return self.reading.model

    @cached_property
    def _scheme(self) -> tuple[Scheme | None, str]:
        try:
            return scheme_of(self.checkpoint), ""
        except Exception as error:
            return None, reason(error)

    @property
    def scheme(self) -> Scheme | None:
        """What is said of quantisation; None where that is not understood."""
        return self._scheme[0]

    @property
    def scheme_problem(self) -> str:
        """Why there is no scheme."""
        return self._scheme[1]

    @cached_property
    def said(self) -> dict[str, dict[str, Any]]:
        """The objects that speak of quantisation, by where they stand, whatever they say."""
        found, inner = dict[str, dict[str, Any]](), self.config.get("text_config")
        for where, owner in (("config.json", self.config), ("text_config", inner)):
            value = owner.get("quantization_config") if isinstance(owner, dict) else None
            if isinstance(value, dict):
                found[where] = value
        if (self.path / MODELOPT_FILE).is_file():
            try:
                value = read_object(self.path / MODELOPT_FILE).get("quantization")
            except TinymoeError:  # `scheme_of` reports it
                value = None
            if isinstance(value, dict):
                found[MODELOPT_FILE] = value
        return found

    @property
    def method(self) -> str:
        """quant_method as it is written, "modelopt" for its own file, "" where nothing is said."""
        methods = [str(said.get("quant_method", "?")) for said in self.said.values()]
        if not methods:
            return ""
        return "modelopt" if list(self.said) == [MODELOPT_FILE] else methods[0]

    @cached_property
    def modules(self) -> dict[str, Module]:
        """Whatever is quantised or has something named like a scale."""
        return modules_of(self.checkpoint)

    @cached_property
    def scales(self) -> Sample:
        """Numbers of every tensor named like a scale."""
        kinds = ("local", "global", "input", "pre_quant", "cache")
        names = {
            name
            for module in self.modules.values()
            for kind, parts in module.parts.items()
            if kind in kinds
            for name, _ in parts
        }
        return sample(self.checkpoint, sorted(names))

    @cached_property
    def head(self) -> str:
        """Name that the head's matrix has, or would have."""
        prefix = "language_model." if self.config.get("model_type") == "llama4" else ""
        return f"{prefix}lm_head.weight"

    @property
    def embedding(self) -> str:
        """Name of the embedding matrix."""
        return self.head.removesuffix("lm_head.weight") + "model.embed_tokens.weight"

    def past_the_end(self, name: str) -> bool:
        """Of a layer that predicts further tokens, past the model's last."""
        if name.startswith("mtp."):
            return True
        layer = re.match(r"(?:language_model\.)?model\.layers\.(\d{1,9})\.", name)
        return (
            layer is not None and self.model is not None and int(layer[1]) >= self.model.num_layers
        )

    def beside(self, name: str) -> bool:
        """Of another part than the text model, or known to be of no use."""
        return name.startswith(_BESIDE) or name.endswith(_TABLES)

    @cached_property
    def comparison(self) -> Comparison | None:
        """What config.json asks for against what is there; None without a readable config."""
        if self.model is None:
            return None
        result = Comparison()
        # a pre_quant_scale has a rule of its own, and would hide all else about its matrix
        stored = self._without("pre_quant_scale")
        listing = _Bounded(max(_MOST, 4 * len(self.names)))
        try:
            FAMILIES[self.model.family].build(listing, self.model)
        except Exception as error:  # sizes that no array has, or more tensors than anyone's
            result.cut = str(error)
        for name, shape in listing.seen:
            self._compare(stored, name, shape, result)
        return result

    def _without(self, ending: str) -> Checkpoint:
        """The checkpoint as it would be without some tensors."""
        c = self.checkpoint
        home = {
            name: file
            for file in c.files
            for name, entry in file.entries.items()
            if not name.endswith(ending) and name in c and c.entry(name) is entry
        }
        return Checkpoint(c.path, c.config, c.generation, c.files, home)

    def _compare(self, stored: Checkpoint, name: str, shape: Shape, result: Comparison) -> None:
        module, scheme = self.modules.get(name.removesuffix(".weight")), self.scheme
        unsaid = scheme is None or scheme.method == "none"
        if module is not None and unsaid and (scheme is None or module.quantised):
            result.used |= set(module.names())  # nobody knows how it is stored
            return
        try:
            layout = layout_of(scheme or Scheme("none"), stored, name, shape)
        except TinymoeError as error:
            result.refused[name] = str(error)
            result.used |= {name} if module is None else set(module.names())
            return
        there = [part.name in stored for part in layout.parts]
        for part, found in zip(layout.parts, there, strict=True):
            result.used.add(part.name)
            result.judged.add(part.name)
            if not found:
                (result.scales_missing if any(there) else result.missing).append(part.name)
                continue
            entry = stored.entry(part.name)
            if entry.dtype not in part.dtypes:
                result.dtypes[part.name] = (part.dtypes, entry.dtype)
            elif entry.shape != part.shape and (entry.nbytes or kind_of(part.name) is None):
                # a scale without elements is no scale, which `scale-zero` says
                result.shapes[part.name] = (part.shape, entry.shape)
