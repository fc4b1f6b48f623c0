"""
The sampler draws from another distribution
===========================================

Logits right, text wrong: what is between them has an order, and engines differ in it by intent and
by mistake.

* top-p was measured on **all** tokens in place of those that top-k left (flashinfer#2320); ids out
  of range were drawn (flashinfer#384).
* Log-probabilities **before or after** temperature and penalties (vllm#9453), top-k before or after
  the softmax (vllm#718): each a meaning of its own.
* min-p **before** top-k and top-p in vLLM, after them in transformers: both are right, under two
  names.
* Ranks drew with **different seeds** (mini-sglang#88).

No two engines share a stream of random numbers. So never compare what was drawn: compare the
probabilities from which it is drawn, to the last digit.
"""

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.oracle.mutants import mutant
from tinymoe.oracle.mutants.specimens import sampler_rows
from tinymoe.sampler import masked_probabilities

BLUE, RED = "#0072B2", "#D55E00"

# %%
# The same logits, the same wishes (temperature 1.6, top-k 5, top-p 0.9, min-p 0.05), one right
# distribution and four wrong ones. Tokens are sorted by their logits.

row = sampler_rows()["masks"]
right = masked_probabilities(*row)
names = ("sampler.top-p-of-all", "sampler.top-p-without-crossing", "sampler.temperature-multiplies")
names += ("sampler.top-k-lost",)
figure, panels = plt.subplots(2, 2, figsize=(9, 6), sharex=True, sharey=True)
figure.set_layout_engine("constrained")
shown = np.arange(8)
for axes, name in zip(panels.flat, names, strict=True):
    wrong = mutant(name).apply(row)
    axes.bar(shown - 0.2, right[shown], 0.4, color=BLUE, label="right")
    axes.bar(shown + 0.2, wrong[shown], 0.4, color=RED, label="engine")
    far = np.abs(wrong - right).sum() / 2
    axes.set_title(f"{name.removeprefix('sampler.')}: {far:.1%} of the mass moved", fontsize=10)
    assert far > 0.001
for axes in panels[1]:
    axes.set_xlabel("token, most likely first")
for axes in panels[:, 0]:
    axes.set_ylabel("probability")
panels[0, 0].legend()
figure.suptitle("What the next token is drawn from")
plt.show()

# %%
# The check
# ---------
# Dump the probabilities after all masks, for a row in which every step has something to do, and
# compare them with ours. For the raw log-probabilities of a running server there is a command.

engine = mutant("sampler.top-p-of-all").apply(row)
kept, wanted = (set(np.flatnonzero(x).tolist()) for x in (engine, right))
print(f"the engine keeps tokens {sorted(kept)}, the definition {sorted(wanted)}")
assert kept != wanted

# %%
# .. code-block:: shell
#
#    python -m tinymoe check-endpoint http://127.0.0.1:8000/v1 --prompts FILE
#    python -m tinymoe mutants sampler
