"""
5. Five families, one router
============================

After this page you can read a model's router off its ``config.json``, say which experts five
families take for the same numbers and how loudly each will speak, and tell two families that are
the same function under two names. You will find a bug that no usual test shows.

Page 1 followed one router. Families differ in theirs, and an engine that takes one for another
still writes text. Here every difference is a field of a **router card**, and nothing else is.
"""

# %%
# Five cards
# ----------
# Five configs, as short as they may be. What chooses is as released; 16 experts, few layers and
# small sizes are ours, so that the five can be given the same numbers.

from collections import defaultdict
from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.cards import RouterCard
from tinymoe.families import read_config
from tinymoe.model import router
from tinymoe.model.ops import DEFINITION
from tinymoe.oracle.compare import first_difference
from tinymoe.oracle.trace import trace

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#BBBBBB"

E = 16
PLAIN = {
    **{"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "head_dim": 8, "hidden_act": "silu", "intermediate_size": 32},
    **{"rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": False},
}
LATENT = {
    **{"q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
    **{"v_head_dim": 8, "moe_intermediate_size": 32, "n_shared_experts": 1},
}
CONFIGS = {
    "Mixtral": {"model_type": "mixtral", "num_local_experts": E, "num_experts_per_tok": 2},
    "OLMoE": {
        **{"model_type": "olmoe", "num_experts": E, "num_experts_per_tok": 4},
        "norm_topk_prob": False,
    },
    "gpt-oss": {
        **{"model_type": "gpt_oss", "num_local_experts": E, "num_experts_per_tok": 4},
        **{"sliding_window": 128, "swiglu_limit": 7.0},
    },
    "DeepSeek-V3": LATENT
    | {
        **{"model_type": "deepseek_v3", "n_routed_experts": E, "num_experts_per_tok": 4},
        **{"n_group": 4, "topk_group": 2, "norm_topk_prob": True, "first_k_dense_replace": 1},
        **{"scoring_func": "sigmoid", "topk_method": "noaux_tc", "routed_scaling_factor": 2.5},
    },
    "Phi-3.5-MoE": {
        **{"model_type": "phimoe", "num_local_experts": E, "num_experts_per_tok": 2},
        **{"router_jitter_noise": 0.01, "lm_head_bias": True},
    },
}
cards = {name: read_config(PLAIN | config).router for name, config in CONFIGS.items()}

# %%
# A card has a field for everything that a router may do. Here are those in which the five differ.
# They follow the five steps of page 1: score, select, gather, renorm, scale.

facts = defaultdict(list)
for card in cards.values():
    for field, value in asdict(card).items():
        facts[field].append(str(value))
print(f"{'':15}" + "".join(f"{name:18}" for name in cards))
for field, values in facts.items():
    if len(set(values)) > 1:
        print(f"{field:15}" + "".join(f"{value:18}" for value in values))

# %%
# In words:
#
# * **Mixtral**: softmax, the 2 largest, divided by their sum.
# * **OLMoE**: softmax, the 4 largest, *not* divided. What it did not choose is lost.
# * **gpt-oss**: the 4 largest logits, and a softmax over those alone.
# * **DeepSeek-V3**: a *sigmoid* for each expert by itself. A learned **bias** helps to choose and
#   never weighs. Experts sit in **groups**; only those of the 2 best groups may win. Divided by
#   their sum, then times 2.5.
# * **Phi-3.5-MoE**: the 2 largest, each weighed against its *near rivals* alone (*sparsemixer*).
#
# The same logits, five decisions
# -------------------------------
# The logits come from the layers of the model of this package. A softmax does not care what is
# added to all logits of a token, and this router learned any; a sigmoid does, so each token's mean
# is taken off. DeepSeek's bias is learned, too; we have to invent one.

model = tinymoe.load(backend="numpy")
ids = model.encode("Once upon a time, there was a little dog named Max. He had 3 red balls.")
L = model.config.num_layers
taps = model.trace(ids, ["layers.*.router.logits"])
logits = np.concatenate([taps[f"layers.{i}.router.logits"] for i in range(L)])  # (L * T, E)
logits -= logits.mean(axis=1, keepdims=True)
bias = np.random.default_rng(3).normal(0, 0.15, E).astype(np.float32)  # (E,)


def bias_of(card: RouterCard) -> np.ndarray | None:
    """The bias, for a card that has one."""
    return bias if card.selection_bias else None


routed = {name: router.route_logits(logits, bias_of(card), card) for name, card in cards.items()}
row = int(routed["Phi-3.5-MoE"].weights.min(axis=1).argmin())  # where Phi is least sure
for name, routing in routed.items():
    pairs = zip(routing.ids[row], routing.weights[row], strict=True)
    print(f"{name:12}", "  ".join(f"expert {e:2}: {weight:.3f}" for e, weight in pairs))

# %%
# From left to right: what the score step made of the logits; what was compared, with the dropped
# groups shaded; and the weights of those that won.


def compared(card: RouterCard, scores: np.ndarray) -> np.ndarray:
    """What the K largest are taken of: one row, -inf for the experts of dropped groups."""
    choice = scores[None] + (bias if card.selection_bias else 0)  # (1, E)
    return (router.drop_groups(choice, card) if card.groups_kept < card.groups else choice)[0]


def draw(axes, values: np.ndarray, won: np.ndarray, colour: str) -> None:
    """One bar for each expert, those of the chosen in colour."""
    shown = np.where(np.isfinite(values), values, 0)
    axes.bar(range(E), shown, color=[colour if e in won else GREY for e in range(E)])
    axes.axhline(0, color="black", linewidth=0.6)
    for e in np.flatnonzero(~np.isfinite(values)):
        axes.axvspan(e - 0.5, e + 0.5, color=RED, alpha=0.15, linewidth=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(range(0, E, 4))


figure, panels = plt.subplots(len(cards), 3, figsize=(9.5, 9), sharex=True)
for (name, card), line in zip(cards.items(), panels, strict=True):
    routing = routed[name]
    scores, won = routing.scores[row], routing.ids[row]
    weights = np.zeros(E)
    weights[won] = routing.weights[row]
    draw(line[0], scores, won, BLUE)
    draw(line[1], compared(card, scores), won, BLUE)
    draw(line[2], weights, won, ORANGE)
    line[2].set_title(f"sum {weights.sum():.2f}", loc="right", fontsize=9, pad=2)
    line[0].set_ylabel(name, fontweight="bold")
for axes, title in zip(panels[0], ("score", "what is compared", "weight"), strict=True):
    axes.set_title(title, pad=14)
figure.supxlabel("expert")
figure.suptitle("One token's logits through five cards (red: experts of dropped groups)")
plt.show()

# %%
# Two names, one function
# -----------------------
# Mixtral divides a softmax over all by the sum of the chosen; gpt-oss takes a softmax of the
# chosen. On paper that is the same: the sum over all cancels. So with equally many experts the two
# agree up to rounding, and OLMoE, which forgets to divide, agrees with neither.

as_many = replace(cards["Mixtral"], top_k=cards["gpt-oss"].top_k)
mixtral, gpt_oss = router.route_logits(logits, None, as_many), routed["gpt-oss"]
off = np.abs(mixtral.weights / gpt_oss.weights - 1).max()
# Both in float32, each operation off by u = 2**-24: exp of (a difference to the maximum) by
# (difference + 5) u, in both; three sums of powers (16 + 4 + 4 terms) and three divisions.
bound = (4 * (np.ptp(logits) + 5) + E + 2 * as_many.top_k + 3) * 2.0**-24
assert np.array_equal(mixtral.ids, gpt_oss.ids)
assert off <= bound
print(f"Mixtral's and gpt-oss's weights differ by {off:.0e} of themselves at most")

# %%
# How loudly the experts speak
# ----------------------------
# The weights multiply what experts say, so their sum is the loudness of a layer's answer. The model
# was trained to that loudness, and the layers after it count on it. Over all tokens and layers:

figure, axes = plt.subplots()
for place, (name, routing) in enumerate(routed.items()):
    sums = routing.weights.sum(axis=1)  # (L * T,)
    jitter = np.linspace(-0.3, 0.3, len(sums))
    axes.scatter(sums, place + jitter, s=9, color=(BLUE, GREEN, ORANGE, RED, "#CC79A7")[place])
    print(f"{name:12} sum of the weights from {sums.min():.3f} to {sums.max():.3f}")
axes.set_yticks(range(len(cards)), cards)
axes.set_ylim(len(cards) - 0.5, -0.5)
axes.set_xlim(0, 2.7)
axes.set_xlabel("sum of a token's weights (a dot is a token in a layer)")
axes.set_title("Five cards, the same logits: from a whisper to a shout")
axes.grid(axis="x", alpha=0.3)
plt.show()

sums = {name: routing.weights.sum(axis=1) for name, routing in routed.items()}
assert np.allclose(sums["DeepSeek-V3"], 2.5, rtol=8 * 2.0**-24)  # 4 additions, 4 roundings
assert (sums["OLMoE"] < 1).all()
assert (sums["Phi-3.5-MoE"] <= 2).all()

# %%
# Check yourself
# --------------
# A sixth family, in words. **Ernie 4.5**: a softmax over all 16 experts. A learned bias is added to
# the scores to choose the 6 largest, and is kept in float32, as the logits are. No groups. The
# chosen scores are divided by their sum, which counts as 1e-12 if it is less. Nothing is scaled.
#
# This is its card. Take the wrong ``weight_from``, forget the bias, and run the page again.

mine = RouterCard(
    experts=E,
    top_k=6,
    score="softmax",
    selection_bias=True,
    **{"groups": 1, "groups_kept": 1, "group_score": "none", "dropped_group": "none"},
    weight_from="score",
    renormalise=True,
    renorm_epsilon=0.0,
    renorm_floor=1e-12,
    scale=1.0,
    weight_on="output",
    logits_dtype="float32",
    bias_dtype="float32",
    tie_rule="lowest_index",
)
ernie = read_config(
    PLAIN
    | {"model_type": "ernie4_5_moe", "moe_num_experts": E, "moe_k": 6, "moe_num_shared_experts": 0}
    | {"moe_intermediate_size": 32, "moe_layer_start_index": 0, "moe_layer_end_index": -1}
    | {"moe_layer_interval": 1, "moe_norm_min": 1e-12}
).router
wrong = [field for field, value in asdict(mine).items() if value != getattr(ernie, field)]
assert not wrong, f"read again what it says about {wrong}"
print("the card of the family file")

# %%
# Break it
# --------
# The experts of a dropped group must lose. Several engines gave them the score **0** instead of
# minus infinity (vllm#13474 is one). A sigmoid is never below 0, so 0 loses, and every test with
# random numbers passes. But the *bias* may be negative.
#
# A test that needs no reference: adding the same number to every bias changes no comparison, so
# the chosen experts must stay the same. We move all biases together and count.

v3 = cards["DeepSeek-V3"]
zero = replace(v3, dropped_group="zero")


def changed(card: RouterCard, moved: float) -> float:
    """The part of the rows whose experts are no longer those of the right card, unmoved."""
    got = router.route_logits(logits, bias + np.float32(moved), card)
    return float((np.sort(got.ids) != np.sort(routed["DeepSeek-V3"].ids)).any(axis=1).mean())


moves = np.linspace(-1.5, 0.5, 41)
assert changed(zero, -1.5) == 1
figure, axes = plt.subplots()
axes.plot(moves, [changed(v3, move) for move in moves], "o-", color=BLUE, label="minus infinity")
axes.plot(moves, [changed(zero, move) for move in moves], "s--", color=ORANGE, label="0")
axes.set_xlabel("added to every bias")
axes.set_ylabel("tokens with other experts")
axes.yaxis.set_major_formatter(plt.matplotlib.ticker.PercentFormatter(1))
axes.set_title("Masked with 0, dropped groups come back once the biases are negative")
axes.legend(title="a dropped group's experts get")
plt.show()

# %%
# The tool finds it in a running model. We give ours DeepSeek's card and negative biases in every
# layer: its stories become nonsense, but it is the *same* nonsense for two correct engines.

config = replace(model.config, router=v3)
negative = bias - np.float32(1)
params = replace(
    model.params,
    layers=tuple(
        replace(layer, ffn=replace(layer.ffn, selection_bias=negative))
        for layer in model.params.layers
    ),
)


def wrong_route(x, weight, bias, card, numerics, **rest):
    """`route` with dropped groups masked by 0."""
    return router.route(x, weight, bias, replace(card, dropped_group="zero"), numerics, **rest)


right = trace(params, config, ids, model.numerics)
broken = replace(DEFINITION, route=wrong_route)
found = first_difference(right, trace(params, config, ids, model.numerics, ops=broken))
print(found)
assert found.name == "layers.0.router.ids"

# %%
# Logits and scores before it were right; the *ids* are the first wrong thing, so the fault lies in
# the choosing, not in the weighing. With weights first, look at renorm and scale (page 1).
