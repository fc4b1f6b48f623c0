"""
9. Your first kernel, on a machine of arrays
============================================

After this page you can write a CUDA kernel, read the PTX that a compiler makes of it, run that PTX
without a GPU, say which threads ran what and which bytes they asked for, and find a **race**, a bug
that gives the right answer on most days.

A *kernel* is a function that thousands of threads run at once, each on its own number. Threads come
in *blocks*, which share a small memory, and 32 neighbours in a block are a *warp*. Nothing on this
page ran on a GPU: the package brings a machine for PTX, written in NumPy. The compiler is NVIDIA's
own NVRTC, a wheel that needs no GPU: ``pip install -e ".[compile]"``.
"""

# %%
# From CUDA C to PTX
# ------------------
# Each thread works out who it is and treats one element. There are more threads than elements,
# because blocks come whole: hence the ``if``.

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.kernels import ptx
from tinymoe.kernels.cuda.compile import build

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#BBBBBB"

AXPY = """
extern "C" __global__ void axpy(float* out, const float* x, float a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = a * x[i] + out[i];
}
"""
text = build(AXPY, "80").ptx  # for sm_80 and every chip after it
axpy = ptx.parse(text)["axpy"]
for i in axpy.code:
    print(f"C line {i.source}   {i.text}")

# %%
# That is **PTX**, an assembly language with as many registers as one likes: ``%r`` 32 bits, ``%rd``
# 64 (addresses), ``%f`` floats, ``%p`` a yes or no. ``%tid.x`` is the thread's number in its block,
# ``%ctaid.x`` the block's; ``@%p1 bra`` jumps for those threads whose ``%p1`` says yes.
#
# Run it: three blocks of 32 threads for 70 elements. Scalars are typed, as on a GPU.

BLOCKS, THREADS, n = 3, 32, 70
x = np.arange(n, dtype=np.float32)
out = np.full(n, 100, np.float32)
report = ptx.launch(axpy, BLOCKS, THREADS, [out, x, np.float32(2), np.int32(n)])
print(out[:5], "...", out[-2:])
assert np.array_equal(out, 2 * x + 100)

# %%
# Check yourself
# --------------
# The whole trick of the machine: *a register is an array with an element for each thread*. So an
# instruction is one line of NumPy, and a branch is a mask of the threads that go on. Here it is for
# the opcodes of this kernel. Compute the block wrongly (``0 * thread`` for ``thread // block``),
# or let a thread past the end go on (``>`` for ``>=``), and see what happens.


def my_machine(code: list, grid: int, block: int, params: dict, memory: np.ndarray) -> dict:
    """Run `code`; `memory` is one float32 array, written in place. The registers at the end."""
    thread = np.arange(grid * block)
    r = {
        "%tid.x": thread % block,
        "%ctaid.x": thread // block,
        "%ntid.x": np.full_like(thread, block),
    }
    alive = np.ones(len(thread), bool)
    for i in code:
        what = i.opcode[0]
        values = [r.get(name, name) for name in i.operands[1:]]  # else a number, as text
        if what == "ret":
            break
        if what == "bra":  # forward, to the end: who jumps is done
            alive = alive & ~r[i.guard]
        elif what == "st":
            memory[r[i.operands[0].strip("[]")][alive] // 4] = values[0][alive]
        elif what == "ld" and i.opcode[1] == "param":
            r[i.operands[0]] = np.full(len(thread), params[values[0].strip("[]")])
        elif what == "ld":
            r[i.operands[0]] = np.full(len(thread), np.nan, np.float32)
            r[i.operands[0]][alive] = memory[r[values[0].strip("[]")][alive] // 4]
        else:
            r[i.operands[0]] = DOES[what](*(int(v) if isinstance(v, str) else v for v in values))
    return r | {"alive": alive}


DOES = {
    "mov": lambda a: a,
    "cvta": lambda a: a,  # generic address to global address
    "mad": lambda a, b, c: a * b + c,
    "fma": lambda a, b, c: a * b + c,
    "mul": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "setp": lambda a, b: a >= b,
}
memory = np.concatenate([np.full(n, 100), x, np.full(99, -1)]).astype(np.float32)  # out, x, unused
params = {"axpy_param_0": 0, "axpy_param_1": 4 * n, "axpy_param_2": 2.0, "axpy_param_3": n}
r = my_machine(axpy.code, BLOCKS, THREADS, params, memory)
assert np.array_equal(memory[:n], out), "another result than the package's machine"
assert np.array_equal(memory[n : 2 * n], x), "a thread wrote where it should not"

# %%
# The registers as they stood at the end, a column a thread, each row in its own scale. Blocks are
# 32 wide. From thread 70 on ``%p1`` is yes (dark): these jumped, and never loaded (white).

rows = {
    "%tid.x": "number in the block",
    "%ctaid.x": "block",
    "%r1": "i",
    "%p1": "i >= n: jump",
    "%f2": "x[i]",
    "%f4": "a * x[i] + out[i]",
}
picture = np.stack([np.where(r["alive"] | (name[1] != "f"), r[name], np.nan) for name in rows])
picture = picture / np.nanmax(picture, axis=1, keepdims=True)
figure, axes = plt.subplots(figsize=(9, 3.2))
axes.imshow(picture, aspect="auto", cmap="Blues", interpolation="nearest", vmin=-0.15)
axes.set_yticks(range(len(rows)), [f"{name}  {what}" for name, what in rows.items()])
axes.set(xlabel="thread", title="A register is an array over the threads")
for edge in (31.5, 63.5):
    axes.axvline(edge, color=ORANGE, linewidth=1)
plt.show()

# %%
# What ran, and how often
# -----------------------
# A report counts, for every instruction, the threads that ran it. An example that never takes a
# branch proves nothing about what lies behind it: **coverage** is the share of instructions that
# some thread ran. With ``n`` = 0 every thread leaves, the test "passes", and half the kernel is
# untested.

nothing = ptx.launch(
    axpy, 1, 32, [np.zeros(1, "f4"), np.zeros(1, "f4"), np.float32(2), np.int32(0)]
)
for name, seen in (("n = 70", report), ("n = 0", nothing)):
    print(f"{name:6}: {seen.executed} of {seen.instructions} instructions ran")
print("never ran with n = 0:", *(i.text for i in nothing.missed[-2:]), sep="\n    ")
assert report.executed == report.instructions
assert nothing.executed < nothing.instructions
figure, axes = plt.subplots(figsize=(8, 5))
where = np.arange(report.instructions)
axes.barh(where, report.counts, color=[BLUE if c else ORANGE for c in nothing.counts])
axes.set_yticks(where, [i.text for i in axpy.code], family="monospace", fontsize=8)
axes.invert_yaxis()
axes.set(xlabel="threads that ran it (n = 70)", title="Orange: what a test with n = 0 never ran")
plt.show()

# %%
# Which bytes were asked for
# --------------------------
# Global memory moves **sectors** of 32 bytes. A warp whose neighbours read neighbours fills each
# sector it moves; a stride wastes most of it. The memory inside a block has 32 **banks** that serve
# one word each at a time: a warp that reads down a column of a tile 32 words wide meets a single
# bank. One unused word a row (a width of 33) puts each thread at a bank of its own. The machine
# sees the addresses, so it counts both; what that costs in time, only a GPU can say.

READS = """
extern "C" __global__ void strided(float* out, const float* x, int stride) {
  out[threadIdx.x] = x[threadIdx.x * stride];
}
extern "C" __global__ void column(float* out, int width) {
  __shared__ float tile[32 * 33];
  for (int k = threadIdx.x; k < 32 * 33; k += 32) tile[k] = k;
  __syncwarp();
  float sum = 0;
  for (int k = 0; k < 32; k++) sum += tile[threadIdx.x * width + k];
  out[threadIdx.x] = sum;
}
"""
kernels = ptx.parse(build(READS, "80").ptx)
y, x = np.zeros(32, np.float32), np.arange(32 * 16, dtype=np.float32)
figure, (left, right) = plt.subplots(1, 2)
for stride in (1, 2, 4, 8, 16):
    seen = ptx.launch(kernels["strided"], 1, 32, [y, x, np.int32(stride)], counters=True)
    loads = [i.line for i in seen.code if i.text.startswith("ld.global")]
    (traffic,) = (seen.memory[line] for line in loads)
    left.bar(str(stride), traffic.used, color=ORANGE)
    left.bar(str(stride), traffic.needed, color=BLUE)
left.set(xlabel="stride of a warp's reads", ylabel="sectors of 32 bytes", title="Global memory")
passes = {}
for width in (32, 33):
    seen = ptx.launch(kernels["column"], 1, 32, [y, np.int32(width)], counters=True, strict=True)
    loads = {i.line for i in seen.code if i.text.startswith("ld.shared")}
    passes[width] = sum(seen.shared[line].used for line in loads) // 32
    right.bar(f"width {width}", passes[width], color=ORANGE if passes[width] > 1 else BLUE)
right.set(ylabel="passes for one read of a warp", title="Shared memory")
left.legend(handles=[plt.Rectangle((0, 0), 1, 1, color=c) for c in (ORANGE, BLUE)],
            labels=["moved", "needed"])  # fmt: skip
plt.show()
assert passes == {32: 32, 33: 1}

# %%
# A race, made and found
# ----------------------
# The sum of a block: halve the numbers until one is left. Thread t adds what thread t + half wrote,
# and those are *other* threads, so all must have written before any reads. ``__syncthreads()`` is
# that promise: a **barrier**, at which a block's threads wait for each other.

SUM = """
extern "C" __global__ void block_sum(float* out, const float* x) {
  __shared__ float part[128];
  int t = threadIdx.x;
  part[t] = x[blockIdx.x * 128 + t];
  __syncthreads();  // all have written
  for (int half = 64; half > 0; half /= 2) {
    if (t < half) part[t] += part[t + half];
    __syncthreads();  // this round is done
  }
  if (t == 0) out[blockIdx.x] = part[0];
}
"""
numbers = np.arange(4 * 128, dtype=np.float32)
want = numbers.reshape(4, 128).sum(axis=1)  # whole numbers below 2^24: exact in any order


def sums(source: str, **checks: bool) -> np.ndarray:
    """What `source` makes of the numbers, on the PTX machine."""
    kernel = ptx.parse(build(source, "80").ptx)["block_sum"]
    out = np.zeros(4, np.float32)
    ptx.launch(kernel, 4, 128, [out, numbers], **checks)
    return out


assert np.array_equal(sums(SUM, strict=True), want)

# %%
# Break it
# --------
# Without the first barrier. We let it run unchecked, then checked.

no_barrier = SUM.replace("__syncthreads();  // all have written", "// all have written")
unchecked = sums(no_barrier, races=False)
print("unchecked:", unchecked, "right" if np.array_equal(unchecked, want) else "wrong")


def finding(source: str, **checks: bool) -> str:
    """What the machine finds wrong, or "nothing"."""
    try:
        sums(source, **checks)
    except ptx.DefectError as error:
        line = error.instruction.source
        return f"{error}\n    {source.splitlines()[line - 1].strip()}"
    return "nothing"


found = finding(no_barrier)
print(found)
assert "race in shared memory" in found
assert "part[t + half]" in found

# %%
# The result may well be right: the machine's warps happened to go in step. So testing results does
# not find this bug, here or on a GPU. The machine looks at something else: for every word, who
# touched it since the last barrier. Two warps, one of them writing, and nothing in between: a race.
#
# Why do some people leave the barrier out for the last rounds? "Within a warp threads go in step."
# That was so until 2017; since Volta each thread has its own program counter, and the compiler may
# count on it. The usual check, between warps, has no objection; ``strict`` looks within a warp too.

folklore = SUM.replace("    __syncthreads();", "    if (half > 32) __syncthreads();")
print("between warps:", finding(folklore))
within = finding(folklore, strict=True)
print("within a warp:", within)
assert finding(folklore) == "nothing"
assert "another lane of this warp" in within
with_syncwarp = folklore.replace(
    "__syncthreads();  // this", "__syncthreads(); else __syncwarp();  // this"
)
assert finding(with_syncwarp, strict=True) == "nothing"

# %%
# Who reads whose word? A row is a round, a column a thread (white: idle). While ``half`` is at
# least 32, the word comes from another warp, and only a barrier will do. Below, it comes from the
# thread's own warp, and ``__syncwarp()`` is enough.

halves = [64 >> k for k in range(7)]
reads = np.full((7, 128), np.nan)
for row, half in enumerate(halves):
    reads[row, :half] = (np.arange(half) + half) // 32 != np.arange(half) // 32
figure, axes = plt.subplots(figsize=(9, 3))
colours = plt.matplotlib.colors.ListedColormap([BLUE, ORANGE])
axes.imshow(reads, aspect="auto", cmap=colours, interpolation="nearest", vmin=0, vmax=1)
axes.set_yticks(range(7), [f"half = {half}" for half in halves])
axes.set(
    xlabel="thread", title="Orange: reads what another warp wrote. Blue: what its own warp wrote"
)
for edge in (31.5, 63.5, 95.5):
    axes.axvline(edge, color=GREY, linewidth=1, linestyle=":")
plt.show()

# %%
# The same machine runs a file of yours: ``python -m tinymoe ptx FILE.cu --help``.
