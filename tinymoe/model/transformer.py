"""The whole model: `forward` walks the layers. The same function generates, traces and checks.

A layer is `h = x + attention(norm(x))`, then `y = h + moe(norm(h))`; in MiniMax-01 it is the normed
input that is carried past both parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.core import (
    Array,
    AttentionCard,
    Batch,
    GatedDeltaCard,
    LightningCard,
    ModelConfig,
    Numerics,
    PagedKeysValues,
    Tap,
    TinymoeError,
)
from tinymoe.model.attention_block import attention_block
from tinymoe.model.context import (
    Lookups,
    Pass,
    norm,
    project,
    turns_of,
)
from tinymoe.model.experts import swiglu, unpermute
from tinymoe.model.latent import latent_block
from tinymoe.model.linear_blocks import gated_delta_block, lightning_block
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import (
    AttentionParams,
    DenseParams,
    GatedDeltaParams,
    LatentParams,
    LayerParams,
    LightningParams,
    MixerParams,
    MoeParams,
    Params,
    SharedParams,
)
from tinymoe.model.precision import array_module, store
from tinymoe.model.router import sigmoid


def no_tap(name: str, value: Array) -> None:
    """Looks away."""


def forward(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    cache: PagedKeysValues,
    numerics: Numerics,
    ops: Ops = DEFINITION,
    tap: Tap = no_tap,
) -> Array:
    """Run T tokens through all layers; logits (R, V) of `batch.logit_rows`.

    Reads and writes the pages named by the batch's runs, nothing else in the cache. Logits are
    in `numerics.accumulate`, not rounded to storage. A token's values depend on its own sequence
    alone: not on the batch, its order, or how a prompt was cut.
    `tap` sees every activation, named as in the trace schema (`tinymoe-trace/1`).
    """
    if ops.step is not None:
        return ops.step(params, config, batch, cache, numerics, tap)
    this = begin(config, batch, cache, numerics, ops, tap)
    x = embed(params, batch.ids, this)  # (T, H)
    x = through(x, params, range(config.num_layers), cache, this)
    return logits_of(x, params, batch.logit_rows, this)


def begin(
    config: ModelConfig,
    batch: Batch,
    cache: PagedKeysValues,
    numerics: Numerics,
    ops: Ops = DEFINITION,
    tap: Tap = no_tap,
) -> Pass:
    """What all layers share."""
    turns = turns_of(batch.positions, config, numerics)
    groups = Lookups.of_groups(batch, config, cache.page_size)
    return Pass(
        config,
        groups,
        0,
        config.groups_by_layer,
        batch.runs,
        batch.positions,
        turns,
        numerics,
        ops,
        tap,
    )


def embed(params: Params, ids: Array, this: Pass) -> Array:
    """ids (T,) -> (T, H)."""
    this.tap("tokens", ids)
    x = times(params.embed[ids], this.config.multipliers.embedding, this.numerics)  # (T, H)
    this.tap("embed", x)
    return x


def through(x: Array, params: Params, layers: range, cache: PagedKeysValues, this: Pass) -> Array:
    """Some consecutive layers, x (T, H) -> (T, H). `cache` holds these alone, the first as 0."""
    for index in layers:  # and not `for layer in`: one layer at a time, where they are read anew
        pages = cache.layer(index - layers.start)
        if this.group != this.group_of[index]:
            this = this._replace(group=this.group_of[index])
        x = run_layer(x, params.layers[index], index, pages, this)
    return x


def logits_of(x: Array, params: Params, rows: Array, this: Pass) -> Array:
    """Last norm of x (T, H) and the head on some of its rows: (R, V)."""
    config, tap = this.config, this.tap
    x = norm(x, params.final_norm, this, bias=params.final_norm_bias)
    tap("final_norm", x)
    kept = replace(this.numerics, storage=this.numerics.accumulate)  # logits are not rounded
    logits = this.ops.outside(x[rows], params.head, kept, bias=params.head_bias)  # (R, V)
    if config.multipliers.logits_divisor != 1:
        logits = logits / config.multipliers.logits_divisor
    tap("logits", logits)
    return logits


def times(x: Array, factor: float, numerics: Numerics) -> Array:
    """x times one of the family's constants, rounded to storage."""
    return store(x if factor == 1 else x * factor, numerics.storage)


def run_layer(
    x: Array, layer: LayerParams, index: int, pages: tuple[Array, Array], this: Pass
) -> Array:
    """Attention, then experts (or the dense network), each added to what goes past: (T, H)."""
    name, past, of_attention, of_ffn = f"layers.{index}", this.config.residual, None, None
    if past is not None:
        full = isinstance(this.config.attention[index], AttentionCard)
        of_attention, of_ffn = past.full_attention if full else past.linear_attention, past.ffn
    normed = input_norm(x, layer.attention, this, f"{name}.attn")
    mixed = attention(normed, layer, index, pages, this, f"{name}.attn")
    x = added(x, normed, mixed, of_attention, this)  # (T, H)
    this.tap(f"{name}.mid", x)
    part = "moe" if isinstance(layer.ffn, MoeParams) else "mlp"
    normed = input_norm(x, layer.ffn, this, f"{name}.{part}")
    fed = (
        moe_block(normed, layer.ffn, this, name)
        if isinstance(layer.ffn, MoeParams)
        else dense_block(normed, layer.ffn, this, f"{name}.mlp")
    )
    x = added(x, normed, fed, of_ffn, this)  # (T, H)
    this.tap(f"{name}.out", x)
    return x


def input_norm(
    x: Array, params: MixerParams | MoeParams | DenseParams, this: Pass, name: str
) -> Array:
    """What a part of a layer works on: (T, H)."""
    bias = params.norm_bias if isinstance(params, AttentionParams | MoeParams) else None
    normed = norm(x, params.norm, this, bias=bias)
    this.tap(f"{name}.norm", normed)
    return normed


def added(
    x: Array, normed: Array, part: Array, factors: tuple[float, float] | None, this: Pass
) -> Array:
    """A part's result added to what goes past it: x, or (MiniMax-01) alpha times the normed x.

    Each product is rounded to storage, then the sum.
    """
    numerics, factor = this.numerics, this.config.multipliers.residual
    if factors is not None:
        x, factor = times(normed, factors[0], numerics), factors[1]
    return store(x + times(part, factor, numerics), numerics.storage)


def attention(
    normed: Array,
    layer: LayerParams,
    index: int,
    pages: tuple[Array, Array],
    this: Pass,
    name: str,
) -> Array:
    """The layer's kind of attention, (T, H) -> (T, H). `pages`: keys and values, or states."""
    params, card = layer.attention, this.config.attention[index]
    if isinstance(card, AttentionCard):
        if isinstance(params, AttentionParams) and card.latent is None:
            return attention_block(normed, params, pages, card, this, name)
        if isinstance(params, LatentParams) and card.latent is not None:
            return latent_block(normed, params, pages, card, card.latent, this, name)
    elif isinstance(params, GatedDeltaParams) and isinstance(card, GatedDeltaCard):
        return gated_delta_block(normed, params, pages, card, index, this, name)
    elif isinstance(params, LightningParams) and isinstance(card, LightningCard):
        return lightning_block(normed, params, pages, card, index, this, name)
    raise TinymoeError(
        f"{name}: weights of another kind of attention than the card's: {type(params).__name__} "
        f"with {type(card).__name__}. Was the config changed after the weights were loaded?"
    )


def moe_block(normed: Array, params: MoeParams, this: Pass, name: str) -> Array:
    """Route, permute, experts, combine, and the shared expert: (T, H) -> (T, H)."""
    card, ops, numerics, tap = this.config.router, this.ops, this.numerics, this.tap
    more = {} if params.router_bias is None else {"logit_bias": params.router_bias}
    routing = ops.route(normed, params.router, params.selection_bias, card, numerics, **more)
    for field, value in zip(routing._fields, routing, strict=True):
        tap(f"{name}.router.{field}", value)
    order, offsets = ops.permute(routing.ids, card.experts)  # (T*K,), (E + 1,)
    rows, weights = normed[order // card.top_k], routing.weights  # (T*K, H), (T, K)
    if card.weight_on == "input":
        rows = store(rows * weights.reshape(-1)[order, None], numerics.storage)
        weights = array_module(weights).ones_like(weights)
    rows = ops.expert_ffn(
        rows, params.gate_up, params.down, offsets, numerics, **expert_extras(params, this)
    )  # (T*K, H)
    expert_out = unpermute(rows, order, card.top_k)  # (T, K, H)
    tap(f"{name}.moe.expert_out", expert_out)
    out = ops.combine(expert_out, weights, numerics)  # (T, H)
    tap(f"{name}.moe.routed", out)
    if params.shared is not None:
        shared = shared_expert(normed, params.shared, this)
        tap(f"{name}.moe.shared", shared)
        out = store(out + shared, numerics.storage)
    tap(f"{name}.moe.out", out)
    return out


def expert_extras(params: MoeParams, this: Pass) -> dict[str, Any]:
    """What only some families' experts have, by name; nothing for plain SwiGLU without biases."""
    card = this.config.experts
    extras: dict[str, Any] = {}
    if card.activation != "swiglu":
        extras["card"] = card
    if card.biases:
        extras |= {"gate_up_bias": params.gate_up_bias, "down_bias": params.down_bias}
    return extras


def shared_expert(normed: Array, params: SharedParams, this: Pass) -> Array:
    """The expert that every token meets, times its own gate if it has one: (T, H).

    It is added once, after the routed experts, and knows no routed scaling factor.
    """
    out = feed_forward(normed, params, this)
    if params.gate is None:
        return out
    storage = this.numerics.storage
    gate = store(sigmoid(project(normed, params.gate, None, this)), storage)  # (T, 1)
    return store(gate * out, storage)


def dense_block(normed: Array, params: DenseParams, this: Pass, name: str) -> Array:
    """A layer without experts: one feed-forward network, (T, H) -> (T, H)."""
    out = feed_forward(normed, params, this)
    this.tap(f"{name}.out", out)
    return out


def feed_forward(normed: Array, params: DenseParams | SharedParams, this: Pass) -> Array:
    """`experts.ffn` with products that a backend may have replaced: (T, H) -> (T, H)."""
    product, numerics = this.ops.outside, this.numerics
    hidden = swiglu(product(normed, params.gate_up, numerics), numerics)
    return product(hidden, params.down, numerics)
