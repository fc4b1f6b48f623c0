"""
13. Two hundred launches for one word
=====================================

After this page you can count the launches behind one token, record a decode step as a CUDA graph
does, say what such a step may not do, and see what happens where nobody checks.

A GPU is told of each kernel by the host, one *launch* at a time. For one token the kernels are
tiny, so the telling can take longer than the work. A **CUDA graph** records a step's launches once
and starts them as a whole. This page counts and checks; it times nothing, for nothing here ran on a
GPU. The kernels written here need the compiler: ``pip install -e ".[compile]"``.
"""

# %%
# A step of three launches
# ------------------------
# A layer in miniature: double the input, find the largest magnitude, and round to 255 steps of that
# scale, as quantised layers do with their activations. Each kernel reads what the one before wrote.

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.core import Array
from tinymoe.kernels.cuda.decode_step import Places, layer_step
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import Device, Kernel, launch
from tinymoe.kernels.cuda.recorder import CaptureError, Recorder
from tinymoe.model.rope import rope_tables

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#DDDDDD"
N = 64

KERNELS = """
extern "C" __global__ void twice(float* out, const float* x) {
  out[threadIdx.x] = 2 * x[threadIdx.x];
}
extern "C" __global__ void largest(float* out, const float* x) {  // of 64, by one warp
  float most = fmaxf(fabsf(x[threadIdx.x]), fabsf(x[threadIdx.x + 32]));
  for (int o = 16; o > 0; o >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, o));
  if (threadIdx.x == 0) *out = most;
}
__device__ float steps(float x, float most) {
  return rintf(fminf(fmaxf(x / most, -1.0f), 1.0f) * 127) / 127 * most;
}
extern "C" __global__ void steps_of(float* out, const float* x, const float* most) {
  out[threadIdx.x] = steps(x[threadIdx.x], *most);
}
extern "C" __global__ void steps_by(float* out, const float* x, float most) {
  out[threadIdx.x] = steps(x[threadIdx.x], most);
}
"""


def step(device: Device, x: Array) -> Array:
    """x (64,) to the rounded (64,); all that passes between kernels stays on the device."""
    doubled, most, out = (device.empty((n,), np.float32) for n in (N, 1, N))
    launch(device.kernel(KERNELS, "twice"), 1, N, [doubled, x])
    launch(device.kernel(KERNELS, "largest"), 1, 32, [most, doubled])
    launch(device.kernel(KERNELS, "steps_of"), 1, N, [out, doubled, most])
    return out


machine = PtxDevice("80")
rng = np.random.default_rng(0)
x = rng.normal(size=N).astype(np.float32)
print(step(machine, x)[:4], "for", 2 * x[:4])

# %%
# Check yourself
# --------------
# A recorder is small. It is a device that hands on what it is asked, and keeps a list of launches:
# kernel, grid, block, and *the very arrays*. A replay runs the list; new inputs are written into
# the old arrays. Keep copies instead (``[np.copy(a) for a in args]``), and see which day's result
# a replay gives.


class MyRecorder:
    """A device that remembers launches."""

    name = "my recorder"

    def __init__(self, device: PtxDevice) -> None:
        self.device, self.log = device, []
        self.empty, self.asarray, self.is_array = device.empty, device.asarray, device.is_array

    def kernel(self, source: str, entry: str) -> Kernel:
        """The device's kernel, whose launches come here."""
        inner = self.device.kernel(source, entry)
        return Kernel(self, source, entry, inner.parameters, inner)

    def run(self, kernel: Kernel, grid: tuple, block: tuple, args: list, shared: int) -> None:
        """A launch: write it down, and do it."""
        self.log.append((kernel.handle, grid, block, list(args), shared))
        self.device.run(kernel.handle, grid, block, args, shared)

    def replay(self) -> None:
        """Everything again, on the same arrays, whatever they hold now."""
        for one in self.log:
            self.device.run(*one)


mine = MyRecorder(machine)
out = step(mine, x)
for seed in range(3):
    x[...] = np.random.default_rng(seed).normal(size=N) * 10.0**seed  # into the old array
    mine.replay()
    assert np.array_equal(out, step(machine, x)), "the replay gives another day's result"
print(len(mine.log), "launches, started by one call")

# %%
# A real layer
# ------------
# The package's recorder does the same and *refuses* what a graph cannot hold. Here it takes one
# layer of the package's model, for the next token of each of two sequences. (Random keys and values
# stand for the past; launches do not depend on them.)

model = tinymoe.load(backend="numpy")
config, L = model.config, model.config.num_layers
card, layer = config.attention[0], model.params.layers[0]
pages = (4, 16, config.kv_heads, config.head_dim)  # four pages with 16 positions each
places = Places(
    key_pages=rng.normal(size=pages).astype(np.float32),
    value_pages=rng.normal(size=pages).astype(np.float32),
    tables=np.array([[2, 0], [1, 3]]),
    positions=np.array([5, 11]),
    turns=rope_tables(np.arange(32), card.rope, model.numerics),
)
hidden = rng.normal(size=(2, config.hidden_size)).astype(np.float32)
recorder = Recorder(PtxDevice("80", checks=False))
recorder.record(lambda: layer_step(recorder, hidden, layer, card, config, places, model.numerics))
names = [one.kernel.name for one in recorder.launches]
print(f"{len(names)} launches a layer, {L * len(names)} in {L} layers:")
print(", ".join(f"{n} x {name}" for name, n in Counter(names).items()))

# %%
# Each row is a launch, each column a buffer in the order in which buffers first appear. A launch
# writes its first one (orange), and reads the others (blue). The buffers have their places before
# the first launch and keep them: no launch names a buffer that a later step would get elsewhere.

uses = [one.buffers for one in recorder.launches]
picture = np.zeros((len(uses), 1 + max(map(max, uses))))
for row, buffers in enumerate(uses):
    picture[row, list(buffers[1:])] = 1
    picture[row, buffers[0]] = 2
figure, axes = plt.subplots(figsize=(9, 5.5))
colours = plt.matplotlib.colors.ListedColormap(["white", BLUE, ORANGE])
axes.pcolormesh(picture, cmap=colours, vmin=0, vmax=2, edgecolors=GREY, linewidth=0.3)
axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=8)
axes.invert_yaxis()
axes.set(xlabel="buffer", title="One layer of a decode step: who writes and reads what")
plt.show()

# %%
# Some kernels write two or more of their buffers; the picture shows the first as written. The step
# from the router on has no launch *per expert*: the grid is for the worst case (page 12).
# An engine that walks through the busy experts on the host pays for each: say three launches, for
# gate-up, activation and down. And it must first ask the GPU who is busy, which a graph cannot
# hold. We count, with experts drawn at random:

batch, shared = np.array([1, 2, 4, 8, 16, 32]), len(names) - 2  # all but the experts' two launches
experts, top_k = config.router.experts, config.router.top_k
busy = [
    np.mean(
        [len(np.unique(rng.random((n, experts)).argsort(axis=1)[:, :top_k])) for _ in range(50)]
    )
    for n in batch
]
loop = L * (shared + 3 * np.array(busy))
figure, axes = plt.subplots()
axes.plot(batch, loop, "o-", color=ORANGE, label="a loop over busy experts")
axes.plot(batch, np.full(len(batch), L * len(names)), "o-", color=BLUE, label="all experts at once")
axes.plot(batch, np.ones(len(batch)), "o-", color=GREEN, label="a graph of them")
axes.set_xscale("log", base=2)
axes.set_xticks(batch, map(str, batch))
axes.set(yscale="log", xlabel="sequences", ylabel="what the host starts for a token of each")
axes.set_title("The host's work for a decode step")
axes.legend()
plt.show()
assert (loop > L * len(names)).all()

# %%
# Break it
# --------
# The easy mistake: ask for the largest magnitude *on the host* and hand it on as a number. A graph
# has the number of the day it was recorded, for ever. ``MyRecorder`` checks nothing, so we see it.


def baked(device: Device, x: Array) -> Array:
    """As `step`, but the scale passes through the host."""
    doubled, out = (device.empty((N,), np.float32) for _ in range(2))
    launch(device.kernel(KERNELS, "twice"), 1, N, [doubled, x])
    most = np.float32(np.abs(doubled).max())
    launch(device.kernel(KERNELS, "steps_by"), 1, N, [out, doubled, most])
    return out


careless = MyRecorder(machine)
x[...] = np.random.default_rng(1).normal(size=N)
stale = baked(careless, x)
assert np.array_equal(stale, step(machine, x))  # the day it is recorded all is well
figure, panels = plt.subplots(1, 3, figsize=(9, 3.2))
for axes, loud in zip(panels, (1, 4, 0.03), strict=True):
    x[...] = loud * np.random.default_rng(1).normal(size=N)
    careless.replay()
    right = step(machine, x)
    axes.plot(right, right, color=BLUE, linewidth=1, label="right")
    axes.plot(right, stale, ".", color=ORANGE, label="replayed")
    axes.set(title=f"input x {loud}", xlabel="right result")
panels[0].legend()
plt.show()
assert np.abs(stale - right).max() > 5 * np.abs(step(machine, x) - 2 * x).max()

# %%
# Louder inputs are cut off, quieter ones lose their steps. Nothing raises, and a test that replays
# with the recorded input passes. The package's recorder refuses, and says why. So it does for an
# *allocation* that depends on the step: keys joined to a longer array for every token, where a
# paged cache would write into a page.


def grows(device: Device, x: Array, past: list[int]) -> Array:
    """A cache that is a new, longer array in each step."""
    past.append(0)
    cache = device.empty((len(past), N), np.float32)
    launch(device.kernel(KERNELS, "twice"), 1, N, [cache, x])
    return cache


def clears(device: Device, x: Array) -> Array:
    """Zeros from the host, to be added to: a replay adds to what the last one left."""
    out = device.zeros((N,), np.float32)
    launch(device.kernel(KERNELS, "twice"), 1, N, [out, x])
    return out


def branches(device: Device, x: Array) -> Array:
    """Skips work if a number says so."""
    out = step(device, x)
    return out if out[0] > 0 else step(device, x)


def refusal(do: object, *more: object) -> str:
    """What the package's recorder says to a step."""
    strict = Recorder(machine)
    try:
        strict.record(lambda: do(strict, x, *more))
    except CaptureError as error:
        return str(error)
    return "nothing"


for do, more in ((baked, ()), (grows, ([],)), (clears, ()), (branches, ())):
    said = refusal(do, *more)
    print(f"{do.__name__}: {said}\n")
    assert "cannot be recorded" in said
assert "shapes must not depend on the data" in refusal(grows, [])
assert refusal(step) == "nothing"

# %%
# All of it was found on a CPU, before anyone waited for a GPU. What a graph saves in time is for
# someone with one to say: ``python -m tinymoe conform --device cuda`` runs every kernel there, and
# a layer of a decode step both launched and replayed (``decode_layer``), timed.
