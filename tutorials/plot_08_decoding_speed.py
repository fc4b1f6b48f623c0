"""
8. Why is decoding slow, and how fast can it be?
================================================

After this page you can say from a model's size and your memory how many tokens a second there are
at most, how four-bit weights make more of them, and how Python code gets near. All times are those
of the machine that ran the page, and mean most if it does nothing else. You also break a kernel.
"""

# %%
# Bytes per token
# ---------------
# To write one token a model multiplies each matrix that the token meets by *one* vector: a
# multiplication and an addition for each weight, then the weight is not needed until the next
# token. A CPU computes faster than memory delivers. So what counts is bytes: the matrices' size
# over the speed of the **bus**, the road from memory to the CPU. How wide is yours?

import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from llvmlite import ir

import tinymoe
from tinymoe.formats import e2m1, e4m3, nvfp4
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.kernels.cpu.backend import numba_ops
from tinymoe.kernels.cpu.pack import pack, pack_quantised
from tinymoe.kernels.cpu.simd import F32, I32
from tinymoe.kernels.cpu.team import physical_cores
from tinymoe.kernels.cpu.tiles import FORMATS, UE5M3, UE5M3_UNIT
from tinymoe.measure.compiled import packer_of
from tinymoe.measure.counts import Counts, decode_work
from tinymoe.measure.limits import Limits
from tinymoe.measure.one_product import Product
from tinymoe.measure.stored import quantised, round_params, rounded
from tinymoe.oracle.diff import diff
from tinymoe.oracle.diff.told import verdict
from tinymoe.oracle.trace import trace

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"

clock, cores = time.perf_counter, physical_cores()
bus, memories = {}, {}
for threads in {1, cores}:
    memories[threads] = Limits(threads)  # reads an array far beyond the caches, forward
    bus[threads] = max(memories[threads].bandwidth(clock) for _ in range(5))
    print(f"{threads} thread(s): {bus[threads] / 1e9:.1f} GB/s")

# %%
# A matrix like the head of a middling model: N = 16,384 rows of K = 1,024, times one vector, all of
# it BF16 numbers. Before each measurement we read the long array again: the caches forget the
# matrix, as in a real model, whose other layers come in between. Other programs can only make a
# measurement longer, so the shortest of a few counts.

N, K = 16_384, 1_024
draw = np.random.default_rng(0)
w = round_to_bf16(draw.standard_normal((N, K), np.float32) / 32)  # (N, K)
x = round_to_bf16(draw.standard_normal(K, np.float32))  # (K,)
measured = []  # (what, weights a second, bytes a weight, threads)


def measure(what, work, weights=w.size, bytes_each=4.0, threads=1):
    """Time `work`, print and keep it; returns what it gives."""
    times = []
    for _ in range(5):
        bus[threads] = max(bus[threads], memories[threads].bandwidth(clock))
        begin = clock()
        answer = work()
        times.append(clock() - begin)
    best, size = min(times), bytes_each * weights / 1e6
    measured.append((what, weights / best, bytes_each, threads))
    print(f"{what:26} {size:5.1f} MB {1e3 * best:7.2f} ms {size / best / 1e3:6.2f} GB/s")
    return answer


# %%
# Step 1: a Python loop
# ---------------------
# 64 rows are enough to see it. Each number becomes an object, each ``*`` looks up what to do.

views, numbers = [memoryview(row) for row in w[:64]], memoryview(x)
slow = measure(
    "1 Python loop, 64 rows",
    lambda: [sum(a * b for a, b in zip(row, numbers, strict=True)) for row in views],
    weights=64 * K,
)

# %%
# Step 2: NumPy
# -------------
# The same loop in C, several numbers at once. Nothing is wrong with NumPy here: on most machines it
# is near the bus. What is left is to read *fewer bytes*, and NumPy has no numbers of four bits.

fast = measure("2 NumPy vecdot", lambda: np.vecdot(w, x))
assert np.allclose(slow, fast[:64], rtol=0, atol=K * 2**-24 * np.abs(w[:64] * x).sum(1).max())

# %%
# Steps 3 to 6: tiles
# -------------------
# A CPU's instruction computes on a **vector** of numbers, its *lanes*. ``simd.py`` makes vectors of
# 16 a value that Numba compiles: ``y = fma(splat(x), load(address), y)`` is 16 multiply-adds.
#
# Which 16? Neighbours in a row would need a sum across lanes at its end. So **lane = row**: weights
# are laid out anew in *tiles* of 16 rows, column after column. One load gives 16 rows' weights of a
# column, each lane ends with its row's answer, and memory is read strictly forward, as it likes.
#
# A BF16 weight is the upper half of a float32: a shift decodes it. An NVFP4 code is looked up in a
# table of 16 inside a register; 16 codes in a row share a scale. In step 6 a code stays a byte:
# twice its value is a whole number, and so is each x, as so many units of its block of 16
# (``fixed_rows.py``): then one instruction multiplies 32 bytes, where it had 8 float32.

q = nvfp4.encode(w, convention="modelopt", source="bfloat16", zero_tensor="refuse")
matrices = {
    "3 tiles, float32": pack(w, form="f32"),
    "4 tiles, BF16": pack(w, form="bf16"),
    "5 tiles, NVFP4": pack_quantised(q),
    "6 whole numbers": pack_quantised(q),
}
answers = {}
for threads in sorted({1, cores}):
    for name, packed in matrices.items():
        product = Product(packed, threads, fixed="whole" in name)
        product(x)  # compiled now, not inside the measurement
        label = f"{name}, {threads} threads" if threads > 1 else name
        each = packed.data.nbytes / w.size
        answers[name, threads] = measure(label, lambda p=product: p(x)[0], w.size, each, threads)

# %%
# Bars are what was reached, marks what the bus allows. A bar near its mark cannot grow but by
# reading less. Where step 5 stays behind its mark, a thread cannot decode as fast as memory
# delivers; step 6 has half as much to do for a weight.

figure, axes = plt.subplots(figsize=(9, 4.5))
for place, (_, rate, each, threads) in enumerate(measured):
    axes.barh(place, rate / 1e9, color=BLUE if threads == 1 else ORANGE)
    axes.plot([bus[threads] / each / 1e9] * 2, [place - 0.4, place + 0.4], color="black")
    axes.text(rate / 1.1e9, place, f"{rate / 1e9:.2g}", va="center", ha="right", color="white")
axes.set_yticks(range(len(measured)), [what for what, *_ in measured])
axes.invert_yaxis()
axes.set(xscale="log", xlim=(2e-3, None), xlabel="billion weights a second; marks: the bus allows")
plt.show()

# %%
# Threads, and one chain of sums
# ------------------------------
# Threads share the rows of a matrix, never a row. At the end of each instruction they meet at a
# **barrier**: each adds one to a shared number and looks at it until all have. So every answer is
# the same chain of fused multiply-adds, from column 0 to K - 1, whoever computes it and however
# many tokens come along; no thread and no batch changes a bit. Under NVFP4 each block of 16 columns
# is such a chain, and its scale multiplies the chain's sum: once a block, not once a weight. In
# step 6 a block's sum is a whole number, the same in any order.

for name, packed in matrices.items():
    product = Product(packed, cores, tokens=7, fixed="whole" in name)
    one, seven = answers[name, 1], product(np.tile(x, (7, 1)))
    assert np.array_equal(answers[name, cores], one)
    assert all(np.array_equal(row, one) for row in seven)
assert np.array_equal(answers["3 tiles, float32", 1], answers["4 tiles, BF16", 1])
print(f"NumPy adds in another order: {np.mean(fast != answers['4 tiles, BF16', 1]):.0%} differ")

# %%
# Check yourself
# --------------
# All three products in a few lines, to the last bit. A fused multiply-add rounds once; float64
# holds our product of two BF16 numbers, and its sum with a float32, as exactly as that takes. Go
# through the columns backwards, round the product first, shift a scale by 19, and run it again.


def chain(weights, x):
    """(N, K) times (K,), as a kernel's lanes do it."""
    y = np.zeros(len(weights), np.float32)
    for k in range(len(x)):
        y = (weights[:, k].astype(np.float64) * x[k] + y).astype(np.float32)
    return y


def open_nvfp4(made, shift=20):
    """Codes and block scales, as tiles have them: upper bits of a float32, times 2^104."""
    scales = (UE5M3[made.scales].astype(np.uint32) << shift).view(np.float32) * UE5M3_UNIT
    return e2m1.decode(e2m1.unpack(made.codes), code_8="-0"), scales  # (N, K), (N, K/16)


some = slice(0, N, 64)
assert np.array_equal(chain(w[some], x), answers["4 tiles, BF16", 1][some]), "another sum"
codes, scales = (part[some] for part in open_nvfp4(q))
y = np.zeros(len(codes), np.float32)
for k in range(0, K, 16):  # blocks are a chain as well: each block's sum times its scale
    part = chain(codes[:, k : k + 16], x[k : k + 16]).astype(np.float64)
    y = (part * scales[:, k // 16] + y).astype(np.float32)
assert np.array_equal(y * q.tensor_scale, answers["5 tiles, NVFP4", 1][some]), "another NVFP4 sum"
print("the same bits as the kernels")

# %%
# The whole model
# ---------------
# A step is a program of such instructions. The bus over the bytes of a token is the prediction. A
# model as small as this may fit into the caches and beat it, or lose to its many barriers.

model = tinymoe.load(backend="numpy")
for backend, form in (("numpy", "fp32"), ("numba", "bf16")):
    running = tinymoe.load(backend=backend)
    for _ in range(2):  # the first time compiles
        tokens = list(running.generate("Once upon a time", max_tokens=48, temperature=0))
    seconds = np.median(np.diff([token.time for token in tokens]))
    need = decode_work(Counts.of(model.params), model.config, form, batch=1, context=28).bytes
    print(f"{backend}: {need / 1e6:.1f} MB a token, {bus[cores] / need:,.0f} tokens/s by the bus;")
    print(f"       measured, the choice of each word included: {1 / seconds:,.0f} tokens/s")

# %%
# Break it
# --------
# A scale's bits moved by 19 in place of 20: one digit in one line of the NVFP4 kernel. The lowest
# bit of the exponent lands in the fraction, and the exponent is halved: nearly a square root.

SHIFT = 19


def shifted(builder, address):
    """16 scales from an address, as the kernel's own code loads them but for the shift."""
    bytes_ = ir.VectorType(ir.IntType(8), 16).as_pointer()
    codes = builder.zext(builder.load(builder.inttoptr(address, bytes_), align=1), I32.llvm)
    moved = builder.shl(codes, ir.Constant(I32.llvm, [SHIFT] * 16))
    return builder.fmul(builder.bitcast(moved, F32.llvm), ir.Constant(F32.llvm, [2.0**104] * 16))


broken = replace(FORMATS["nvfp4"], name=f"shifted_{SHIFT}", scale=shifted)
FORMATS[broken.name] = broken

# %%
# The oracle needs the numbers that the format says and the engine's activations, and knows nothing
# of kernels. The right kernel first: a check that finds something in everything finds nothing.

held = round_params(model.params, "nvfp4")
held = replace(held, head=rounded(model.params.head, "nvfp4"))
ids = model.encode("Once upon a time, there was a little dog named Max.")
to_tiles = packer_of("nvfp4")
for form in (FORMATS["nvfp4"], broken):
    ops = numba_ops(packer=lambda *w, form=form, **how: replace(to_tiles(*w, **how), form=form))
    dump = trace(model.params, model.config, ids, model.numerics, ops=ops)
    report = diff(held, model.config, dump, model.numerics)
    print(f"{form.name}: {verdict(report)}")
    assert (report.first is None) == (form is not broken)
assert report.first.name == "layers.0.attn.q"  # the first product of the model

# %%
# The *first* product is wrong and its input is right: not a layer's fault, every product's. So
# which reading of a scale gives these numbers? An idea is tested by running the model with it.

first, place = model.params.layers[0], "layers.0.attn.q"
made = quantised(first.attention.qkv, "nvfp4")


def read_with(shift):
    """Layer 0's queries if scales are shifted so, from the definition."""
    codes, scales = open_nvfp4(made, shift)
    wanted = replace(first.attention, qkv=codes * np.repeat(scales, 16, 1) * made.tensor_scale)
    params = replace(held, layers=(replace(first, attention=wanted), *held.layers[1:]))
    return trace(params, model.config, ids, model.numerics, patterns=[place], layers=(0, 1))[place]


ideas = range(17, 21)
distances = [np.linalg.norm(read_with(s) - dump[place]) for s in ideas]
print(dict(zip(ideas, [f"{d / np.linalg.norm(dump[place]):.2g}" for d in distances], strict=True)))
assert ideas[int(np.argmin(distances))] == SHIFT

right = e4m3.decode(bytes_ := np.arange(1, 127, dtype=np.uint8))
wrong = (bytes_.astype(np.uint32) << SHIFT).view(np.float32) * np.float32(2.0**120)
figure, axes = plt.subplots()
axes.loglog(right, right, color=BLUE, label="right")
axes.loglog(right, wrong, ".", color=RED, label=f"shifted by {SHIFT}")
axes.set(xlabel="block scale", ylabel="what the kernel reads", title="One bit, every scale")
axes.legend()
plt.show()
