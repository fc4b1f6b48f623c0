"""
2. Experts, permute and combine
===============================

After this page you can say what an expert computes, why engines *sort* tokens before they run the
experts, why the sorted way gives the same numbers to the last bit, and what it costs to drop
tokens. You will also find a bug that swaps two halves of a matrix, by the name it leaves behind.

The router of page 1 has chosen K of E experts for each of T tokens. That makes T * K pieces of
work, called **slots**: "token t meets its k-th expert".
"""

# %%
# What goes in
# ------------
# We follow one layer. ``moe.norm`` is what the experts are given, H numbers for each token.
# ``expert_out`` is what each slot's expert answers, and ``moe.routed`` is the sum of the answers.

from dataclasses import replace
from inspect import getsource

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.model import experts
from tinymoe.model.ops import DEFINITION
from tinymoe.oracle.compare import first_difference
from tinymoe.oracle.trace import trace

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE = "#0072B2", "#E69F00"  # told apart by every kind of eye

model = tinymoe.load(backend="numpy")
config, numerics = model.config, model.numerics
E, K, H = config.router.experts, config.router.top_k, config.hidden_size
I = config.moe_intermediate  # noqa: E741  the field's letter
layer = config.num_layers // 2
params = model.params.layers[layer].ffn

ids = model.encode("One day, a little girl named Lily found a shiny stone under the old tree.")
PATTERNS = ["layers.*.moe.*", "layers.*.router.*"]
taps = model.trace(ids, PATTERNS)
x = taps[f"layers.{layer}.moe.norm"]  # (T, H)
chosen = taps[f"layers.{layer}.router.ids"]  # (T, K)
weights = taps[f"layers.{layer}.router.weights"]  # (T, K)
expert_out = taps[f"layers.{layer}.moe.expert_out"]  # (T, K, H)
routed = taps[f"layers.{layer}.moe.routed"]  # (T, H)
T = len(ids)
assert x.shape == routed.shape == (T, H)
assert expert_out.shape == (T, K, H)
print(f"T = {T} tokens, K = {K} experts each: {T * K} slots")

# %%
# One expert is three matrices
# ----------------------------
# *gate* and *up* turn H numbers into I, and lie stacked in one matrix (2I, H). ``silu`` lets large
# gate values through and holds negative ones near 0, so each gate opens or shuts its up value.
# *down* turns the I products back into H. This is all of it:

print(getsource(experts.swiglu))
print(getsource(experts.ffn))

# %%
# We give token 3 to its first expert by hand, and meet the traced answer, bit for bit.

t, k = 3, 0
expert = chosen[t, k]
answer = experts.ffn(x[t : t + 1], params.gate_up[expert], params.down[expert], numerics)  # (1, H)
assert params.gate_up[expert].shape == (2 * I, H)
assert params.down[expert].shape == (H, I)
assert np.array_equal(answer[0], expert_out[t, k])

each = params.gate_up[expert].size + params.down[expert].size
print(f"an expert has {each:,} weights; a token uses {K * each:,} of the layer's {E * each:,}")

# %%
# The plain way: slot by slot
# ---------------------------
# For each token, for each of its experts: run it, multiply by the weight, add up. This function
# is in the package to be compared with, not to be fast. It reads an expert's weights once for
# *every slot*, and reading weights is what costs time.

print(getsource(experts.moe_naive))
routing = model.ops.route(x, params.router, None, config.router, numerics)
naive = experts.moe_naive(x, routing, params.gate_up, params.down, config.router, numerics)
assert np.array_equal(naive, routed)
print(f"experts read slot by slot: {T * K}; different experts among them: {len(np.unique(chosen))}")

# %%
# Permute: sort the slots by expert
# ---------------------------------
# If the slots of one expert lie side by side, its weights are read once. A *permutation* is an
# order in which to take things. Sorting is enough to get it; a *stable* sort keeps equal ones in
# their order, so there is exactly one right answer. A small case, 3 tokens and 4 experts:

small = np.array([[2, 0], [2, 3], [0, 2]])  # (T, K) expert of each slot
order, offsets = experts.permute(small, experts=4)
print("experts, slot by slot:", small.ravel())
print("slots in expert order:", order, " which have experts:", small.ravel()[order])
print("offsets:", offsets, " expert e owns rows offsets[e] to offsets[e + 1]")
assert order.tolist() == [1, 4, 0, 2, 5, 3]
assert offsets.tolist() == [0, 2, 2, 5, 6]  # nobody chose expert 1: an empty range

# %%
# And the layer's own slots. Each mark is one slot; the sort turns a cloud into stairs, and each
# step of the stairs is one expert's block of rows.

order, offsets = experts.permute(chosen, E)  # (T*K,), (E + 1,)
figure, axes = plt.subplots(1, 2, sharey=True)
axes[0].plot(chosen.ravel(), ".", color=ORANGE)
axes[0].set(xlabel="slot t * K + k", ylabel="expert", title="Before: as the tokens come")
axes[1].plot(chosen.ravel()[order], ".", color=BLUE)
axes[1].vlines(offsets, -0.5, E - 0.5, color="#DDDDDD", linewidth=0.8, zorder=0)
axes[1].set(xlabel="row", title="After: one block for each expert")
axes[1].set_yticks(range(E))
plt.show()

# %%
# Row r after the sort is slot ``order[r]``, and slot s belongs to token ``s // K``. So the rows
# of ``x`` are copied into expert order, every expert runs once over its block, and the answers go
# back to their slots.

rows = x[order // K]  # (T*K, H)
rows = experts.expert_ffn(rows, params.gate_up, params.down, offsets, numerics)  # (T*K, H)
back = experts.unpermute(rows, order, K)  # (T, K, H)
assert np.array_equal(back, expert_out)

# %%
# Combine: one sum, in one order
# ------------------------------
# The weighted answers are added, the largest weight first. The same order as in the plain way
# makes the same bits. In the opposite order the sum is as good, but rounded elsewhere:

print(getsource(experts.combine))
assert np.array_equal(experts.combine(back, weights, numerics), naive)

opposite = experts.combine(back[:, ::-1], weights[:, ::-1], numerics)  # (T, H)
print(f"added in the opposite order, {np.mean(opposite != naive):.0%} of the numbers differ,")
print(f"by at most {np.abs(opposite - naive).max():.1e}: this is why the order is written down")

# %%
# Dropless, and why
# -----------------
# Experts are not loaded evenly. Some training systems give each expert a fixed number of places,
# the *capacity*, and drop the slots that come too late. Then a token's answer depends on its
# company. We cut this layer's slots at 1.25 times the even load, a usual choice.

load = np.diff(offsets)  # (E,) rows of each expert
capacity = int(1.25 * T * K / E)
place = np.empty(T * K, np.int64)  # how many slots of the same expert come before this one
place[order] = np.arange(T * K) - np.repeat(offsets[:-1], load)
kept = (place < capacity).reshape(T, K)
cut = experts.combine(back, np.where(kept, weights, 0), numerics)  # (T, H)
error = np.linalg.norm(cut - routed, axis=1) / np.linalg.norm(routed, axis=1)  # (T,)
print(f"{(~kept).sum()} of {T * K} slots dropped; {(error > 0).sum()} of {T} tokens are changed,")
print(f"the worst by {error.max():.0%} of its length")

figure, axes = plt.subplots()
axes.bar(range(E), np.minimum(load, capacity), color=BLUE, label="has a place")
over = np.maximum(load - capacity, 0)
axes.bar(range(E), over, bottom=capacity, color=ORANGE, hatch="//", label="would be dropped")
axes.axhline(T * K / E, color="black", linestyle=":", label="even load")
axes.set_xticks(range(E))
axes.set_xlabel(f"expert of layer {layer}")
axes.set_ylabel("slots")
axes.set_title(f"Uneven loads: a capacity would drop {over.sum()} of {T * K} slots")
axes.legend()
plt.show()

# %%
# This engine is *dropless*: blocks may have any length. So a token alone gets the same bits as in
# company. Here are the four steps together, for the last token without the others:


def grouped(x: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Permute, experts, back to the slots, combine: x (T, H) -> (T, H)."""
    order, offsets = experts.permute(chosen, E)
    rows = experts.expert_ffn(x[order // K], params.gate_up, params.down, offsets, numerics)
    return experts.combine(experts.unpermute(rows, order, K), weights, numerics)


assert np.array_equal(grouped(x, chosen, weights), routed)
assert np.array_equal(grouped(x[-1:], chosen[-1:], weights[-1:])[0], routed[-1])

# %%
# Check yourself
# --------------
# Which tokens does an expert work for? One line with ``order`` and ``offsets`` says it. Damage it
# (forget ``// K``, shift an offset) and run the page again: the check looks at the ids instead.

for e in range(E):
    mine = order[offsets[e] : offsets[e + 1]] // K
    assert mine.tolist() == np.flatnonzero((chosen == e).any(axis=1)).tolist(), f"expert {e}"
busiest = int(load.argmax())
named = [model.tokenizer.decode([ids[i]]) for i in order[offsets[busiest] :][: load[busiest]] // K]
print(f"expert {busiest} is the busiest; its tokens: {named}")

# %%
# Break it
# --------
# Gate and up have the same shape, so nothing complains if they change places. In sglang#32430 a
# change of backend did that: a test of word problems gave 0 %, and 93.9 % after the repair.


def wrong_ffn(x, gate_up, down, offsets, numerics):
    """`expert_ffn` with the gate and up rows of every expert exchanged."""
    swapped = np.concatenate([gate_up[:, I:], gate_up[:, :I]], axis=1)  # (E, 2I, H)
    return experts.expert_ffn(x, swapped, down, offsets, numerics)


broken = replace(DEFINITION, expert_ffn=wrong_ffn)
wrong = trace(model.params, config, ids, numerics, ops=broken, patterns=PATTERNS)
first = "layers.0.moe.expert_out"
good, bad = taps[first].ravel(), wrong[first].ravel()  # (T*K*H,)

figure, axes = plt.subplots(1, 2)
edges = np.linspace(-1, 1, 61) * 3 * good.std()
axes[0].hist(good, edges, histtype="step", color=BLUE, linewidth=2, label="right")
axes[0].hist(bad, edges, histtype="step", color=ORANGE, linewidth=2, label="swapped")
axes[0].set(xlabel="value", ylabel="how many", title="All values: hardly to be seen")
axes[0].legend()
axes[1].plot(good, bad, ".", color=ORANGE, markersize=1, alpha=0.4)
axes[1].plot(edges, edges, color=BLUE, linewidth=2, label="where all would lie")
axes[1].set(xlabel="right value", ylabel="swapped", title="Value by value: all wrong")
axes[1].set(xlim=edges[[0, -1]], ylim=edges[[0, -1]])
axes[1].legend()
plt.show()

# %%
# The numbers have about the right size and stand in the wrong places, so a look at sums, spreads
# or histograms tells little. A comparison value by value does:

found = first_difference(taps, wrong)
print(f"spread: {good.std():.3f} right, {bad.std():.3f} swapped")
print(found)
assert found.name == first

# %%
# A second bug at the same place: experts counted from 1. The traced ids are right, because the
# router is; the sort then sends each slot to the weights of the next expert.


def shifted_permute(ids, experts_in_all):
    """`permute` for ids that count from 1."""
    return experts.permute((ids + 1) % experts_in_all, experts_in_all)


shifted = replace(DEFINITION, permute=shifted_permute)
wrong = trace(model.params, config, ids, numerics, ops=shifted, patterns=PATTERNS)
found = first_difference(taps, wrong)
assert found.name == first

# %%
# The same name, so which of the two bugs is it? We ask every expert for the worst slot's answer and
# look who gives the one we got. After swapped halves, nobody does.

ffn0 = model.params.layers[0].ffn
t, k = found.worst[:2]
x0 = taps["layers.0.moe.norm"][t : t + 1]  # (1, H)
answers = [experts.ffn(x0, ffn0.gate_up[e], ffn0.down[e], numerics)[0] for e in range(E)]
speakers = [e for e in range(E) if np.array_equal(answers[e], wrong[first][t, k])]
asked = int(taps["layers.0.router.ids"][t, k])
print(f"token {t} asked expert {asked}; the answer is that of expert {speakers}")
assert speakers == [(asked + 1) % E]
