"""
10. Four bits on a tensor core, lane by lane
============================================

After this page you can say which thread of a warp holds which number of a matrix, feed a tensor
core by hand, prove a product of FP4 matrices right to the last bit, and find exchanged rows that
a friendly test lets through.

A **tensor core** multiplies two small matrices in one instruction, ``mma``. No thread has either
matrix: each of a warp's 32 *lanes* brings a few registers, and the instruction defines which number
lies where. Nothing here ran on a GPU: page 9's machine runs the very PTX that a GPU would get. The
kernels written on this page need the compiler, ``pip install -e ".[compile]"``.
"""

# %%
# Why four bits fit into sixteen
# ------------------------------
# NVFP4 is a code of E2M1 times a scale of E4M3 (page 6). Older tensor cores know no FP4, but they
# know f16. Is anything lost? There are only 16 codes and 127 scales, so we try them all.

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.formats import e2m1, e4m3
from tinymoe.kernels import ptx
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import launch
from tinymoe.kernels.cuda.source import source
from tinymoe.kernels.ptx.fragments import Fragment, fragment_map

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#DDDDDD"

values = e2m1.decode(np.arange(16, dtype=np.uint8), code_8="-0").astype(np.float64)
scales = e4m3.decode(np.arange(127, dtype=np.uint8)).astype(np.float64)
products = np.outer(values, scales)  # (16, 127), exact in float64
assert np.array_equal(products.astype(np.float16), products)
positive = products[products > 0]
print(f"{products.size} products, from {positive.min()} to {positive.max()}; all are f16 numbers")

# %%
# And the product of two of them is exact in the tensor core, which keeps every bit of a product of
# two f16. Only the *sum* over k can round. How many significant bits a product needs:

whole = (positive * 2**10).astype(np.int64)  # all are multiples of 2^-10
significant = [int(w // (w & -w)).bit_length() for w in whole]
figure, axes = plt.subplots(figsize=(8, 3))
axes.bar(range(1, 12), np.bincount(significant, minlength=12)[1:12], color=BLUE)
axes.axvline(11, color=ORANGE, label="f16 has 11")
axes.set(xlabel="significant bits", ylabel="code x scale", title="Six bits are enough for all")
axes.legend()
plt.show()
assert max(significant) == 6

# %%
# Which lane holds what
# ---------------------
# ``m16n8k16``: D (16 x 8) = A (16 x 16) @ B (16 x 8) + C. The package has the layout as a table of
# data, from which its machine works. Each cell shows the lane that holds it; lane 5 is orange. A
# register has room for two f16, so neighbours along k share a lane: in A side by side, in B one
# below the other.

F16 = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
layout = fragment_map(F16)


def draw(axes: plt.Axes, part: Fragment, name: str, labels: tuple[str, str]) -> None:
    """The tile of an operand with the number of the lane in each cell, and lane 5's registers."""
    tile = np.empty(part.shape, int)
    tile[part.row, part.col] = np.arange(32)[:, None, None]
    axes.pcolormesh(tile // 4 % 2, cmap="Greys", vmin=-0.2, vmax=5, edgecolors="white")
    for (row, col), lane in np.ndenumerate(tile):
        style = {"ha": "center", "va": "center", "fontsize": 7}
        axes.text(col + 0.5, row + 0.5, str(lane), **style)
    for r, e in np.ndindex(part.row.shape[1:]):
        row, col = part.row[5, r, e], part.col[5, r, e]
        axes.add_patch(plt.Rectangle((col, row), 1, 1, color=ORANGE, alpha=0.6))
        axes.text(col + 0.97, row + 0.97, f"{name}{r}", fontsize=5, ha="right", va="bottom")
    axes.set(xlabel=labels[1], ylabel=labels[0], title=name.upper())
    axes.invert_yaxis()
    axes.set_aspect("equal")


figure, panels = plt.subplots(2, 2, figsize=(8, 10), width_ratios=(2, 1))
panels[0, 0].axis("off")
draw(panels[0, 1], layout["b"], "b", ("k", "n"))
draw(panels[1, 0], layout["a"], "a", ("m", "k"))
draw(panels[1, 1], layout["c"], "d", ("m", "n"))
plt.show()

# %%
# Check yourself
# --------------
# The same table as a rule. With g = lane / 4 and t = lane % 4, register r holds elements e = 0, 1.
# Exchange ``r % 2`` and ``r // 2`` in ``place_in_a``, a bug that many first kernels have.


def place_in_a(lane: int, r: int, e: int) -> tuple[int, int]:
    """Row and column of A's element."""
    return lane // 4 + 8 * (r % 2), 2 * (lane % 4) + e + 8 * (r // 2)


def place_in_b(lane: int, r: int, e: int) -> tuple[int, int]:
    """Row and column of B's element."""
    return 2 * (lane % 4) + e + 8 * r, lane // 4


def place_in_d(lane: int, r: int) -> tuple[int, int]:
    """Row and column of the sum's element."""
    return lane // 4 + 8 * (r // 2), 2 * (lane % 4) + r % 2


# %%
# One ``mma`` by hand: NumPy fills the registers by these rules, the kernel does nothing but load
# them, multiply and store, and NumPy puts the result together.

ONE = f"""
extern "C" __global__ void one(float* d, const unsigned* a, const unsigned* b) {{
  a += 4 * threadIdx.x, b += 2 * threadIdx.x, d += 4 * threadIdx.x;
  asm volatile("{F16} {{%0,%1,%2,%3}}, {{%4,%5,%6,%7}}, {{%8,%9}}, {{%0,%1,%2,%3}};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
"""
one = ptx.parse(build(ONE, "80").ptx)["one"]


def by_hand(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(16, 16) @ (16, 8) by one instruction of one warp."""
    a, b = np.zeros((32, 4, 2), np.float16), np.zeros((32, 2, 2), np.float16)
    for where, part, matrix in ((place_in_a, a, left), (place_in_b, b, right)):
        for index in np.ndindex(part.shape):
            part[index] = matrix[where(*index)]
    d = np.zeros((32, 4), np.float32)
    ptx.launch(one, 1, 32, [d, a.view(np.uint32), b.view(np.uint32)])
    result = np.empty((16, 8), np.float32)
    for index in np.ndindex(d.shape):
        result[place_in_d(*index)] = d[index]
    return result


rng = np.random.default_rng(0)
left, right = (rng.integers(-99, 100, size) for size in ((16, 16), (16, 8)))  # sums below 2^24
assert np.array_equal(by_hand(left, right), left @ right), "a number lies in another lane"
print("one instruction, 2048 products, all sums exact")

# %%
# Blackwell: the codes as they are
# --------------------------------
# The FP4 tensor core of sm_120 takes 64 codes along k, eight to a register, and applies the block
# scales itself. It wants those in particular lanes: of A, lane t = 0 of four brings the scales of
# row g, lane t = 1 those of row g + 8; the two others are not asked. A cell is a register:

FP4 = "mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1.f32"
fp4 = fragment_map(f"{FP4}.ue4m3")
codes, scale = fp4["a"], fp4["scale_a"]
lanes = np.broadcast_to(np.arange(32)[:, None, None], codes.row.shape)
words = np.empty((16, 8), int)
words[codes.row[..., 0], codes.col[..., 0] // 8] = lanes[..., 0]
asked = np.full((16, 4), -1)
used = scale.row >= 0
asked[scale.row[used], scale.col[used]] = np.broadcast_to(lanes[:, :1, :1], used.shape)[used]
assert asked.min() >= 0
figure, (axes, beside) = plt.subplots(1, 2, figsize=(8, 5), width_ratios=(2, 1))
for panel, tile, title in (
    (axes, words, "A's codes: eight to a cell"),
    (beside, asked, "A's scales"),
):
    panel.pcolormesh(tile % 4, cmap="Blues", vmin=-1, vmax=6, edgecolors="white")
    for (row, col), lane in np.ndenumerate(tile):
        panel.text(col + 0.5, row + 0.5, str(lane), ha="center", va="center", fontsize=8)
    panel.invert_yaxis()
    panel.set(title=title, ylabel="row m")
axes.set_xticks(range(0, 9, 2), range(0, 65, 16))
axes.set_xlabel("k")
beside.set_xlabel("block of 16")
plt.show()

# %%
# A whole product
# ---------------
# Now the package's kernels, ``gemm_nvfp4_mma.cu`` and ``gemm_nvfp4_sm120.cu``: T = 21 rows of x and
# 40 rows of w, no multiple of a tile in sight. Codes times scales are multiples of 2^-2 if scales
# are 0.5 or more, so products are multiples of 2^-4: *integers* in disguise. While sums stay below
# 2^24 of these float32 is exact, in any order, and the answer can be demanded to the last bit.

T, N, K = 21, 40, 64
DEVICES = {arch: PtxDevice(arch) for arch in ("80", "120a")}


def some(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Random codes (rows, K / 2), two to a byte, and scales (rows, K / 16): powers of two."""
    packed = rng.integers(0, 256, (rows, K // 2)).astype(np.uint8)
    return packed, rng.choice(np.array([0x30, 0x38, 0x40], np.uint8), (rows, K // 16))


def numbers(packed: np.ndarray, scale_bytes: np.ndarray) -> np.ndarray:
    """What codes and scales mean, (rows, K) float64."""
    return values[e2m1.unpack(packed)] * np.repeat(scales[scale_bytes], 16, axis=1)


def gemm(arch: str, file: str, entry: str, x: tuple, w: tuple) -> np.ndarray:
    """x (T, K) times w (N, K) transposed, by a kernel of 128 threads on tiles of 16 x 128."""
    device, rows, columns = DEVICES[arch], len(x[0]), len(w[0])
    out = device.empty((rows, columns), np.float32)  # full of NaN: what is not written shows
    sizes = (np.int32(n) for n in (rows, columns, 2 * x[0].shape[1], 0))
    grid = (-(-columns // 128), -(-rows // 16))
    launch(device.kernel(file, entry), grid, 128, [out, *x, *w, np.float32(1), *sizes])
    return out


x, w = some(T), some(N)
want = numbers(*x) @ numbers(*w).T
assert 16 * (abs(numbers(*x)) @ abs(numbers(*w)).T).max() < 2**24
assert np.array_equal(16 * want, np.round(16 * want))  # whole numbers indeed
got = gemm("80", "gemm_nvfp4_mma", "gemm_nvfp4_w4a4_mma", x, w)
assert np.array_equal(got, want)
assert np.array_equal(gemm("120a", "gemm_nvfp4_sm120", "gemm_nvfp4_w4a4_sm120", x, w), want)
print("f16 tensor core and FP4 tensor core:", got.size, "numbers, none differs")

# %%
# Break it
# --------
# In the kernel for f16, a lane puts row g into register 0 and row g + 8 into register 1. We
# exchange the two, in the text that the compiler gets.

right_text = source("gemm_nvfp4_mma").text
line = "a[0][p / 2][half + 2 * (p % 2)] = pairs[p];"
assert right_text.count(line) == 1
wrong_text = right_text.replace(line, line.replace("[half +", "[1 - half +"))
broken = gemm("80", wrong_text, "gemm_nvfp4_w4a4_mma", x, w)
print(f"{np.mean(broken == want):.0%} of the numbers are right")

# %%
# Then the friendliest test: all rows of x alike, as in many a smoke test. It passes.

alike = tuple(np.repeat(part[:1], T, axis=0) for part in x)
friendly = gemm("80", wrong_text, "gemm_nvfp4_w4a4_mma", alike, w)
assert np.array_equal(friendly, numbers(*alike) @ numbers(*w).T)
assert not np.array_equal(broken, want)

# %%
# To see *what* is wrong, ask one question a row. Row m of x is a single 1 at k = m, and w is the
# identity: the result is a picture of which row went where. A tile's two halves changed places; of
# the second tile, which has 5 rows, the upper half is a copy of its last row.

identity = np.zeros((32, 16), np.uint8)
identity[np.arange(32), np.arange(32) // 2] = np.where(np.arange(32) % 2, 0x20, 0x02)  # code 2 is 1
probe = identity, np.full((32, 2), 0x38, np.uint8)  # 0x38: a scale of 1
probe_x = tuple(part[:T].copy() for part in probe)
figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
for axes, text, title in (
    (panels[0], "gemm_nvfp4_mma", "as it should be"),
    (panels[1], wrong_text, "rows g and g + 8 exchanged"),
):
    seen = gemm("80", text, "gemm_nvfp4_w4a4_mma", probe_x, probe)
    axes.imshow(seen, cmap="Blues", vmin=-0.05, vmax=1)
    axes.axhline(15.5, color=ORANGE, linewidth=1)
    axes.set(title=title, xlabel="row of x that came", yticks=range(0, T, 4))
panels[0].set_ylabel("row of the result")
plt.show()
went = seen.argmax(axis=1)
assert np.array_equal(went[:16], (np.arange(16) + 8) % 16)

# %%
# A question a row costs one launch, and names the bug where a tolerance only says "wrong". The
# package's own tests exchange such rows in every kernel of this kind, and must notice each time.
