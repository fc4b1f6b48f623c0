"""What a checkpoint weighs, from its headers: parameters and bytes, in all and for a token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import ModelConfig
from tinymoe.safetensors_file import Entry

# in the names of routed experts' tensors; the latter two hold all of a layer's (Granite)
EXPERTS = (".experts.", ".block_sparse_moe.input_linear.", ".block_sparse_moe.output_linear.")
# ends of names: what holds two values in a byte, and what is no parameter but a scale of some
PACKED = ("_blocks", ".weight_packed", ".weight", ".gate_up_proj", ".down_proj")
SCALES = (
    *("_scales", ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_global_scale"),
    *(".input_scale", ".input_global_scale", ".k_scale", ".v_scale", ".output_scale"),
    *("_weight_scale", "_weight_scale_2", "_input_scale"),  # of stacks
)


class Format(NamedTuple):
    """The tensors of one stored type."""

    tensors: int
    parameters: int  # values that the bytes stand for; scales of others count as none
    nbytes: int


class Footprint(NamedTuple):
    """Sizes of one checkpoint."""

    formats: Mapping[str, Format]  # by the header's dtype, largest first
    total: int  # parameters
    active: int  # parameters that one token meets: K of E experts, the embedding whole
    nbytes: int  # of all tensors
    read_per_token: int  # bytes as stored, for one token alone: active, of the embedding one row


def footprint(checkpoint: Checkpoint, config: ModelConfig) -> Footprint:
    """Sizes as the headers state them. Experts are the tensors named as `EXPERTS` says."""
    entries = [checkpoint.entry(name) for name in checkpoint.names()]
    kinds = {entry.dtype for entry in entries}
    formats = {kind: _sum([e for e in entries if e.dtype == kind]) for kind in kinds}
    experts = _sum([e for e in entries if any(part in e.name for part in EXPERTS)])
    idle = 1 - Fraction(config.router.top_k, config.router.experts)  # share of the experts
    everything = _sum(entries)
    unread_rows = 0
    if not config.tied_head:  # a tied embedding is read whole, as the head
        embed = [e for e in entries if e.name.endswith("embed_tokens.weight")]
        unread_rows = sum(e.nbytes - e.nbytes // e.shape[0] for e in embed if e.shape[0])
    return Footprint(
        formats=dict(sorted(formats.items(), key=lambda item: -item[1].nbytes)),
        total=everything.parameters,
        active=everything.parameters - int(idle * experts.parameters),
        nbytes=everything.nbytes,
        read_per_token=everything.nbytes - int(idle * experts.nbytes) - unread_rows,
    )


def _sum(entries: list[Entry]) -> Format:
    parameters = sum(map(_values, entries))
    return Format(len(entries), parameters, sum(entry.nbytes for entry in entries))


def _values(entry: Entry) -> int:
    if entry.name.endswith(SCALES):
        return 0
    packed = entry.dtype == "U8" and entry.name.endswith(PACKED)
    return math.prod(entry.shape) * (2 if packed else 1)
