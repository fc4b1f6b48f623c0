"""
Experts on several ranks, and the expert that all share
=======================================================

Spread over ranks, each expert's answer must arrive once, and so must the shared expert's:

* The **shared expert** was added by every rank before the sum over ranks: fine on one, rubbish on
  four (vllm#49122, sglang#31475), or divided by their number (TensorRT-LLM#15922).
* A slot of another rank was masked with **index 0**, which is an expert (transformers#40545).
* An expert that stands on **two ranks** was run by both (EPLB#22); the map from expert to place was
  used the wrong way round (vllm-ascend#4793).
* The sum used **another rank's** ids: right on 8 and 16 ranks, wrong on 32 (vllm#52639).

None of these shows on one rank. Dump the same prompt on one and on several.
"""

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.core import NUMERICS
from tinymoe.oracle.diff import diff
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import IDS
from tinymoe.oracle.trace import trace

FP32, BLUE, RED = NUMERICS["fp32"], "#0072B2", "#D55E00"


def run(setup: Setup) -> dict[str, np.ndarray]:
    """Every activation of a pass over twelve tokens."""
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=["*"])


# %%
# The experts' answers, slot by slot, sorted by expert: which experts are wrong? All those of the
# second rank, or expert 0 alone, or one that stands on two ranks.

right = specimen("groups")
taps = run(right)
names = ("parallel.sum-over-ranks-lost", "parallel.local-ids", "parallel.replica-counted-twice")
names += ("parallel.shared-times-ranks",)
ids = taps["layers.1.router.ids"].ravel()
figure, panels = plt.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
for axes, name in zip(panels.flat, names, strict=True):
    wrong = run(mutant(name).apply(right))
    if name == "parallel.shared-times-ranks":
        a, b = (x["layers.1.moe.shared"].ravel() for x in (taps, wrong))
        axes.scatter(a, b, s=6, color=RED)
        axes.plot([a.min(), a.max()], [a.min(), a.max()], color=BLUE, label="right")
        axes.set_xlabel("shared expert's answer, right")
        axes.set_ylabel("in the engine")
        axes.legend()
    else:
        a, b = (x["layers.1.moe.expert_out"].reshape(len(ids), -1) for x in (taps, wrong))
        off = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
        axes.scatter(ids, off, s=22, color=[RED if x > 1e-5 else BLUE for x in off])
        axes.axvline(3.5, color="grey", linewidth=0.8)
        axes.set_xlim(-0.5, 7.5)
        axes.set_xlabel("expert (line: the second rank begins)")
        axes.set_ylabel("error of its answer")
    axes.set_title(name.removeprefix("parallel."), fontsize=10)
figure.suptitle("Errors by expert show the rank")
plt.show()

# %%
# The check
# ---------
# ``moe.expert_out`` or ``moe.shared`` is the first wrong tensor; a shared expert that counts n
# times is its right value times n.

for name in names:
    report = diff(right.params, right.config, run(mutant(name).apply(right)), FP32)
    print(f"{name}: {report.first.name}")
    assert report.first.name == mutant(name).first_tap.replace("*", "1")
wrong = run(mutant("parallel.shared-times-ranks").apply(right))["layers.1.moe.shared"]
assert np.array_equal(wrong, 2 * taps["layers.1.moe.shared"])  # a power of two: exact

# %%
# .. code-block:: shell
#
#    python -m tinymoe diff MODEL DUMP_ON_4_RANKS --rank 0
#    python -m tinymoe diff DUMP_ON_1_RANK DUMP_ON_4_RANKS
#    python -m tinymoe conform combine my_kernels:combine
