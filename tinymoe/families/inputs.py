"""What a checkpoint says of quantised inputs and of the cache, gathered while a loader runs.

A loader fills arrays by tensor name (`note`), then hands over each finished matrix with the names
that filled it (`weight`) and gets it back with its input's format, if numerics ask for one.

Which scale a fused matrix has is a choice, made here and nowhere else: q/k/v and gate/up meet one
input, which engines quantise once; here under the loudest of their calibrations (`shared_format`).
DeepSeek's q_a and kv_a keep their own (ModelOpt exports them equal). Experts:
`Numerics.expert_inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Numerics, TinymoeError
from tinymoe.families.layout_fp8 import cache_format
from tinymoe.families.layout_parts import SCALES, Input, Layout, Part, scalar, scale_values
from tinymoe.families.scheme import Scheme
from tinymoe.formats.inputs import InputFormat, shared_format
from tinymoe.model.weights import QuantisedInput, Weight

Groups = Sequence[Sequence[str]]  # names of tensors: each group fills one matrix
CacheFormats = tuple[InputFormat | None, InputFormat | None]  # of keys, of values
# ModelOpt's; compressed-tensors' and vLLM's; and of older llm-compressor exports
CACHE_SCALES = ("{0}.{1}_proj.{1}_scale", "{0}.{1}_scale", "{0}.{1}_proj.output_scale")


def cache_scales(checkpoint: Checkpoint, attention: str) -> list[str | None]:
    """Names of the stored scales of keys and of values."""
    names = [[form.format(attention, letter) for form in CACHE_SCALES] for letter in "kv"]
    return [next((name for name in each if name in checkpoint), None) for each in names]


class Inputs:
    """The quantised inputs of one model, as its loader meets them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        scheme: Scheme,
        numerics: Numerics,
        look_at: Callable[[Part], bool],
    ) -> None:
        """`look_at` checks a tensor; False: it is missing, which has been noted."""
        self._checkpoint, self._scheme, self._look_at = checkpoint, scheme, look_at
        self._asked = numerics.activations == "checkpoint"
        self._together = numerics.expert_inputs == "largest"
        self._noted = dict[str, Input]()

    def note(self, name: str, layout: Layout) -> None:
        """A tensor that a loader has filled."""
        if self._asked and layout.input is not None:
            self._noted[name] = layout.input

    def weight(self, values: Any, groups: Groups) -> Weight:
        """A matrix (one group) or a stack (one group, or one for each expert), with its input's."""
        plain_values: Weight = values
        noted = [[self._noted.pop(name, None) for name in names] for names in groups]
        found = [[one for one in each if one is not None] for each in noted]
        if not any(found):
            return plain_values
        if [len(each) for each in found] != [len(names) for names in groups]:
            plain = [
                n
                for ns, each in zip(groups, noted, strict=True)
                for n, one in zip(ns, each, strict=True)
                if one is None
            ]
            raise TinymoeError(
                f"{self._checkpoint.path}: some tensors of one matrix or stack are quantised with "
                f"their input and some are not: not {', '.join(plain[:8])}. No engine fuses such; "
                "use the numerics 'bf16', which leave inputs as they are"
            )
        parts = [part for each in found for one in each for part in one.parts]
        there = [self._look_at(part) for part in parts]  # each is to be looked at
        if not all(there):
            return plain_values
        return QuantisedInput(values, self._formats(found))

    def _formats(self, found: list[list[Input]]) -> tuple[InputFormat, ...]:
        """One, or one for each expert."""
        formats = list[InputFormat]()
        for each in found:
            read = [one.read(self._checkpoint) for one in each]
            formats += read[0] if len(read) == 1 else [shared_format([f for r in read for f in r])]
        if self._together or len(set(formats)) == 1:
            return (shared_format(formats),)
        return tuple(formats)

    def cached(self, attention: str) -> CacheFormats:
        """How the layer's keys and values are kept; stored scales are checked in all numerics.

        A stored scale means an FP8 cache, whatever the config says. One that the config wants and
        that is not there is an error: never 1 (vllm#35656, sglang#39942).
        """
        names, wanted = cache_scales(self._checkpoint, attention), self._scheme.cache
        if self._asked and wanted not in ("none", "fp8"):
            raise TinymoeError(
                f"{self._checkpoint.path}: the cache is to be kept in {wanted!r}; the one kind "
                "that is emulated is FP8 with a scale a tensor; the numerics 'bf16' quantise none"
            )
        forms = list[InputFormat | None]()
        for letter, name in zip("kv", names, strict=True):
            if name is None and self._asked and (wanted == "fp8" or any(names)):
                self._look_at(Part(CACHE_SCALES[0].format(attention, letter), (), SCALES))
            if name is None or not self._look_at(scalar(self._checkpoint, name, SCALES)):
                forms.append(None)
                continue
            scale = scale_values(self._checkpoint, name, np.float32).reshape(-1)[0]
            forms.append(cache_format(scale) if self._asked else None)
        return forms[0], forms[1]

    def finish(self) -> None:
        """Everything that was noted has been handed over: no input is left unquantised unsaid."""
        # an embedding is looked up: it multiplies nothing
        left = [name for name in self._noted if "embed_tokens" not in name]
        if left:
            raise TinymoeError(
                f"{self._checkpoint.path}: the inputs of {', '.join(left[:8])} are quantised, "
                "which is not emulated there; use the numerics 'bf16', which leave them as they are"
            )
