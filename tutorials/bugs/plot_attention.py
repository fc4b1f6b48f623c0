"""
Attention looks at the wrong things
===================================

Not MoE's own, and yet where its engines break: a head reads another head's keys, a window is one
too wide, positions turn by the wrong angle. A short prompt shows little of it.

* The part of a head that turns was taken **of itself once more** (vllm#30384); YaRN's factor was
  ignored (sglang#22711) or left out of a teaching notebook (LLMs-from-scratch#940).
* Latent attention with a prompt in **pieces**: 93 fell to 65 (vllm#26042).
* The **window** of a cache (LLMs-from-scratch#925), positions (nano-vllm#67), the length of a chunk
  (nano-vllm#213).
* Results that depend on the **company** in the batch (vllm#53257, flashinfer#3559).
"""

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.core import NUMERICS
from tinymoe.oracle.diff import diff
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import IDS
from tinymoe.oracle.trace import trace

FP32 = NUMERICS["fp32"]


def run(setup: Setup) -> dict[str, np.ndarray]:
    """Every activation of a pass over twelve tokens."""
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=["*"])


# %%
# Where the error is says what the bug is. Four heads of 8 columns on two key heads, a window of 4:
#
# * heads that read other heads' keys: whole heads from the first token on, the others untouched;
# * a window that is one too wide: all is right up to the token at which the window is full;
# * positions that turn the wrong way: all heads, but never position 0, which does not turn;
# * sinks that are lost: the first token already, whose one key shares its attention with a sink.

right = specimen("sinks")
taps = run(right)
names = ("attention.heads-tiled", "window.off-by-one", "rope.backwards", "sinks.lost")
figure, panels = plt.subplots(2, 2, figsize=(9, 6), sharex=True, sharey=True)
figure.set_layout_engine("constrained")
place, starts = "layers.0.attn.mix", {}
for axes, name in zip(panels.flat, names, strict=True):
    wrong = run(mutant(name).apply(right))
    error = np.abs(wrong[place] - taps[place])
    starts[name] = int(np.flatnonzero(error.max(axis=1) > 1e-5)[0])
    image = axes.imshow(error, cmap="Reds", vmin=0, vmax=0.6, aspect="auto")
    for boundary in (7.5, 15.5, 23.5):
        axes.axvline(boundary, color="grey", linewidth=0.8)
    axes.set_title(f"{name}: from token {starts[name]} on", fontsize=10)
for axes in panels[1]:
    axes.set_xlabel("column (lines: heads)")
for axes in panels[:, 0]:
    axes.set_ylabel("token")
figure.colorbar(image, ax=panels, label=f"|error| of {place}")
figure.suptitle("Four bugs, four patterns")
plt.show()
assert starts["window.off-by-one"] == 4  # its own and three before it fit into the right window
assert (starts["sinks.lost"], starts["rope.backwards"]) == (0, 1)

# %%
# The check
# ---------
# ``diff`` names ``attn.q`` or ``attn.k`` for positions and norms, and ``attn.mix`` for what is
# seen. Use a prompt longer than the window and the chunk, and read the page's pictures by token and
# by column.

for name in names:
    report = diff(right.params, right.config, run(mutant(name).apply(right)), FP32)
    print(f"{name}: {report.first.name}")
    assert report.first.name == mutant(name).first_tap.replace("*", "0")

# %%
# .. code-block:: shell
#
#    python -m tinymoe diff MODEL DUMP --html report.html
#    python -m tinymoe conform attention_prefill my_kernels:attention
