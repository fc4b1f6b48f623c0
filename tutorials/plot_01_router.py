"""
1. One token meets a router
===========================

After this page you can say *why* a token went to the experts it went to, *how sure* the router
was, and you can find a broken router in a running model by the name of the first wrong tensor.

A **Mixture-of-Experts** model keeps many small networks, the *experts*, in every layer, and runs
only a few of them for each token. (A *token* is a word or a piece of one.) A **router** chooses.
It is the smallest part of the model, and the one that engines most often get wrong.
"""

# %%
# The model, and one sentence
# ---------------------------
# We load the model that comes with the package, in its plain NumPy form: the code to read. Its
# *router card* states everything about how it chooses; the code has no other source for that.

from dataclasses import replace
from inspect import getsource

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.model import router
from tinymoe.model.ops import DEFINITION
from tinymoe.model.precision import store
from tinymoe.oracle.compare import first_difference
from tinymoe.oracle.trace import trace

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#BBBBBB"  # told apart by every kind of eye

model = tinymoe.load(backend="numpy")
card = model.config.router
E, K, L = card.experts, card.top_k, model.config.num_layers
print(f"{L} layers with {E} experts each; a token meets {K} of them in every layer")
print(*repr(card).split(", "), sep="\n    ")

# %%
# A *trace* is a dictionary of everything the model computed: name to array. We ask for what goes
# into the routers and what comes out. In the shapes, T is tokens, H the length of the vector that
# stands for a token inside the model, E experts, K chosen.

text = "Once upon a time, there was a little dog named Max. He had 3 red balls."
ids = model.encode(text)
words = [model.tokenizer.decode([token]) for token in ids]
taps = model.trace(ids, ["layers.*.moe.norm", "layers.*.router.*"])

for name in ("moe.norm", "router.logits", "router.ids", "router.weights"):
    print(f"layers.0.{name:15} {taps[f'layers.0.{name}'].shape}")
T, H = taps["layers.0.moe.norm"].shape
assert taps["layers.0.router.logits"].shape == (T, E)
assert taps["layers.0.router.ids"].shape == taps["layers.0.router.weights"].shape == (T, K)

# %%
# Logits: one number for each expert
# ----------------------------------
# A router holds one vector for each expert. Its product with the token's vector is the expert's
# *logit*: how well the two match. Our own product gives the traced numbers, bit for bit.

layer, t = L // 2, words.index(" dog")
params = model.params.layers[layer].ffn
x = taps[f"layers.{layer}.moe.norm"]  # (T, H)
logits = router.router_logits(x, params.router, card, model.numerics)  # (T, E)
assert np.array_equal(logits, taps[f"layers.{layer}.router.logits"])
print(f"{words[t]!r} in layer {layer}:", logits[t].round(2))

# %%
# Five steps
# ----------
# From logits to a decision in five steps. This is all of it, as the model runs it:

print(getsource(router.route_logits))

# %%
# The same steps one by one. **score**: a *softmax* turns logits into positive numbers whose sum
# is 1. **select**: the K largest win. **gather**: their scores become weights. **renorm**: the
# weights are divided by their sum, so that it is 1 again. **scale**: times a constant; here 1.

scores = router.score(logits, card)  # (T, E)
chosen, margin = router.select(scores, None, card)  # (T, K), (T,)
gathered = router.gather(logits, scores, chosen, card)  # (T, K)
renormed = router.renorm(gathered, card)  # (T, K)
weights = router.scale(renormed, card)  # (T, K)

print("expert  logit  score  gather  renorm  scale")
for e in range(E):
    line = f"{e:6} {logits[t, e]:6.2f} {scores[t, e]:6.3f}"
    for k in np.flatnonzero(chosen[t] == e):
        line += f" {gathered[t, k]:7.3f} {renormed[t, k]:7.3f} {weights[t, k]:6.3f}"
    print(line)

ordered_ids, ordered_weights = router.by_weight(chosen, weights)
assert np.array_equal(ordered_ids, taps[f"layers.{layer}.router.ids"])
assert np.array_equal(ordered_weights, taps[f"layers.{layer}.router.weights"])

# %%
# The *margin* is the gap at the cut: the score of the last one chosen minus the score of the best
# one left out. It says how close the decision was.

order = np.argsort(-scores[t], kind="stable")
is_in = np.isin(order, chosen[t])
cut = scores[t, order[K - 1 : K + 1]]  # (2,) last in, first out
assert cut[0] - cut[1] == margin[t]

figure, axes = plt.subplots()
axes.bar(range(E), scores[t, order], color=[BLUE if good else GREY for good in is_in])
axes.axvline(K - 0.5, color="black", linestyle="--", linewidth=1)
axes.text(K - 0.35, scores[t].max() * 0.8, f"the cut\nmargin {margin[t]:.4f}")
axes.set_xticks(range(E), order)
axes.set_xlabel("expert, best first")
axes.set_ylabel("score")
axes.set_title(f"{words[t].strip()!r} in layer {layer}: {K} of {E} experts are chosen")
plt.show()

# %%
# What a margin is worth
# ----------------------
# Computers round. bf16, the 16-bit format most engines use, keeps about three digits. We round
# the logits to it and route again. If no score of a token moved by more than d, its choice can
# only change when its margin was at most 2 d: one expert moves down by d, another up by d.

rounded = router.route_logits(store(logits, "bfloat16"), None, card)
moved = np.abs(rounded.scores - scores).max(axis=1)  # (T,) d of each token
changed = (np.sort(rounded.ids) != chosen).any(axis=1)  # (T,)
assert (margin[changed] <= 2 * moved[changed]).all()

close = margin <= 2 * moved
print(f"layer {layer}: {close.sum()} of {T} tokens are close enough to change, {changed.sum()} did")
every_margin = np.array([taps[f"layers.{i}.router.margin"] for i in range(L)])  # (L, T)
print(f"all margins: smallest {every_margin.min():.1e}, median {np.median(every_margin):.3f}")

# %%
# So when two engines choose differently, look at the margin first. A tiny one means rounding; a
# large one means a bug. And when two scores are *equal*, a rule must decide, or two machines may
# disagree. Here the lower expert number wins:

tied = router.route_logits(np.zeros((1, E), np.float32), None, card)
assert tied.ids[0].tolist() == list(range(K))
assert tied.margin[0] == 0

# %%
# A sentence through one layer
# ----------------------------
# Each row is a token (a dot is a space), each column an expert, and dark means a large weight. The
# same word twice may take different experts: its vector also holds what came before it.


def weight_map(routing: dict[str, np.ndarray], layer: int) -> np.ndarray:
    """The weights as (T, E), 0 where an expert was not chosen."""
    full = np.zeros((len(routing[f"layers.{layer}.router.ids"]), E))
    ids, weights = (routing[f"layers.{layer}.router.{part}"] for part in ("ids", "weights"))
    np.put_along_axis(full, ids, weights, axis=1)
    return full


figure, axes = plt.subplots(figsize=(7, 6.5))
picture = axes.imshow(weight_map(taps, layer), cmap="Blues", vmin=0, aspect="auto")
axes.set_xticks(range(E))
axes.set_yticks(range(T), [word.replace(" ", "·") for word in words])
axes.set_xlabel("expert")
axes.set_title(f"Layer {layer}: different tokens meet different experts")
figure.colorbar(picture, label="weight")
plt.show()

# %%
# Do experts specialise?
# ----------------------
# Nobody told the experts what to do. We send a story and some sums through the last layer, and
# count which part of the choices each expert got. As the K experts of a token are distinct, no
# share can be above 1 / K. The two loads are compared by their *distance*: the part of the choices
# that would have to go elsewhere to turn one into the other; 0 is the same, 1 is nothing shared.

story = (
    "One day, Tom went to the park with his mother. He saw a big dog near the tree. The dog was "
    "sad, because it had lost its ball. Tom looked under the bench and found it. They were happy."
)
sums = "17+25=42\n31+46=77\n58-13=45\n9*7=63\n64+28=92\n85-37=48\n6*8=48\n23+59=82\n71-26=45\n"


def shares(text: str) -> np.ndarray:
    """The part of all T*K choices that each expert of the last layer got: (E,)."""
    name = f"layers.{L - 1}.router.ids"
    chosen = model.trace(model.encode(text), [name])[name]  # (T, K)
    return np.bincount(chosen.ravel(), minlength=E) / chosen.size


of_story, of_sums = shares(story), shares(sums)
distance = np.abs(of_story - of_sums).sum() / 2
assert max(of_story.max(), of_sums.max()) <= 1 / K
print(f"distance between the loads of a story and of sums: {distance:.2f}")

figure, axes = plt.subplots()
axes.bar(np.arange(E) - 0.2, of_story, 0.4, color=BLUE, label="a story")
axes.bar(np.arange(E) + 0.2, of_sums, 0.4, color=ORANGE, label="sums")
axes.axhline(1 / E, color="black", linewidth=1, linestyle=":", label="all alike")
axes.set_xticks(range(E))
axes.set_xlabel(f"expert of layer {L - 1}")
axes.set_ylabel("share of the choices")
axes.set_title(f"A story and sums use different experts (distance {distance:.2f})")
axes.legend()
plt.show()

# %%
# Check yourself
# --------------
# A router in five lines, with nothing from the package. Replace it with your own, or damage it
# (choose 3, forget the division, sort the other way), and run the page again.


def my_router(logits: list[float]) -> dict[int, float]:
    """Logits of E experts to {expert: weight}."""
    best = sorted(range(E), key=lambda e: -logits[e])[:K]
    powers = {e: np.exp(logits[e] - max(logits)) for e in best}
    return {e: power / sum(powers.values()) for e, power in powers.items()}


# It works in float64, the model in float32, where an operation is off by up to u = 2**-24 of its
# result. Rounding a logit minus the maximum moves the power by up to (difference) u, exp by 5 u,
# the division by u: that for the power itself and for the sum; adding K takes 3 u, dividing 1 u.
bound = (2 * (np.ptp(logits[t]) + 6) + K) * 2.0**-24
mine = my_router(logits[t].tolist())
assert list(mine) == ordered_ids[t].tolist(), "other experts, or another order"
assert np.allclose(list(mine.values()), ordered_weights[t], rtol=bound, atol=0), "other weights"
print("the same experts, the same weights:", {e: round(float(w), 3) for e, w in mine.items()})

# %%
# Your router never divided by the sum over *all* experts, and the weights are still right: after
# renorm, that sum cancels. Models without renorm do keep it, and this is where engines slip.
#
# Break it
# --------
# ``renorm`` is a yes or a no on the card. torchtitan#1448 left it out for a model that has it. We
# turn it round, in a copy of the model's operations, and leave all else alone.


def wrong_route(x, weight, bias, card, numerics):
    """`route` with renorm inverted."""
    wrong_card = replace(card, renormalise=not card.renormalise)
    return router.route(x, weight, bias, wrong_card, numerics)


broken = replace(DEFINITION, route=wrong_route)
right = model.trace(ids)
wrong = trace(model.params, model.config, ids, model.numerics, ops=broken)

sum_right, sum_wrong = (
    np.array([run[f"layers.{i}.router.weights"].sum(axis=1) for i in range(L)])  # (L, T)
    for run in (right, wrong)
)
figure, axes = plt.subplots()
axes.plot(range(L), sum_right.mean(axis=1), "o-", color=BLUE, label="right")
axes.plot(range(L), sum_wrong.mean(axis=1), "s--", color=ORANGE, label="renorm inverted")
axes.fill_between(
    range(L), sum_wrong.min(axis=1), sum_wrong.max(axis=1), color=ORANGE, alpha=0.25, linewidth=0
)
axes.set_ylim(0, 1.1)
axes.set_xlabel("layer")
axes.set_ylabel(f"sum of a token's {K} weights (mean and range)")
axes.set_title("Without renorm, every layer's experts speak too softly")
axes.legend()
plt.show()

# %%
# The text it writes looks like text. That is how such a bug gets through. The tool walks the two
# traces in the order of execution and names the first tensor that differs:

for name, ops in (("right", DEFINITION), ("wrong", broken)):
    model.ops = ops
    written = "".join(out.text for out in model.generate(text, max_tokens=24, temperature=0))
    print(f"{name}: ...{written!r}")
model.ops = DEFINITION

found = first_difference(right, wrong)
print(found)
assert found.name == "layers.0.router.weights"

# %%
# The ids before it were right, so scoring and selecting are innocent, and the bug is in the steps
# after them. Another bug that this name gives away: some models have a *selection bias*, a number
# for each expert that helps to choose but must never weigh. vllm#12002 weighed with it.

biased_card = replace(card, selection_bias=True)
bias = np.linspace(0, 0.5, E, dtype=np.float32)  # (E,)
good = router.route_logits(logits, bias, biased_card)
bad_weights = router.renorm(router.pick(scores + bias, good.ids), card)  # the bias weighs in
found = first_difference(
    {"ids": good.ids, "weights": good.weights}, {"ids": good.ids, "weights": bad_weights}
)
print(found)
assert found.name == "weights"
