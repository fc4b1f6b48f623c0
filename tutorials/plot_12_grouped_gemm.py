"""
12. Grouped GEMM, and why MoE tiles are ragged
==============================================

After this page you can turn a router's choices into the list of tiles that a GPU works through, say
how many rows of a batch are wasted and when, and break such a kernel in two ways that an evenly
loaded test lets through.

A tensor core wants 16 rows at once. A dense layer gives it a prompt's rows, side by side. In a
Mixture-of-Experts layer the rows are dealt to E experts, each with a weight of its own, and no
router deals evenly. Nothing here ran on a GPU: page 9's machine runs the package's kernels. (Where
the compiler is missing, it takes their PTX from ``kernels/cuda/compiled``.)
"""

# %%
# How a real router deals
# -----------------------
# The model of this package, a few lines of a story, one layer: how many rows each expert gets.

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.formats import e2m1, e4m3
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import launch
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.model import experts

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#DDDDDD"

STORY = """Once upon a time, there was a little dog named Max. He had 3 red balls. One day Max
lost a ball in the park. He was very sad. A girl named Lily saw him and said, "Do not cry, Max. I
will help you." They looked under the big tree and behind the bench. Then Lily saw the ball in the
pond. A duck gave it back, and they all played together until it was dark."""
model = tinymoe.load(backend="numpy")
E, K = model.config.router.experts, model.config.router.top_k
chosen = model.trace(model.encode(STORY), ["layers.*.router.ids"])
ids = chosen["layers.5.router.ids"]  # (T, K)
T, ROWS = len(ids), 16
S = T * K
counts = np.bincount(ids.ravel(), minlength=E)
figure, axes = plt.subplots(figsize=(8, 3))
axes.bar(range(E), counts, color=BLUE)
axes.axhline(S / E, color=ORANGE, label="if it dealt evenly")
axes.set(xlabel="expert", ylabel="rows", title=f"{T} tokens, {K} experts each: {S} rows")
axes.legend()
plt.show()

# %%
# Sort, then cut
# --------------
# ``permute.cu`` sorts the slots by expert, without comparing: count, sum up, place. Slots of one
# expert stay in order, so a run can be repeated to the bit. Then ``schedule`` cuts each expert's
# rows into tiles of at most 16, none with rows of two experts. A tile in the list is three numbers:
# expert, first row, row behind the last.

device = PtxDevice("80")
ops = RoutingOps(device)
order, offsets = ops.permute(ids, E)
assert all(
    np.array_equal(a, b) for a, b in zip((order, offsets), experts.permute(ids, E), strict=True)
)
tiles = ops.schedule(offsets, ROWS, S)
print(tiles[:5].tolist(), "...", tiles[-1].tolist())

# %%
# How many tiles there are the GPU alone knows, and asking it costs a wait in every layer. So the
# list is as long as it could be at worst, and what is not needed is marked -1: a block that finds
# it leaves at once.
#
# Check yourself
# --------------
# The worst case first: S / 16 full tiles (rounded down), and one ragged tile for every expert that
# can have one. Try to do with fewer, or forget the ragged tiles (``//`` without the ``-``).


def most_tiles(slots: int, rows: int) -> int:
    """How long the list can get, whatever the router does."""
    return slots // rows + min(E, slots)


def my_schedule(counts: np.ndarray, rows: int) -> list[tuple[int, int, int]]:
    """Tiles of the experts' rows, which follow each other."""
    found, first = [], 0
    for expert, count in enumerate(counts):
        for k in range(-(-count // rows)):
            found.append((expert, first + k * rows, min(first + (k + 1) * rows, first + count)))
        first += count
    return found


mine = my_schedule(counts, ROWS)
assert [tuple(tile) for tile in tiles.tolist() if tile[0] >= 0] == mine, "another list of tiles"
assert len(tiles) == most_tiles(S, ROWS)
rng = np.random.default_rng(0)
for _ in range(300):  # all kinds of loads fit in, also all on one expert
    load = rng.multinomial(
        rng.integers(1, 200), rng.dirichlet(np.full(E, rng.choice([0.01, 1, 99])))
    )
    made = my_schedule(load, ROWS)
    assert sum(end - start for _, start, end in made) == load.sum(), "a row without a tile"
    assert len(made) <= most_tiles(int(load.sum()), ROWS), "more tiles than there is room for"

# %%
# Each line is a tile. Coloured rows belong to an expert, of which two neighbours differ in colour;
# grey ones are computed and thrown away.

picture = np.zeros((len(mine), ROWS))
for k, (expert, start, end) in enumerate(mine):
    picture[k, : end - start] = 1 + expert % 2
figure, axes = plt.subplots(figsize=(6, 6.5))
colours = plt.matplotlib.colors.ListedColormap([GREY, BLUE, ORANGE])
axes.pcolormesh(picture, cmap=colours, vmin=0, vmax=2, edgecolors="white", linewidth=0.5)
axes.set_yticks(np.arange(len(mine)) + 0.5, [f"expert {e}" for e, _, _ in mine], fontsize=7)
axes.invert_yaxis()
axes.set(xlabel="row of the tile", title=f"{np.mean(picture == 0):.0%} of the rows are wasted")
plt.show()

# %%
# When it hurts
# -------------
# The share of rows that are of use, averaged over the layers, for the story's first T tokens.
# One token alone uses 1 row in 16 whatever the router does; larger tiles need a larger batch. This
# is why kernels for few tokens have small tiles. It also says why waste is cheap then: what takes
# the time of a small batch is reading weights, and a wasted row reads none.

sizes = [*(n for n in (1, 2, 4, 8, 16, 32, 64) if n < T), T]
figure, axes = plt.subplots()
for rows, colour in ((16, BLUE), (64, ORANGE), (128, GREEN)):
    useful = []
    for n in sizes:
        loads = [np.bincount(layer[:n].ravel(), minlength=E) for layer in chosen.values()]
        useful.append(np.mean([n * K / (rows * len(my_schedule(load, rows))) for load in loads]))
    axes.plot(sizes, useful, "o-", color=colour, label=f"tiles of {rows} rows")
axes.set_xscale("log", base=2)
axes.set_xticks(sizes, map(str, sizes))
axes.set(xlabel="tokens in the batch", ylabel="useful share", ylim=(0, 1.05))
axes.set_title("Few tokens on many experts: mostly empty tiles")
axes.legend(loc="upper left")
plt.show()

# %%
# One launch for all experts
# --------------------------
# ``grouped_gemm_nvfp4_mma.cu``: block (i, j) reads tile j of the list, and multiplies its rows by
# its expert's weight. FP4 codes with scales that are powers of two make the sums exact (page 10),
# so we can ask for equality. A narrow layer will do.

N, DEPTH = 24, 64
values = e2m1.decode(np.arange(16, dtype=np.uint8), code_8="-0").astype(np.float64)


def some(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random codes (..., DEPTH / 2) and scales (..., DEPTH / 16)."""
    codes = rng.integers(0, 256, (*shape, DEPTH // 2)).astype(np.uint8)
    return codes, rng.choice(np.array([0x30, 0x38, 0x40], np.uint8), (*shape, DEPTH // 16))


def numbers(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What codes and scales mean, (..., DEPTH)."""
    return values[e2m1.unpack(codes)] * np.repeat(e4m3.decode(scales), 16, axis=-1)


def grouped(x: tuple, w: tuple, tiles: np.ndarray) -> np.ndarray:
    """Rows x (S, DEPTH) by the weights (E, N, DEPTH) that the tiles name: (S, N)."""
    kernel = device.kernel("grouped_gemm_nvfp4_mma", "grouped_gemm_nvfp4_w4a4_mma")
    out = device.empty((len(x[0]), N), np.float32)  # NaN where nobody writes
    alphas, sizes = np.ones(E, np.float32), (np.int32(N), np.int32(DEPTH), np.int32(0))
    launch(kernel, (1, len(tiles)), 128, [out, *x, *w, alphas, tiles, *sizes])
    return out


def exact(x: tuple, w: tuple, counts: np.ndarray) -> np.ndarray:
    """The same in whole numbers times 2^-4."""
    expert = np.repeat(np.arange(E), counts)
    return np.einsum("sk,snk->sn", numbers(*x), numbers(*w)[expert])


hidden, w = some(T), some(E, N)  # a row for each token
x = tuple(part[order // K] for part in hidden)  # a row for each slot, in expert order
want = exact(x, w, counts)
assert np.array_equal(grouped(x, w, tiles), want)
print(f"{want.size} sums, none differs")

# %%
# An expert without rows has no tile, so its weight is never read. To prove it, we fill the weights
# of idle experts with NaN and let few tokens through.

few = ids[:3]
order_few, offsets_few = ops.permute(few, E)
idle = np.diff(offsets_few) == 0
poisoned = (w[0], np.where(idle[:, None, None], np.uint8(0x7F), w[1]))  # 0x7f is NaN in E4M3
x_few = tuple(part[order_few // K] for part in hidden)
result = grouped(x_few, poisoned, ops.schedule(offsets_few, ROWS, few.size))
assert np.array_equal(result, exact(x_few, w, np.diff(offsets_few)))
print(f"{idle.sum()} of {E} experts idle, and not looked at")

# %%
# Break it
# --------
# Two mistakes. *Blind cuts*: tiles every 16 rows, each with the expert of its first row. *A grid
# for the average*: room for S / 16 tiles and a few, as if routers dealt evenly.


def blind(counts: np.ndarray) -> np.ndarray:
    """Cuts every 16 rows, wherever experts end."""
    expert, rows = np.repeat(np.arange(E), counts), counts.sum()
    cuts = [(expert[k], k, min(k + ROWS, rows)) for k in range(0, rows, ROWS)]
    return np.array(cuts, np.int32)


def average(counts: np.ndarray) -> np.ndarray:
    """The right list, and a grid that ends too early."""
    return np.array(my_schedule(counts, ROWS), np.int32)[: counts.sum() // ROWS + 4]


even = np.full(E, ROWS)
x_even = some(E * ROWS)
for name, cut in (("blind cuts", blind), ("grid for the average", average)):
    passed = np.array_equal(grouped(x_even, w, cut(even)), exact(x_even, w, even))
    print(f"{name}: 16 rows for every expert:", "pass" if passed else "fail")
    assert passed

# %%
# Both pass where every expert has one full tile. With the story's rows:

figure, panels = plt.subplots(2, 1, figsize=(9, 3.5), sharex=True)
wrong = {}
for axes, (name, cut) in zip(panels, {"blind": blind, "average": average}.items(), strict=True):
    got = grouped(x, w, cut(counts))
    state = np.where(np.isnan(got), 2, got != want).max(axis=1)  # of each row
    wrong[name] = state
    colours = plt.matplotlib.colors.ListedColormap([BLUE, ORANGE, "black"])
    axes.imshow(state[None], aspect="auto", cmap=colours, vmin=0, vmax=2, interpolation="nearest")
    for edge in offsets[1:-1]:
        axes.axvline(edge - 0.5, color="white", linewidth=1)
    axes.set_yticks([])
    axes.set_title(
        f"{name}: {np.mean(state == 1):.0%} wrong, {np.mean(state == 2):.0%} not written"
    )
axes.set_xlabel(
    "row, by expert. Blue: right. Orange: another expert's weight. Black: never written"
)
plt.show()
assert (wrong["blind"] == 1).any()
assert (wrong["average"] == 2).any()
assert not (wrong["average"] == 1).any()

# %%
# The black rows are seen because the package's machine hands out memory full of NaN. On a GPU there
# lies what was left there, often the last step's result, and the text comes out a little strange.
# So a test of a grouped product needs loads that are uneven, empty, and all on one expert.
