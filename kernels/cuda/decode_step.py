"""One MoE layer of a decode step as launches alone: what a CUDA graph can hold.

`run_layer` of the definition, for one new token of each of R sequences, with nothing between the
kernels: no count, no length and no page number ever comes back to the host, and every buffer has
its place before the first launch. Where tokens are, the step reads from `Places`, on the device; to
go on by one token, change what is in those buffers and start the graph again.

    recorder = Recorder(PtxDevice())
    out = recorder.record(lambda: layer_step(recorder, x, layer, card, config, places, numerics))
    x[...], places.positions[...] = the next tokens; recorder.replay()  # and read `out`
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.core import AttentionCard, ModelConfig, Numerics, TinymoeError
from tinymoe.kernels.cuda import calls
from tinymoe.kernels.cuda.arguments import matrix, rounds
from tinymoe.kernels.cuda.launch import Device
from tinymoe.kernels.cuda.ops_attention import Looks, Pages, decode
from tinymoe.kernels.cuda.ops_model import ModelOps
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.model.params import AttentionParams, LayerParams, MoeParams


@dataclass(frozen=True)
class Places:
    """Where R sequences stand: buffers on the device, read by every replay."""

    key_pages: Any  # (pages, P, Nk, D)
    value_pages: Any  # (pages, P, Nk, D)
    tables: Any  # (R, width) int64: page numbers; only those up to `positions` are read
    positions: Any  # (R,) int64: of the new tokens
    turns: tuple[Any, Any]  # cosines and sines of all positions, (positions, 1, d/2) each


def layer_step(
    device: Device,
    x: Any,
    layer: LayerParams,
    card: AttentionCard,
    config: ModelConfig,
    places: Places,
    numerics: Numerics,
) -> Any:
    """x (R, H) through one layer: (R, H), the bits that the ops give. Weights lie on the device."""
    attention, moe = _plain(layer, card, config)
    looked = _attention_part(device, x, attention, card, config, places, numerics)
    x = _added(device, x, looked, config, numerics)
    return _added(device, x, _moe_part(device, x, moe, config, numerics), config, numerics)


def _attention_part(
    device: Device,
    x: Any,
    params: AttentionParams,
    card: AttentionCard,
    config: ModelConfig,
    places: Places,
    numerics: Numerics,
) -> Any:
    """Norm, project, norm and turn, remember, look back, project: (R, H) -> (R, H)."""
    ops, bf16, rows = ModelOps(device), rounds(numerics), len(x)
    heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
    cuts = (0, heads * size, (heads + kv_heads) * size, (heads + 2 * kv_heads) * size)
    qkv = matrix(device, params.qkv, "attention.qkv")
    normed = _norm(ops, x, params.norm, config, numerics)
    # rows of one matrix are matrices of their own: each part comes out where the next kernel wants
    q, k, v = (
        ops.linear(normed, qkv[a:b], numerics).reshape(rows, -1, size) for a, b in pairwise(cuts)
    )
    if params.qk_norm is not None:
        q = _norm(ops, q, params.qk_norm[:heads], config, numerics)
        k = _norm(ops, k, params.qk_norm[heads:], config, numerics)
    if card.rope is not None:
        interleaved = card.rope.pairing == "interleaved"
        q, k = (_turned(device, part, places, interleaved, bf16) for part in (q, k))
    slots = device.empty((rows,), np.int64)
    calls.slots_of(device, slots, places.positions, places.tables, places.key_pages.shape[1])
    calls.write_pages(device, places.key_pages, slots, k)
    calls.write_pages(device, places.value_pages, slots, v)
    mix = device.empty(q.shape, np.float32)
    pages = Pages.of(device, places.key_pages, places.value_pages)
    looks = Looks.of(device, card.window, card.chunk, params.sinks, card.scale, numerics)
    decode(device, mix, q, pages, places.tables, places.positions, looks)
    return ops.linear(mix.reshape(rows, -1), params.out, numerics)


def _turned(device: Device, part: Any, places: Places, interleaved: bool, bf16: np.int32) -> Any:
    out = device.empty(part.shape, np.float32)
    calls.rope(device, out, part, places.turns, places.positions, interleaved, bf16)
    return out


def _moe_part(
    device: Device, x: Any, params: MoeParams, config: ModelConfig, numerics: Numerics
) -> Any:
    """Norm, route, permute, experts, combine: (R, H) -> (R, H)."""
    ops, routing_ops, card = ModelOps(device), RoutingOps(device), config.router
    normed = _norm(ops, x, params.norm, config, numerics)
    routing = routing_ops.route(normed, params.router, params.selection_bias, card, numerics)
    (order, offsets), where = routing_ops.permute_and_inverse(routing.ids, card.experts)
    rows = device.empty((len(x) * card.top_k, x.shape[1]), np.float32)
    calls.take_rows(device, rows, normed, order, card.top_k, 1.0, rounds(numerics))
    rows = ops.expert_ffn(rows, params.gate_up, params.down, offsets, numerics)
    return routing_ops.combine_rows(rows, where, routing.weights, numerics)


def _norm(ops: ModelOps, x: Any, weight: Any, config: ModelConfig, numerics: Numerics) -> Any:
    early = config.norm_rounds_before_weight
    return ops.rmsnorm(x, weight, config.rms_norm_eps, numerics, rounds_before_weight=early)


def _added(device: Device, x: Any, part: Any, config: ModelConfig, numerics: Numerics) -> Any:
    out = device.empty(x.shape, np.float32)
    calls.add_to(device, out, x, part, config.multipliers.residual, rounds(numerics))
    return out


def _plain(
    layer: LayerParams, card: AttentionCard, config: ModelConfig
) -> tuple[AttentionParams, MoeParams]:
    """The layer's two parts, if they are of the kind that a step is written for."""
    attention, moe = layer.attention, layer.ffn
    if not isinstance(attention, AttentionParams) or not isinstance(moe, MoeParams):
        raise TinymoeError(
            "a recorded step takes a layer of softmax attention and experts, got "
            f"{type(attention).__name__} and {type(moe).__name__}"
        )
    special = {
        "biases": attention.qkv_bias is not None or attention.out_bias is not None,
        "a norm of all heads, or after rope": card.qk_norm not in ("none", "per_head")
        or card.qk_norm_after_rope,
        "clipped queries": card.clip is not None,
        "queries with a temperature": card.temperature is not None,
        "an output gate": card.out_gate,
        "a quantised cache": attention.key_format is not None,
        "LayerNorm": config.norm != "rms",
        "a normed residual": config.residual is not None,
        "a shared expert": moe.shared is not None,
        "experts with biases or a clamp": config.experts.activation != "swiglu"
        or config.experts.biases,
        "logit biases": moe.router_bias is not None,
        "weights on the experts' input": config.router.weight_on != "output",
    }
    if found := [what for what, is_there in special.items() if is_there]:
        raise TinymoeError(
            f"a recorded step of {config.family}: not written for {', '.join(found)}; run the "
            "model by its ops"
        )
    return attention, moe
