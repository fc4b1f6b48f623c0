"""Wrong readings of a quantised checkpoint, as wrong variants of the model.

A stored matrix is found among the model's weights by its values, so that no family's names are
needed here: only the suffixes by which exporters name codes and scales.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, QuantTensor
from tinymoe.formats import mxfp4, nvfp4
from tinymoe.oracle.mutants import FORMAT_MUTANTS, FormatMutant, ModelMutant, Setup, Stored, decode
from tinymoe.oracle.mutants.mutant import layers, model_mutant

_CT, _MODELOPT, _FP8 = "weight_packed", "weight_scale_2", "weight_scale_inv"
WHERE = "layers.*.weights"  # no tap: weights show in what is computed with them


def format_mutants(checkpoint: Checkpoint) -> list[ModelMutant]:
    """Every wrong reading that this checkpoint's formats allow; none if it is not quantised."""
    every = list(matrices(checkpoint))
    return [_as_model(m, every) for m in FORMAT_MUTANTS if any(m.applies(x) for x in every)]


def matrices(checkpoint: Checkpoint) -> Iterator[Stored]:
    """The stored matrices of all layers: gate and up together, others alone."""
    names = [name for name in checkpoint.names() if re.search(r"\.layers?\.\d+\.", name)]
    for name in names:
        stem, _, end = name.rpartition(".")
        if end not in (_CT, _MODELOPT, _FP8) or stem.endswith("up_proj"):
            continue
        both = [stem, stem.replace("gate_proj", "up_proj")]
        found = [s for s in dict.fromkeys(both) if f"{s}.{end}" in checkpoint]
        yield tuple(_tensor(checkpoint, each, end) for each in found)
    for name in checkpoint.names():  # a matrix alone, whose gate has another suffix
        stem, _, end = name.rpartition(".")
        lonely = stem.endswith("up_proj") and f"{stem[:-7]}gate_proj.{end}" not in checkpoint
        if end in (_CT, _MODELOPT, _FP8) and lonely and name in names:
            yield (_tensor(checkpoint, stem, end),)


def _tensor(checkpoint: Checkpoint, stem: str, end: str) -> QuantTensor:
    """One matrix, its codes (N, K/2) or (N, K), in the exporter's convention."""
    if end == _FP8:
        codes, scales = checkpoint.raw(f"{stem}.weight"), checkpoint.raw(f"{stem}.{end}")
        scheme = checkpoint.config.get("quantization_config") or {}
        block = scheme.get("weight_block_size", (128, 128))  # the last block may be a partial one
        wide = np.array(checkpoint.read(f"{stem}.{end}", "float32"))
        return _quant("fp8", "div32", (codes, wide), (block[0], block[1]), None, "none")
    if end == _CT:
        scales = np.array(checkpoint.raw(f"{stem}.weight_scale"))
        codes, scale = checkpoint.raw(f"{stem}.{end}"), f"{stem}.weight_global_scale"
        if scale not in checkpoint:
            return _quant("mxfp4", "ocp_floor", (codes, scales), (1, mxfp4.BLOCK), None, "none")
        g = np.float32(np.array(checkpoint.raw(scale)).ravel()[0])
        return _quant("nvfp4", "ct", (codes, scales), (1, nvfp4.BLOCK), g, "divisor")
    both = checkpoint.raw(f"{stem}.weight"), np.array(checkpoint.raw(f"{stem}.weight_scale"))
    g = np.float32(np.array(checkpoint.raw(f"{stem}.{end}")).ravel()[0])
    return _quant("nvfp4", "modelopt", both, (1, nvfp4.BLOCK), g, "multiplier")


def _quant(
    form: Any, by: str, both: tuple[Any, Array], block: tuple[int, int], g: Any, meaning: Any
) -> QuantTensor:
    return QuantTensor(
        format=form,
        convention=by,
        codes=np.array(both[0]),
        scales=both[1],
        block=block,
        tensor_scale=g,
        tensor_scale_is=meaning,
    )


def _as_model(mutant: FormatMutant, every: Sequence[Stored]) -> ModelMutant:
    """A reading as a variant of the model: all matrices that it concerns are read so."""

    @cache
    def values() -> Mapping[bytes, tuple[Array, Array]]:
        """By the bytes of its first row, each matrix as it is and as it is read."""
        found = {}
        with np.errstate(all="ignore"):
            for stored in every:
                if mutant.applies(stored):
                    for tensor, wrong in zip(stored, mutant.apply(stored), strict=True):
                        right = decode(tensor)
                        found[_key(right[0])] = right, wrong
        return found

    def apply(setup: Setup) -> Setup:
        return layers(lambda layer: _replaced(layer, values()))(setup)

    return model_mutant(mutant.name, mutant.says, WHERE, apply, case=mutant.case)


def _key(row: Array) -> bytes:
    return np.ascontiguousarray(row, np.float32).tobytes()


def _replaced(value: Any, found: Mapping[bytes, tuple[Array, Array]]) -> Any:
    """A tree of weights with every matrix of `found` that is in it, or rows of it, exchanged."""
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _replaced(getattr(value, f.name), found) for f in fields(value)}
        return replace(value, **changed)
    if not isinstance(value, np.ndarray) or value.ndim < 2:
        return value
    out = value.reshape(-1, value.shape[-1]).copy()  # (rows, K)
    for row in range(len(out)):
        right, wrong = found.get(_key(value.reshape(out.shape)[row]), (None, None))
        if right is None or wrong is None or row + len(right) > len(out):
            continue
        if np.array_equal(value.reshape(out.shape)[row : row + len(right)], right):
            out[row : row + len(right)] = wrong
    return out.reshape(value.shape)
