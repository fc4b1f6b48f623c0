"""
The router chooses or weighs wrongly
====================================

A router scores the experts, chooses K and weighs them. Engines got every step wrong, and the text
stayed fluent:

* The **selection bias** may choose and must never weigh. It got into the weights in vllm#12002, and
  years later in a reference itself (transformers#41647).
* Experts of **dropped groups** were given 0 in place of minus infinity (vllm#13474,
  ktransformers#1148), or a group was rated by its best expert in place of its two best
  (sglang#3705).
* A kernel searched the maximum **from 0**, so that no negative logit could win (flashinfer#2822),
  or refused negative biases (flashinfer#2168).
* The weight was recovered as (score + bias) - bias, which **cancels** (vllm#47367); without
  renormalisation raw logits came back (sglang#35160); the wrong gating function was run because the
  file did not say which (llama.cpp#18980).
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

FP32, BLUE, RED = NUMERICS["fp32"], "#0072B2", "#D55E00"


def run(setup: Setup) -> dict[str, np.ndarray]:
    """Every activation of a pass over twelve tokens."""
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=["*"])


# %%
# A router of DeepSeek's kind: 8 experts in 4 groups, of which 2 may win. Its biases are negative,
# as they may well be. Each square is the weight of an expert for a token.


def weights(taps: dict[str, np.ndarray], experts: int = 8) -> np.ndarray:
    """(T, E), 0 for experts that were not chosen."""
    found = np.zeros((len(IDS), experts))
    np.put_along_axis(found, taps["layers.1.router.ids"], taps["layers.1.router.weights"], axis=1)
    return found


right = specimen("groups")
names = ("router.group-mask-zero", "router.bias-in-weights", "router.softmax-for-sigmoid")
wrong = {name: run(mutant(name).apply(right)) for name in names}
figure, panels = plt.subplots(1, 4, figsize=(10, 4), sharey=True, constrained_layout=True)
for axes, (name, taps) in zip(panels, {"right": run(right), **wrong}.items(), strict=True):
    image = axes.imshow(weights(taps), cmap="Purples", vmin=0, vmax=2.5, aspect="auto")
    for boundary in (1.5, 3.5, 5.5):
        axes.axvline(boundary, color="grey", linewidth=0.8)
    axes.set_title(name.removeprefix("router."), color=BLUE if name == "right" else RED)
    axes.set_xlabel("expert (lines: groups)")
panels[0].set_ylabel("token")
figure.colorbar(image, ax=panels, label="weight")
figure.suptitle("One model, four routers")
plt.show()

# %%
# The check
# ---------
# ``diff`` tells the three apart by the first wrong activation: ids, weights, or scores.

for name, taps in wrong.items():
    report = diff(right.params, right.config, taps, FP32)
    print(f"{name}: {verdict(report)}\n")
    assert report.first.name == mutant(name).first_tap.replace("*", "1")

# %%
# .. code-block:: shell
#
#    python -m tinymoe diff MODEL DUMP
#    python -m tinymoe conform route my_kernels:route
#
# The second puts a function under cases that random numbers do not reach: all logits negative,
# exact ties at the cut, biases in a narrow band far from 0, a row of NaN, K = 1.
