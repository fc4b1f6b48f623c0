"""
Too few digits where experts are chosen
=======================================

Which experts a token meets hangs on the order of scores, and scores can be close. A router that
keeps them in bfloat16 decides otherwise for a few tokens in every layer, a different few each time:

* The router's product was stored as bfloat16: drafts were accepted less often and a coding
  benchmark lost 12 points, while the experts of single layers had looked identical (sglang#29783,
  sglang#38695).
* The **selection bias** was cast: 238 values in a narrow band far from 0 became 8 (sglang#31213).
* The experts' answers were **summed** in bfloat16 (vllm#15045).
* **Ties** have no rule in ``torch.topk`` (vllm#52679); one engine broke them by adding 3e-7 times
  the index, which moved close calls as well (sglang#31768); two ranks broke them differently
  (aiter#4376).
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.model.router import route_logits
from tinymoe.oracle.mutants.specimens import CONFIGS

BLUE, RED, GREY = "#0072B2", "#D55E00", "#BBBBBB"

# %%
# 4,000 tokens, 64 experts, 6 chosen. The margin is the score of the last one in minus that of the
# first one out. Rounding the logits moves those, and those alone, whose margin is a rounding wide.

E, K, T = 64, 6, 4000
biased = replace(CONFIGS["band"].router, experts=E, top_k=K)
card = replace(biased, selection_bias=False)
rng = np.random.default_rng(0)
logits = rng.normal(0, 1.5, (T, E)).astype(np.float32)
exact, rounded = (route_logits(x, None, card) for x in (logits, round_to_bf16(logits)))
moved = (np.sort(exact.ids) != np.sort(rounded.ids)).any(axis=1)
cut = np.sort(logits)[:, ::-1]
ulp = 2.0 ** (np.floor(np.log2(np.abs(cut[:, K - 1]))) - 7)  # a last place of bfloat16, there
gap = (cut[:, K - 1] - cut[:, K]) / ulp

# %%
# A bias close to 7, as a released model has: 64 values, before and after bfloat16.

bias = rng.uniform(6.817, 7.063, E).astype(np.float32)
print(f"{len(np.unique(bias))} biases become {len(np.unique(round_to_bf16(bias)))}")
apart = (route_logits(logits, b, biased).ids for b in (bias, round_to_bf16(bias)))
changed = float((np.sort(next(apart)) != np.sort(next(apart))).any(axis=1).mean())

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
edges = np.linspace(0, 30, 61)
left.hist(gap, edges, color=GREY, label="all tokens")
left.hist(gap[moved], edges, color=RED, label="on other experts")
left.set_xlabel("margin of the logits, in last places of bfloat16")
left.set_ylabel("tokens")
left.set_title(f"Logits in bfloat16: {moved.mean():.1%} of tokens move")
left.legend()
right.plot(np.sort(bias), "o", color=BLUE, markersize=4, label="float32")
right.plot(np.sort(round_to_bf16(bias)), "s", color=RED, markersize=3, label="bfloat16")
right.set_xlabel("expert, by its bias")
right.set_ylabel("selection bias")
right.set_title(f"The bias in bfloat16: {changed:.0%} of tokens move")
right.legend()
plt.show()
assert gap[moved].max() <= 2  # both scores are off by half a last place at most, of twice the size

# %%
# The check
# ---------
# A mismatch of ids alone is no bug, and no proof of none: it needs its margin. ``diff`` prints it,
# in last places, and calls a mismatch a *close call* only within what the stated arithmetic can
# move the scores by. A checkpoint whose bias does not survive bfloat16 is found before anything
# runs.
#
# .. code-block:: shell
#
#    python -m tinymoe diff MODEL DUMP --numerics bf16
#    python -m tinymoe lint CHECKPOINT
#    python -m tinymoe conform route my_kernels:route
