"""
11. Top-k routing in CUDA C and in Numba-CUDA
=============================================

After this page you can choose the best K of E numbers with the 32 threads of a warp, in two
languages, say why ties and NaN make this hard, and test a rule that random numbers never touch.

The choice of experts is a few hundred comparisons. Engines get it wrong all the same: one token to
the wrong expert, or to the same one twice, and nothing crashes. Nothing on this page ran on a GPU;
page 9's machine runs the kernels. To compile them: ``pip install -e ".[compile]"``.
"""

# %%
# The rule
# --------
# *The larger score first; of equal ones the lower index; NaN below every number.* In NumPy that is
# one stable sort. It is the definition that everything below is held against.

from inspect import getsource

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.kernels import ptx
from tinymoe.kernels.cuda import route_numba
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import launch
from tinymoe.kernels.cuda.numba_launch import numba_kernel, numba_launch, numba_ptx
from tinymoe.kernels.cuda.source import source

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#BBBBBB"


def definition(choice: np.ndarray, k: int) -> np.ndarray:
    """Scores (T, E) to ids (T, K), best first."""
    return np.argsort(-choice, axis=1, kind="stable")[:, :k]


nasty = np.array([[2, 3, np.nan, 3, -np.inf, 0.0, -0.0, 2]], np.float32)
print(definition(nasty, 8)[0], "for", nasty[0])

# %%
# Floats as whole numbers
# -----------------------
# Said in floats the rule takes three comparisons, each easy to get wrong, and ``>`` is false
# whenever a NaN takes part. So the kernels turn a score into a whole number that is ordered alike,
# and put the index below it, upside down. No two experts then have the same number: of any two, one
# *wins*, whoever compares them.

order_cuh = source("topk").text
start = order_cuh.index("__device__ __forceinline__ u32 order_of")
print(order_cuh[start : order_cuh.index("}", start) + 1])

# %%
# Why bits do it: those of a positive float grow with it, for the exponent stands first. Those of a
# negative one grow as it falls, so they are flipped. The same in NumPy:


def order_of(x: np.ndarray) -> np.ndarray:
    """Float32 to uint64 below 2^32, ordered alike; -0 with 0, NaN lowest."""
    bits = (x + np.float32(0)).view(np.uint32)  # -0 + 0 is 0
    placed = np.where(bits >> 31, ~bits, bits | 0x80000000)
    return np.where(np.isnan(x), 1, placed).astype(np.uint64)


sizes = np.geomspace(2.0**-126, 2.0**127, 1000).astype(np.float32)
line = np.concatenate([-sizes[::-1], [0], sizes], dtype=np.float32)  # every size, ascending
figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
panels[0].plot(line.view(np.uint32) / 2**32, ".", color=ORANGE, markersize=2)
panels[0].set(title="the bits of a float, as a number", ylabel="of 2^32")
panels[1].plot(order_of(line) / 2**32, ".", color=BLUE, markersize=2)
panels[1].set(title="its order: rises everywhere")
for axes in panels:
    axes.set_xticks([0, 500, 1000, 1500, 2000], ["-1.7e38", "-1", "0", "1", "1.7e38"])
    axes.set_xlabel("score, from the lowest to the highest")
plt.show()
assert (np.diff(order_of(line).astype(np.int64)) > 0).all()

# %%
# Check yourself
# --------------
# A warp has 32 lanes, and each holds the score of one expert. In a **shuffle** a lane reads another
# lane's register; in a *butterfly* lane l reads lane l ^ 16, then l ^ 8, 4, 2, 1. After five steps
# every lane knows the best of all, and they agree. K rounds: the best is struck out, the next
# comes. Store the index the right way up, or let the smaller place win, and see what fails.


def butterfly(place: np.ndarray) -> list[np.ndarray]:
    """The lanes' values (..., 32) after each of the five steps, and before the first."""
    seen = [place]
    for step in (16, 8, 4, 2, 1):
        other = seen[-1][..., np.arange(32) ^ step]
        seen.append(np.where(other > seen[-1], other, seen[-1]))
    return seen


def my_topk(choice: np.ndarray, k: int) -> np.ndarray:
    """Scores (T, 32) to ids (T, K), as a warp a token does it."""
    index = np.arange(32, dtype=np.uint64)
    place = order_of(choice) << 32 | (0xFFFFFFFF - index)
    ids = np.empty((len(choice), k), np.int64)
    for i in range(k):
        best = butterfly(place)[-1]
        ids[:, i] = 0xFFFFFFFF - (best[:, 0] & 0xFFFFFFFF)
        place = np.where(place == best, 0, place)
    return ids


rng = np.random.default_rng(0)
T, E, K = 24, 32, 8
rows = rng.normal(size=(T, E)).astype(np.float32)
rows[:8] = np.round(rows[:8])  # ties
rows[8:16][rng.random((8, E)) < 0.3] = np.nan
rows[16], rows[17] = np.nan, -np.inf
assert np.array_equal(my_topk(rows, K), definition(rows, K)), "another choice than the rule's"

# %%
# The butterfly of one row: the colour says which expert a lane takes for the best. Neighbours
# agree last, and at the bottom all do.

place = order_of(rows[20]) << 32 | (0xFFFFFFFF - np.arange(32, dtype=np.uint64))
belief = 0xFFFFFFFF - (np.stack(butterfly(place)) & 0xFFFFFFFF)
figure, axes = plt.subplots(figsize=(9, 3))
axes.pcolormesh(belief, cmap="Blues", vmin=-8, vmax=48, edgecolors="white")
for (step, lane), expert in np.ndenumerate(belief):
    axes.text(lane + 0.5, step + 0.5, str(expert), ha="center", va="center", fontsize=7)
axes.set_yticks(np.arange(6) + 0.5, ["start", *(f"l ^ {step}" for step in (16, 8, 4, 2, 1))])
axes.set(xlabel="lane", title="Whom each lane takes for the best expert")
axes.invert_yaxis()
plt.show()
assert (belief[-1] == definition(rows[20:21], 1)[0, 0]).all()

# %%
# In CUDA C
# ---------
# ``topk.cu`` has three rungs: one thread a token; one warp a token; a warp that keeps the row in
# registers. Strict mode watches for races inside the warp as well.

device = PtxDevice("80", strict=True, counters=True)


def in_c(entry: str, choice: np.ndarray, text: str = "topk") -> np.ndarray:
    """The ids that a kernel of topk.cu chooses. One warp to a token, or one thread."""
    (tokens, experts), threads = choice.shape, 1 if entry == "topk_naive" else 32
    ids, margin = device.empty((tokens, K), np.int64), device.empty((tokens,), np.float32)
    sizes = (np.int32(tokens), np.int32(experts), np.int32(K))
    blocks = -(-tokens * threads // 128)
    launch(device.kernel(text, entry), blocks, 128, [ids, margin, choice, *sizes])
    return ids


runs = {}
for entry in ("topk_naive", "topk_any", "topk_32"):
    assert np.array_equal(in_c(entry, rows), definition(rows, K))
    runs[entry] = device.report

# %%
# In Python
# ---------
# The same kernel in **Numba-CUDA**: a Python function, compiled to PTX. Two traps in it: a literal
# such as 0.5 would be a float64 and make its whole expression so; and integers are signed.

print(getsource(route_numba.topk))

# %%
# Arrays go in whole here, with shape and strides, where CUDA C gets an address.

choose = numba_kernel(device, route_numba.topk, "i64[:,:]", "f32[:]", "f32[:,:]")
ids, margin = np.empty((T, K), np.int64), np.empty(T, np.float32)
numba_launch(choose, T // 4, 128, [ids, margin, rows])
runs["Numba"] = device.report
assert np.array_equal(ids, definition(rows, K))
opcodes = {line.split()[0] for line in numba_ptx(
    route_numba.topk, ("i64[:,:]", "f32[:]", "f32[:,:]")
).splitlines() if "shfl" in line}  # fmt: skip
print("Numba shuffles with", *opcodes)

# %%
# What the rungs cost, as far as one can count without a GPU: instructions that threads ran, and
# sectors of memory that their warps moved. One thread a token runs fewest instructions and reads
# memory worst: neighbours in a warp are whole rows apart. (A 64-bit addition or comparison is two
# instructions on a GPU; here it counts as one.)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
for k, (name, seen) in enumerate(runs.items()):
    left.bar(name, seen.thread_instructions / T, color=GREEN if name == "Numba" else BLUE)
    right.bar(name, seen.coalescing.used / T, color=GREEN if name == "Numba" else BLUE)
    right.plot([k - 0.4, k + 0.4], [seen.coalescing.needed / T] * 2, color=ORANGE, linewidth=3)
left.set_title("thread-instructions a token")
right.set_title("sectors a token (orange: needed)")
plt.show()

# %%
# Break it
# --------
# A plain butterfly on floats, as one first writes it, with ``>=`` between lanes. We look at what
# each lane takes for the winner.

FLOATS = """
extern "C" __global__ void winner(int* who, const float* score) {
  float best = score[threadIdx.x];
  int id = threadIdx.x;
  for (int o = 16; o > 0; o >>= 1) {
    float x = __shfl_xor_sync(0xffffffffu, best, o);
    int other = __shfl_xor_sync(0xffffffffu, id, o);
    if (x >= best) best = x, id = other;
  }
  who[threadIdx.x] = id;
}
"""
winner = ptx.parse(build(FLOATS, "80").ptx)["winner"]
scores = np.linspace(1, 0, 32, dtype=np.float32)
cases = {
    "all differ": scores,
    "all equal": np.zeros(32, np.float32),
    "lane 3 is NaN": scores.copy(),
}
cases["lane 3 is NaN"][3] = np.nan
figure, panels = plt.subplots(1, 3, figsize=(9, 3), sharey=True)
believed = {}
for axes, (name, score) in zip(panels, cases.items(), strict=True):
    believed[name] = np.zeros(32, np.int32)
    ptx.launch(winner, 1, 32, [believed[name], score])
    axes.plot(believed[name], "o", color=ORANGE, markersize=4, label="believed")
    axes.axhline(definition(score[None], 1)[0, 0], color=BLUE, label="the rule")
    axes.set(title=name, xlabel="lane", ylim=(-1, 32))
panels[0].set_ylabel("the winner")
panels[0].legend()
plt.show()
assert (believed["all differ"] == 0).all()
assert np.array_equal(believed["all equal"], 31 - np.arange(32))
assert len(set(believed["lane 3 is NaN"])) > 1

# %%
# With a tie *both* lanes of a pair take the other's expert, and no two lanes agree in the end; each
# then strikes out another expert, and one may be chosen twice. Random scores never show it.
#
# A quieter bug: the tie rule upside down, in ``order.cuh``. All lanes agree, every choice is a best
# one, and it is another than every other engine's.

right_text = source("topk").text
wrong_text = right_text.replace("(0xffffffffu - index)", "(u32)index")
wrong_text = wrong_text.replace("(int)(0xffffffffu - (u32)place)", "(int)(u32)place")
assert wrong_text.count("(u32)index") == wrong_text.count("(int)(u32)place") == 1

many = rng.normal(size=(400, 128)).astype(np.float32)
kinds = {
    "float32": many,
    "BF16": round_to_bf16(many),
    "whole numbers": np.round(many),
}
share = {}
for name, choice in kinds.items():
    assert np.array_equal(in_c("topk_128", choice), definition(choice, K))
    found = in_c("topk_128", choice, wrong_text)
    share[name] = np.mean((np.sort(found) != np.sort(definition(choice, K))).any(axis=1))
figure, axes = plt.subplots(figsize=(7, 3))
axes.barh(list(share), list(share.values()), color=ORANGE)
axes.invert_yaxis()
axes.set(xlabel="share of tokens sent to other experts", xlim=(0, 1))
axes.set_title("The tie rule upside down: what the test's scores show of it")
plt.show()
print({name: f"{part:.1%}" for name, part in share.items()})
assert share["float32"] == 0
assert share["BF16"] > 0.01
assert share["whole numbers"] > 0.5

# %%
# Random float32 scores pass this kernel for ever. In BF16, in which some models keep their logits,
# two of 128 scores are often equal, and it is wrong for real tokens. So a test of a top-k *makes*
# ties, NaN and infinities; the package's do, and its list of spoilt kernels has this one.
