"""
The wrong activation, or the halves exchanged
=============================================

An expert multiplies silu(gate) with up. Other families have another function there, and engines
that were written for one run the others wrongly:

* Gate and up **exchanged** or read as alternating rows (sglang#32430, Megatron-LM#6045); the order
  was part of no contract (flashinfer#5291).
* **silu for gelu**, hard-coded (sglang#22928).
* gpt-oss **clamps** at 7, scales the gate by 1.702 and adds 1 to up. The limit was not passed
  (transformers#40197), a bias was accepted and never added (flashinfer#3423).
* Llama-4 weighs the experts' **inputs**: the weight was lost, or came on both sides (vllm#16744,
  vllm#43694).

A test with large random inputs cannot see most of these: far from 0, silu and gelu are both relu.
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
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"


def run(setup: Setup) -> dict[str, np.ndarray]:
    """Every activation of a pass over twelve tokens."""
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=["*"])


# %%
# Left, the functions: what they differ in lies between -4 and 4. Right, the answers of gpt-oss's
# experts, right against wrong: outside the clamp a lost limit bends away, a lost +1 is everywhere.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), constrained_layout=True)
x = np.linspace(-6, 6, 301)
curves = {"silu": x / (1 + np.exp(-x)), "relu": np.maximum(x, 0)}
curves["silu(1.702 x), near gelu"] = x / (1 + np.exp(-1.702 * x))
for (name, curve), colour in zip(curves.items(), (BLUE, ORANGE, GREEN), strict=True):
    left.plot(x, curve - np.maximum(x, 0), color=colour, label=name)
left.set_xlabel("gate")
left.set_ylabel("activation, minus relu")
left.set_ylim(-0.42, 0.02)
left.set_title("Three functions that agree from afar")
left.legend()

setup = specimen("sinks")
names = ("activation.clamp-lost", "activation.up-plus-one-lost", "experts.gate-up-swapped")
taps, wrong = run(setup), {name: run(mutant(name).apply(setup)) for name in names}
place = "layers.0.moe.expert_out"
for (name, found), colour in zip(wrong.items(), (BLUE, ORANGE, RED), strict=True):
    right.scatter(taps[place], found[place], s=4, color=colour, label=name)
span = [taps[place].min(), taps[place].max()]
right.plot(span, span, color="black", linewidth=0.8)
right.set_xlabel(f"{place}, right")
right.set_ylabel("the same, in the engine")
right.set_title("A clamped SwiGLU and three bugs (line: right)")
right.legend(fontsize=8)
plt.show()

# %%
# The check
# ---------
# The router is right and the experts' single answers are the first wrong tensor, in every column.
# Dump ``moe.expert_out`` if you can: after the weighted sum the bugs look more alike.

for name, found in wrong.items():
    report = diff(setup.params, setup.config, found, FP32)
    print(f"{name}: {report.first.name}, {report.first.outside:.0%} of entries out of bounds")
    assert report.first.name == place
    assert report.before == "layers.0.router.margin"

# %%
# .. code-block:: shell
#
#    python -m tinymoe diff MODEL DUMP
#    python -m tinymoe diagnose MODEL DUMP
#    python -m tinymoe conform expert_ffn my_kernels:expert_ffn
