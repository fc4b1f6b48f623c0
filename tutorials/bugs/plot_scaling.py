"""
The scaling factor is applied twice, or never
=============================================

Some families multiply the weights by a constant, 2.5 in DeepSeek-V3. The router may do that, or the
experts' kernel, or the code around both. Where each believes that the other does it, it is lost;
where both do it, it is squared. The text stays fluent, and worse:

* Twice: vllm#24119 (a reasoning benchmark fell from 0.95 to 0.66), vllm#45037, sglang#8511.
* Never: for one way of quantising (sglang#12738), hard-coded to 1 (flashinfer#3499), inside an
  ``if`` that asked for something else (sglang-jax#1282).
* On one path alone: twice when two batches overlap, or one factor for experts on the GPU and
  another on the CPU (sglang#35152).
"""

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.core import NUMERICS
from tinymoe.oracle.diff import diff
from tinymoe.oracle.diff.told import verdict
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import IDS
from tinymoe.oracle.trace import trace

FP32 = NUMERICS["fp32"]
COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73")


def run(setup: Setup) -> dict[str, np.ndarray]:
    """Every activation of a pass over twelve tokens."""
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=["*"])


# %%
# The answer of the experts, right and wrong, entry by entry. A lost or doubled factor is a straight
# line, and its slope is the factor. On one path alone it is a cloud: the ratio depends on which
# experts a token met.

right = specimen("groups")
names = ("scaling.twice", "scaling.lost", "scaling.half-the-experts")
taps, wrong = run(right), {name: run(mutant(name).apply(right)) for name in names}
place = "layers.1.moe.routed"
figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
for (name, found), colour in zip({"right": taps, **wrong}.items(), COLOURS, strict=True):
    axes.scatter(taps[place], found[place], s=8, color=colour, label=name)
axes.set_xlabel(f"{place}, right")
axes.set_ylabel("the same, in the engine")
axes.set_title(f"The slope is the factor ({right.config.router.scale} here)")
axes.legend()
axes.grid(alpha=0.3)
plt.show()

# %%
# The check
# ---------
# The ids are right; the weights are the first wrong tensor, and they are off by the same factor for
# every token. A test that compares with a tolerance of 0.1 where outputs are near 0.01 does not see
# this, nor does one whose model has the factor 1.

factor = right.config.router.scale
for name, found in wrong.items():
    report = diff(right.params, right.config, found, FP32)
    ratio = found["layers.1.router.weights"] / taps["layers.1.router.weights"]
    print(f"{name}: {verdict(report)}\nratios {ratio.min():.3g} to {ratio.max():.3g}\n")
    assert report.first.name == "layers.1.router.weights"
    once_more = {"scaling.twice": factor, "scaling.lost": 1 / factor}.get(name)
    # a multiplication, a division and this ratio, each off by half a last place
    assert once_more is None or np.allclose(ratio, once_more, rtol=4 * 2.0**-24)

# %%
# .. code-block:: shell
#
#    python -m tinymoe diff MODEL DUMP
#    python -m tinymoe diagnose MODEL DUMP
#    python -m tinymoe conform route my_kernels:route
