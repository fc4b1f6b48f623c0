"""
Codes and scales are read wrongly
=================================

A weight in four bits is a code, a scale for its block, and sometimes a scale for the tensor. Each
can be read in another way than it was written, and most of these ways give numbers of a credible
size:

* **Gate and up** in the wrong order after a change of backend: 0 % in place of 94 % (sglang#32430,
  Megatron-LM#6045). Or gate's tensor scale used for up (vllm#54974).
* **Scales in the wrong places**: those of the tensor core's tiles read row by row, or the other way
  round (vllm#50084, modular#6600).
* A tensor scale that divides where it should **multiply**: two exporters write inverse numbers
  (modular#6600).
* Scales **never attached**, so that codes stand for themselves (llama.cpp#23629); all scales zero
  for some numbers of rows (flashinfer#3398); the scales of a cache dropped (vllm#35656).
"""

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.oracle.mutants import decode, mutant
from tinymoe.oracle.mutants.specimens import stored_tensors

# %%
# One matrix in NVFP4, read rightly and in five wrong ways. Its blocks of 16 have very different
# scales, as in a test that is meant to find this; where all scales are alike, shifted ones look
# right.

stored = stored_tensors()["nvfp4-multiplier"]
names = ("format.nibbles-swapped", "layout.scales-shifted", "layout.linear-as-tiles")
names += ("format.scales-never-attached", "format.global-scale-inverted")
values = {"right": decode(stored[0])}
values |= {name: mutant(name).apply(stored)[0] for name in names}
figure, panels = plt.subplots(2, 3, figsize=(10, 5.5), constrained_layout=True)
for axes, (name, matrix) in zip(panels.flat, values.items(), strict=True):
    ratio = np.linalg.norm(matrix) / np.linalg.norm(values["right"])
    image = axes.imshow(
        np.log2(np.maximum(np.abs(matrix[:32, :96]) / ratio, 2.0**-12)),
        cmap="viridis",
        vmin=-10,
        aspect="auto",
    )
    off = np.linalg.norm(matrix - values["right"]) / np.linalg.norm(values["right"])
    name = name.removeprefix("format.").removeprefix("layout.")
    axes.set_title(f"{name}\nsize x {ratio:.3g}, error {off:.2g}", fontsize=10)
    assert name == "right" or off > 0.1
for axes in panels[:, 0]:
    axes.set_ylabel("row")
for axes in panels[1]:
    axes.set_xlabel("column")
figure.colorbar(image, ax=panels, label="log2 |weight|, at equal size")
figure.suptitle("The same bytes, read in six ways")
plt.show()

# %%
# The check
# ---------
# Before anything runs, ``lint`` reads the headers and a few tensors: scales missing or of the wrong
# shape, multipliers that look like divisors, gate and up with different tensor scales, tensors that
# nobody reads. In a dump the first wrong tensor is a product with that matrix, and in the picture
# by column a block is a stripe. In one matrix, the mutants tell:

engine = mutant("layout.scales-shifted").apply(stored)[0]
distances = {}
for name in names:
    found = mutant(name).apply(stored)[0]
    distances[name] = float(np.abs(found - engine).max())
    print(f"{name:32} off by {distances[name]:.3g}")
assert [name for name, off in distances.items() if off == 0] == ["layout.scales-shifted"]

# %%
# .. code-block:: shell
#
#    python -m tinymoe lint CHECKPOINT
#    python -m tinymoe diff MODEL DUMP --html report.html
#    python -m tinymoe mutants layout
