"""
6. FP4 from scratch
===================

After this page you can write a tensor in four bits a number by hand, read its error off a picture,
say why two correct libraries make different bytes of the same weights, and find swapped halves
of a byte that a usual test lets through.

A number in **FP4** is one of sixteen. A large model's weights take a quarter of their BF16 bytes
in it, so that it fits where it did not. What makes this work is not the four bits but the *scales*.
"""

# %%
# Sixteen values
# --------------
# The four bits of **E2M1** are a sign, two bits of exponent and one of fraction. A *code* is those
# bits read as a number from 0 to 15; codes 8 to 15 are the negatives.

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.formats import e2m1, e4m3, nvfp4
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.formats.conventions import NVFP4
from tinymoe.model import experts
from tinymoe.oracle.compare import first_difference
from tinymoe.oracle.trace import trace

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#BBBBBB"

codes = np.arange(16, dtype=np.uint8)
values = e2m1.decode(codes, code_8="-0")
for code in range(8):
    print("      ".join(f"{c:2} {c:04b} {values[c]:4}" for c in (code, code + 8)))

# %%
# To *round* is to take the nearest of them; a number in the middle goes to the even code. The steps
# are fine near 0 and coarse far away, and beyond 6 there is nothing.

x = np.linspace(-7.5, 7.5, 3001, dtype=np.float32)
rounded = values[e2m1.encode(x, e2m1.RULES["cuda"])]
figure, axes = plt.subplots()
axes.plot(x, x, color=GREY, linewidth=1, label="the number itself")
axes.plot(x, rounded, color=BLUE, label="rounded to E2M1")
axes.plot(values, values, "o", color=ORANGE, label="the values")
axes.set(xlabel="number", ylabel="what is kept", title="Fifteen steps: fine near 0, then coarse")
axes.legend()
plt.show()

# %%
# Blocks and scales
# -----------------
# These are weights of one expert of the model of this package. Most would round to 0.

model = tinymoe.load(backend="numpy")
layer = model.config.num_layers // 2
ids = model.encode("Once upon a time, there was a little dog named Max. He had 3 red balls.")
chosen = model.trace(ids, [f"layers.{layer}.router.ids"])[f"layers.{layer}.router.ids"]  # (T, K)
expert = int(np.bincount(chosen.ravel()).argmax())  # the one that most of these tokens meet
params = model.params.layers[layer].ffn
w = params.gate_up[expert]  # (2I, H), BF16 values
assert np.array_equal(round_to_bf16(w), w)
print(f"largest {np.abs(w).max():.3f}; {np.mean(np.abs(w) <= 0.25):.0%} of {w.size:,} round to 0")

# %%
# So we divide before rounding and multiply after. One scale for the tensor makes its largest weight
# a 6. **NVFP4** has a second one for each **block** of 16 weights in a row, so that *every* block's
# largest is about 6. The block scales are themselves small floats, of eight bits (**E4M3**).

q = nvfp4.encode(w, convention="modelopt", source="bfloat16", zero_tensor="refuse")
kept = nvfp4.decode(q)  # (2I, H)
print(f"codes {q.codes.shape}, two to a byte; block scales {q.scales.shape}; one tensor scale")
bits = 8 * (q.codes.nbytes + q.scales.nbytes + 4) / w.size
print(f"{bits:.3f} bits a weight; BF16 has 16")

one_scale = np.abs(w).max() / np.float32(6)
coarse = e2m1.decode(e2m1.encode(w / one_scale, e2m1.RULES["cuda"]), code_8="-0") * one_scale
for name, back in (("one scale", coarse), ("block scales", kept)):
    print(f"{name:13} error {np.linalg.norm(back - w) / np.linalg.norm(w):.1%} of the length")

# %%
# Four blocks of one row. The grey lines are the values that a block's scale makes of the sixteen:
# a loud block gets a wide ladder, a quiet one a narrow ladder, and each weight takes a rung.

row, shown = int(np.abs(w).max(axis=1).argmax()), 4
steps = e4m3.decode(q.scales[row]) * q.tensor_scale  # (H / 16,)
spread = steps.reshape(-1, shown).max(axis=1) / steps.reshape(-1, shown).min(axis=1)
first = int(spread.argmax()) * shown  # four neighbours whose ladders differ most
figure, axes = plt.subplots(figsize=(9, 4.5))
for block in range(shown):
    left = 16 * block - 0.5
    axes.hlines(values * steps[first + block], left, left + 15.9, color="#DDDDDD", linewidth=1)
    axes.axvline(left, color="black", linewidth=0.5, linestyle=":")
places = slice(16 * first, 16 * (first + shown))
axes.vlines(range(16 * shown), w[row, places], kept[row, places], color=ORANGE, linewidth=1)
axes.plot(w[row, places], "o", color=BLUE, markersize=4, label="weight")
axes.plot(kept[row, places], "_", color=ORANGE, markersize=9, markeredgewidth=2, label="kept")
axes.set(xlabel="place", ylabel="weight", title="Each block of 16 has a ladder of its own")
axes.legend(loc="upper right", ncols=2)
plt.show()

# %%
# The error, picture by picture
# -----------------------------
# Each dot is a weight, in the unit of its block's scale. The error is a saw: zero on a rung,
# largest half way between two. Right: a scale for the whole tensor loses the small weights.

units = w / np.repeat(e4m3.decode(q.scales) * q.tensor_scale, 16, axis=1)
figure, panels = plt.subplots(1, 2, sharey=True)
for axes, ratio, back, title in (
    (panels[0], units, kept, "a scale for each block"),
    (panels[1], w / one_scale, coarse, "one scale for all"),
):
    some = np.random.default_rng(0).choice(w.size, 4000, replace=False)
    relative = ((back - w) / np.abs(w).max()).ravel()[some]
    axes.plot(ratio.ravel()[some], relative, ".", color=BLUE, markersize=2)
    axes.set(title=title, xlabel="weight / scale", xlim=(-6.5, 6.5))
panels[0].set_ylabel("error / largest weight")
plt.show()

# %%
# Check yourself
# --------------
# The whole encoder for one row, with nothing hidden but E4M3. ``nibbles`` are the four-bit halves
# of a byte: the *first* weight of a pair goes to the low one. Swap them, round a tie down
# (``<`` for ``<=``), forget that the block scale itself was rounded, and run the page again.

MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def nearest(size: np.float32) -> int:
    """The code of a magnitude: how many midpoints lie below; in a tie, the even code."""
    above = sum(size > middle for middle in MIDPOINTS)
    return above + (above % 2 == 1 and size in MIDPOINTS)


def my_nvfp4(numbers: np.ndarray, tensor_scale: np.float32) -> tuple[list[int], list[int]]:
    """A row of float32 (K,) to bytes (K / 2,) and scale bytes (K / 16,)."""
    packed, scales = [], []
    for block in numbers.reshape(-1, 16):
        wanted = np.abs(block).max() / (np.float32(6) * tensor_scale)
        scale = e4m3.saturated(np.array([max(wanted, np.float32(2**-9))]))  # a byte
        scales.append(int(scale[0]))
        parts = block / (e4m3.decode(scale) * tensor_scale)  # one division by the rounded product
        nibbles = [nearest(abs(part)) + 8 * bool(part < 0) for part in parts]
        packed += [low + 16 * high for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)]
    return packed, scales


ties = np.array(MIDPOINTS, np.float32)  # real weights hit few of them
assert [nearest(tie) for tie in ties] == e2m1.encode(ties, e2m1.RULES["cuda"]).tolist(), "a tie"
tensor_scale = np.abs(w).max() / np.float32(6 * 448)  # so that the largest block scale is 448
for r in range(0, len(w), 16):
    my_codes, my_scales = my_nvfp4(w[r], tensor_scale)
    assert my_scales == q.scales[r].tolist(), f"row {r}: another block scale"
    assert my_codes == q.codes[r].tolist(), f"row {r}: another code"
print("the bytes of the package")

# %%
# Two libraries, two answers
# --------------------------
# ModelOpt and compressed-tensors (*ct*) both write NVFP4. The same weights, other bytes:

ct = nvfp4.encode(w, convention="ct", source="bfloat16", zero_tensor="refuse")
other_scale = ct.scales != q.scales
print(f"{other_scale.mean():.1%} of the scale bytes differ, {np.mean(ct.codes != q.codes):.1%} of")
print("the bytes with codes. Their tensor scales, and what they mean:")
for made in (q, ct):
    print(f"  {made.convention:9} {made.tensor_scale:<14} {NVFP4[made.convention].tensor_scale}")

# %%
# ct stores the *divisor* 2688 / largest, and computes its scales in the type of the weights. BF16
# has 8 significant bits, so both the divisor and each block's largest / 6 are rounded to them. One
# block, step by step:

r, b = np.argwhere(other_scale)[0]
largest = np.abs(w[r, 16 * b : 16 * b + 16]).max()
sixth = largest / np.float32(6)
print(f"block {b} of row {r}: largest {largest}; a sixth of it {sixth}")
print(f"  modelopt: {sixth / q.tensor_scale:.4f} -> {e4m3.decode(q.scales[r, [b]])[0]}")
in_bf16 = round_to_bf16(np.array([sixth]))[0]
print(f"  ct: {in_bf16} * {ct.tensor_scale} = {in_bf16 * ct.tensor_scale:.4f}", end="")
print(f" -> {e4m3.decode(ct.scales[r, [b]])[0]}")

# %%
# That is the whole reason, and we can prove it: told that the weights came in float32, ct's steps
# give ModelOpt's scales. Neither is better, so a test must say *whose* bytes it expects.

as_float32 = nvfp4.encode(w, convention="ct", source="float32", zero_tensor="refuse")
for made in (q, ct, as_float32):
    error = np.linalg.norm(nvfp4.decode(made) - w) / np.linalg.norm(w)
    print(f"error {error:.3%}, scales unlike ModelOpt's: {np.mean(made.scales != q.scales):.2%}")
assert np.mean(as_float32.scales != q.scales) < other_scale.mean() / 10

# %%
# Break it
# --------
# The two halves of every byte exchanged: each weight trades places with its neighbour. A kernel's
# tile order or a converter does this easily. We run the expert on small inputs, as tests of such
# kernels do, let it speak with a weight of 1/4, as one of four, and apply a rule that was in use:
# ``|error| <= 0.1 + 0.1 |right|``.

swapped = replace(q, codes=(q.codes >> 4) | (q.codes << 4))
wrong = nvfp4.decode(swapped)  # (2I, H)
x = np.random.default_rng(1).standard_normal((64, w.shape[1])).astype(np.float32) / 15  # (T, H)
down, numerics = params.down[expert], model.numerics
right_out, wrong_out = (experts.ffn(x, part, down, numerics) / 4 for part in (kept, wrong))
passed = np.abs(wrong_out - right_out) <= 0.1 + 0.1 * np.abs(right_out)
distance = np.linalg.norm(wrong_out - right_out) / np.linalg.norm(right_out)
print(f"{passed.mean():.2%} of the outputs pass, and so would zeros:", end=" ")
print(f"{np.mean(0.9 * np.abs(right_out) <= 0.1):.2%}. The error is {distance:.0%} of the length.")

assert passed.mean() > 0.9
assert distance > 1  # further off than zeros
figure, axes = plt.subplots(figsize=(6, 5.5))
edge = np.abs(right_out).max() * 3
line = np.linspace(-edge, edge, 101)
axes.fill_between(
    line, line - 0.1 - 0.1 * np.abs(line), line + 0.1 + 0.1 * np.abs(line), color=GREEN, alpha=0.15
)
axes.plot(right_out[:16].ravel(), wrong_out[:16].ravel(), ".", color=ORANGE, markersize=3)
axes.plot(line, line, color=BLUE, linewidth=1)
axes.set(xlim=(-edge, edge), ylim=(-edge, edge), xlabel="right output", ylabel="nibbles swapped")
axes.set_title("Nothing is right, and the green rule lets it pass")
plt.show()

# %%
# The tools find it. In a trace of the model with this expert in FP4, the *first* tensor that
# differs names the place: the router's choice was right, what the experts gave was not.


def with_expert(matrix: np.ndarray) -> tinymoe.model.params.Params:
    """The model with `matrix` in place of the expert's gate and up weights."""
    gate_up = params.gate_up.copy()
    gate_up[expert] = matrix
    layers = list(model.params.layers)
    layers[layer] = replace(layers[layer], ffn=replace(params, gate_up=gate_up))
    return replace(model.params, layers=tuple(layers))


good, bad = (trace(with_expert(m), model.config, ids, numerics) for m in (kept, wrong))
found = first_difference(good, bad)
print(f"{np.sum(chosen == expert)} of {len(ids)} tokens meet expert {expert};", found)
assert found.name == f"layers.{layer}.moe.routed"

# %%
# And the bytes say what was done: read them with their halves exchanged, and nothing differs.

assert np.array_equal(e2m1.unpack(swapped.codes)[:, 0::2], e2m1.unpack(q.codes)[:, 1::2])
assert np.array_equal(e2m1.unpack(swapped.codes)[:, 1::2], e2m1.unpack(q.codes)[:, 0::2])
