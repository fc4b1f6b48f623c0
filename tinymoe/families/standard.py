"""Loading what most families store alike: `Names` says what is called how, the rest is common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tinymoe.cards import AttentionCard, LayerCard, ModelConfig
from tinymoe.core import Array, TinymoeError
from tinymoe.families.layouts import Shape
from tinymoe.families.tensors import Change, Source, read, read_weight
from tinymoe.model.params import (
    AttentionParams,
    DenseParams,
    LayerParams,
    MixerParams,
    MoeParams,
    Params,
    SharedParams,
)
from tinymoe.model.weights import Weight, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a family calls its tensors, under `model.layers.{i}.`; `replace` for what differs."""

    prefix: str = ""  # before everything (a text model inside another)
    q_norm: str = "self_attn.q_norm.weight"
    k_norm: str = "self_attn.k_norm.weight"
    dense: str = "mlp"
    router: str = "mlp.gate.weight"
    selection_bias: str = "mlp.gate.e_score_correction_bias"
    selection_bias_rows: tuple[int, ...] = ()  # leading axes of that tensor (Ernie: one)
    expert: str = "mlp.experts.{}"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "mlp.shared_experts"
    shared_gate: str = "mlp.shared_expert_gate.weight"
    norms_less_one: bool = False  # what is stored of a norm is w - 1 (Qwen3-Next)


Attention = Callable[[Source, str, ModelConfig, LayerCard, Names], MixerParams]
Experts = Callable[[Source, str, ModelConfig, Names], MoeParams]


def expect_attention(card: LayerCard, layer: str) -> AttentionCard:
    """The card, of a layer that looks back at keys and values."""
    if not isinstance(card, AttentionCard):
        raise TinymoeError(f"{layer}: expected an AttentionCard, found {type(card).__name__}")
    return card


def read_norm(source: Source, name: str, names: Names, *shape: int) -> Array:
    """A norm's weight."""
    out = source.new(*shape)
    source.fill(name, out, shape, as_norm(names))
    return out


def as_norm(names: Names) -> Callable[[Array], Array] | None:
    """What makes of a stored norm weight the factor. Its product with 1 + w rounds once."""
    return (lambda stored: stored + 1) if names.norms_less_one else None


def load_attention(
    source: Source, layer: str, config: ModelConfig, card: LayerCard, names: Names
) -> AttentionParams:
    """Query, key and value rows land in one matrix; biases and norms as the card says."""
    card = expect_attention(card, layer)
    H, D, name = config.hidden_size, config.head_dim, f"{layer}.self_attn"
    rows = [count * D for count in (config.heads, config.kv_heads, config.kv_heads)]
    places, start = [], 0
    for letter, number in zip("qkv", rows, strict=True):
        places.append((letter, slice(start, start + number)))
        start += number
    norm = read_norm(source, f"{layer}.input_layernorm.weight", names, H)
    qkv = source.new(start, H)
    for letter, place in places:
        source.fill(f"{name}.{letter}_proj.weight", qkv[place])
    out = read_weight(source, f"{name}.o_proj.weight", H, rows[0])
    keys, values = source.cached(name)
    bias = None
    if card.qkv_bias:
        bias = source.new(start)
        for letter, place in places:
            source.fill(f"{name}.{letter}_proj.bias", bias[place])
    return AttentionParams(
        norm=norm,
        qkv=source.weight(qkv, [[f"{name}.{letter}_proj.weight" for letter in "qkv"]]),
        qk_norm=load_head_norms(source, layer, config, card, names),
        out=out,
        qkv_bias=bias,
        out_bias=read(source, f"{name}.o_proj.bias", H) if card.out_bias else None,
        sinks=read(source, f"{name}.sinks", config.heads) if card.sinks else None,
        key_format=keys,
        value_format=values,
    )


def load_head_norms(
    source: Source, layer: str, config: ModelConfig, card: AttentionCard, names: Names
) -> Array | None:
    """(Nq + Nk, D): one weight for all heads, repeated, or a weight for each."""
    if card.qk_norm == "none":
        return None
    heads, D = config.heads, config.head_dim
    norms = source.new(heads + config.kv_heads, D)
    if card.qk_norm == "unit":
        source.ones(norms)
        return norms
    for name, part in ((names.q_norm, norms[:heads]), (names.k_norm, norms[heads:])):
        if card.qk_norm == "per_head":
            source.fill(f"{layer}.{name}", part, (D,), as_norm(names))
        else:
            source.fill(f"{layer}.{name}", part, (part.size,), _as_heads(D))
    return norms


def _as_heads(head_dim: int) -> Callable[[Array], Array]:
    return lambda flat: flat.reshape(-1, head_dim)


def load_gated(
    source: Source, name: str, width: int, hidden: int, names: Names
) -> tuple[Weight, Weight]:
    """A feed-forward network: gate_up (2I, H), gate rows first, and down (H, I)."""
    gate_up, down = source.new(2 * width, hidden), source.new(hidden, width)
    first, second = fill_gated(source, name, gate_up, down, names)
    return source.weight(gate_up, [first]), source.weight(down, [second])


def fill_gated(
    source: Source, name: str, gate_up: Array, down: Array, names: Names
) -> tuple[list[str], list[str]]:
    """The same into arrays that are there: names of the tensors that filled each."""
    width = len(gate_up) // 2
    gate, up, last = (f"{name}.{part}.weight" for part in (names.gate, names.up, names.down))
    source.fill(gate, gate_up[:width])
    source.fill(up, gate_up[width:])
    source.fill(last, down)
    return [gate, up], [last]


def load_dense(source: Source, layer: str, config: ModelConfig, names: Names) -> DenseParams:
    """A layer without experts."""
    H = config.hidden_size
    norm = read_norm(source, f"{layer}.post_attention_layernorm.weight", names, H)
    name = f"{layer}.{names.dense}"
    gate_up, down = load_gated(source, name, config.dense_intermediate, H, names)
    return DenseParams(norm=norm, gate_up=gate_up, down=down)


def load_moe(source: Source, layer: str, config: ModelConfig, names: Names) -> MoeParams:
    """Router and experts, each expert's tensors by themselves, read into one stack."""
    moe = load_router(source, layer, config, names)
    gate_up, down, filled = plain(moe.gate_up), plain(moe.down), []
    for expert in range(config.router.experts):
        name = f"{layer}.{names.expert.format(expert)}"
        filled.append(fill_gated(source, name, gate_up[expert], down[expert], names))
    return replace(
        moe,
        gate_up=source.weight(gate_up, [first for first, _ in filled]),
        down=source.weight(down, [second for _, second in filled]),
        shared=load_shared(source, layer, config, names),
    )


def fill_stacks(
    source: Source,
    moe: MoeParams,
    names: tuple[str, str],
    shapes: tuple[Shape | None, Shape | None] = (None, None),
    changes: tuple[Change | None, Change | None] = (None, None),
) -> MoeParams:
    """All experts' matrices from two tensors, as gate_up and down are stored whole."""
    stacks = plain(moe.gate_up), plain(moe.down)
    for name, stack, shape, change in zip(names, stacks, shapes, changes, strict=True):
        source.fill(name, stack, shape, change)
    gate_up, down = (source.weight(s, [[n]]) for s, n in zip(stacks, names, strict=True))
    return replace(moe, gate_up=gate_up, down=down)


def load_router(source: Source, layer: str, config: ModelConfig, names: Names) -> MoeParams:
    """All but the experts' own matrices, for which there is room."""
    H, card, width = config.hidden_size, config.router, config.moe_intermediate
    norm = read_norm(source, f"{layer}.post_attention_layernorm.weight", names, H)
    router, bias = read(source, f"{layer}.{names.router}", card.experts, H), None
    if card.selection_bias:
        bias = source.new(card.experts)
        shape: Shape = (*names.selection_bias_rows, card.experts)
        source.fill(f"{layer}.{names.selection_bias}", bias, shape, lambda stored: stored.ravel())
    return MoeParams(
        norm=norm,
        router=router,
        selection_bias=bias,
        gate_up=source.new(card.experts, 2 * width, H),
        down=source.new(card.experts, H, width),
    )


def load_shared(
    source: Source, layer: str, config: ModelConfig, names: Names
) -> SharedParams | None:
    """The expert that every token meets, if the card has one."""
    card, H = config.experts, config.hidden_size
    if card.shared == "none":
        return None
    name = f"{layer}.{names.shared}"
    gate_up, down = load_gated(source, name, card.shared_intermediate, H, names)
    gate: Weight | None = None
    if card.shared == "gated":
        gate = read_weight(source, f"{layer}.{names.shared_gate}", 1, H)
    return SharedParams(gate_up=gate_up, down=down, gate=gate)


def load_model(
    source: Source,
    config: ModelConfig,
    names: Names,
    attention: Attention = load_attention,
    experts: Experts = load_moe,
) -> Params:
    """A whole model; a family passes its own loader for a part that it stores in its own way."""
    V, H = config.vocab_size, config.hidden_size
    embed = read(source, f"{names.prefix}model.embed_tokens.weight", V, H)
    final_norm = read_norm(source, f"{names.prefix}model.norm.weight", names, H)
    head: Weight = embed
    if not config.tied_head:
        head = read_weight(source, f"{names.prefix}lm_head.weight", V, H)
    layers = []
    for index, (kind, card) in enumerate(zip(config.layers, config.attention, strict=True)):
        layer = f"{names.prefix}model.layers.{index}"
        mixer = attention(source, layer, config, card, names)
        fed = (
            experts(source, layer, config, names)
            if kind == "moe"
            else load_dense(source, layer, config, names)
        )
        layers.append(LayerParams(attention=mixer, ffn=fed))
    return Params(embed=embed, layers=tuple(layers), final_norm=final_norm, head=head)
