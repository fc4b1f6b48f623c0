"""
7. A broken engine
==================

Here is an engine with a bug. After this page you can find where it goes wrong, and what it does
wrong, without reading a line of its code: from its activations alone. The bug is drawn by a number;
change it and you get another one.

You need the names of a trace (``python -m tinymoe trace --list``) and, of the pages before, only
the pictures. The same works on a dump of a real engine; :doc:`/is_my_engine_right` is about that.
"""

# %%
# The engine
# ----------
# It runs the model of this package, with one of the bugs below. Most of them stand in the issue
# tracker of some engine; ``python -m tinymoe mutants`` lists 170, with their numbers. Do not print
# ``name`` yet.

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.oracle.compare import first_difference
from tinymoe.oracle.diagnose import diagnose, told
from tinymoe.oracle.diff import diff, diff_local
from tinymoe.oracle.diff.told import verdict
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.trace import trace

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#BBBBBB"

SUSPECTS = (
    *("router.ids-off-by-one", "router.rows-off-by-one", "router.renorm-inverted"),
    *("router.weights-reversed", "experts.gate-up-swapped", "experts.gate-up-interleaved"),
    *("experts.off-by-one", "experts.down-off-by-one", "experts.slots-by-choice"),
    *("experts.first-dropped", "experts.unweighted", "experts.weight-on-input"),
    *("activation.gelu", "activation.up-lost", "activation.gate-identity"),
    *("attention.heads-tiled", "attention.scale-twice", "attention.blind-to-itself"),
    *("attention.qk-norm-lost", "rope.backwards", "rope.twice", "rope.pairing-swapped"),
    *("parallel.sentinel-expert-0", "parallel.local-ids", "norm.exchanged"),
)
model = tinymoe.load(backend="numpy")
right = Setup(model.config, model.params)


def run(setup: Setup, tokens: list[int], last: int | None = None) -> dict[str, np.ndarray]:
    """A trace, of the layers before `last`; None: of all."""
    layers = None if last is None else (0, last)
    return trace(setup.params, setup.config, tokens, model.numerics, ops=setup.ops, layers=layers)


def broken_engine(seed: int, bugs: int = 1):
    """An engine: token ids in, activations by name out. Its bugs are drawn by the seed."""
    setup = right
    for name in np.random.default_rng(seed).choice(SUSPECTS, bugs, replace=False):
        setup = mutant(str(name)).apply(setup)
    return lambda tokens: run(setup, tokens)


engine = broken_engine(seed=3)

# %%
# Does it show?
# -------------
# What would the engine say next, after each word of a text? A model that is not quite itself still
# has an opinion.

text = "Once upon a time, there was a little girl named Lily."
ids = model.encode(text)
dump = engine(ids)
ours = run(right, ids)
best, theirs = (taps["logits"].argmax(-1) for taps in (ours, dump))
same = float((best == theirs).mean())
print(f"the same most likely next token at {same:.0%} of {len(ids)} places")
print("model: ", [model.tokenizer.decode([int(token)]) for token in best[-6:]])
print("engine:", [model.tokenizer.decode([int(token)]) for token in theirs[-6:]])

# %%
# Where
# -----
# Every activation of the engine against the exact one. ``diff`` also works out how far each may be
# off: as far as float32 itself puts it, times 8. What is beyond that is wrong, and the *first*
# wrong one is where the bug is. Everything after it only inherits.

report = diff(model.params, model.config, dump, model.numerics)
print(verdict(report))

tensors = [t for t in report.tensors if not t.name.endswith("ids")]
errors = np.array([max(t.relative_l2, 1e-9) for t in tensors])
wrong = np.array([t.status != "agrees" for t in tensors])
figure, axes = plt.subplots()
for i in range(0, model.config.num_layers, 2):
    inside = [n for n, t in enumerate(tensors) if t.name.startswith(f"layers.{i}.")]
    axes.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color=GREY, alpha=0.25, linewidth=0)
    axes.text(np.mean(inside), 30, f"layer {i}", ha="center", fontsize=9)
places = np.arange(len(tensors))
axes.semilogy(places[~wrong], errors[~wrong], "o", color=BLUE, markersize=4, label="within bounds")
axes.semilogy(places[wrong], errors[wrong], "D", color=RED, markersize=4, label="beyond")
axes.set_ylim(top=200)
axes.set_xlabel("activations, in the order in which they are computed")
axes.set_ylabel("error / size (1e-9: none)")
axes.set_title("Everything is right up to one tensor; nothing is after it")
axes.legend(loc="lower right")
plt.show()
assert report.first is not None

# %%
# What it looks like
# ------------------
# The tensor itself, a row a token: as it should be, as it is, and the difference. Is it every
# token? Every column? Twice as large, or something else entirely?

place = report.first.name
shown = [taps[place].reshape(len(ids), -1)[:, :64].astype(float) for taps in (ours, dump)]
shown.append(shown[1] - shown[0])
size = np.abs(shown[0]).max()
figure, panels = plt.subplots(3, 1, figsize=(8, 6), sharex=True)
for axes, values, title in zip(panels, shown, ("model", "engine", "difference"), strict=True):
    image = axes.imshow(values, cmap="RdBu", vmin=-size, vmax=size, aspect="auto")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("token")
panels[-1].set_xlabel(f"columns of {place}" + (" (the first 64)" if size else ""))
figure.colorbar(image, ax=panels, shrink=0.6)
figure.suptitle("The first wrong activation")
plt.show()

# %%
# What is it?
# -----------
# A picture gives ideas. An idea can be tested: run the model with *that* bug, on the same tokens,
# and see whether it gives the engine's numbers. A wrong idea gives other wrong numbers. It is
# enough to run up to the layer of the first wrong tensor.


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Size of the difference, over the size of what is looked for."""
    return float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b.astype(float)))


def explanations(dump: dict[str, np.ndarray], setup: Setup) -> dict[str, float]:
    """How far each suspect is from the dump where the dump leaves what `setup` computes."""
    tokens = [int(token) for token in dump["tokens"]]
    place = first_difference(run(setup, tokens), dump).name
    last = int(place.split(".")[1]) + 1 if place.startswith("layers.") else None
    found = {}
    for name in SUSPECTS:
        taps = run(mutant(name).apply(setup), tokens, last)
        found[name] = distance(taps[place], dump[place])
    return found


tried = explanations(dump, right)
order = sorted(tried, key=lambda name: -tried[name])
figure, axes = plt.subplots(figsize=(8, 5.5))
colours = [RED if name == order[-1] else GREY for name in order]
axes.barh(order, [tried[name] for name in order], color=colours)
axes.plot(tried[order[-1]], len(order) - 1, "D", color=RED)
axes.axvline(distance(ours[place], dump[place]), color=BLUE, linestyle=":", label="without a bug")
axes.legend(loc="center right")
axes.set_xlabel(f"distance to the engine's {place}, of its size")
axes.set_title(f"One suspect gives the engine's numbers: {order[-1]}")
axes.spines[["top", "right"]].set_visible(False)
plt.show()
print(f"{order[-1]}: {mutant(order[-1]).says}")

# %%
# The distance is 0 because this engine shares our code. A real one has its own roundings; then the
# right idea is the one within the bounds of ``diff``, and usually alone there. ``diagnose`` makes
# this search over all bugs that a model can have, and judges by those bounds. On the command line
# it is ``python -m tinymoe diagnose MODEL DUMP``.

diagnosis = diagnose(model.params, model.config, dump, model.numerics)
print(told.verdict(diagnosis))
fitting = [candidate.name for candidate in diagnosis.candidates if candidate.fits]
assert order[-1] in fitting

# %%
# Check yourself
# --------------
# Ten engines, one function. Change it so that it is content with less: compare only the size of
# the tensors, or take the suspect that is *furthest*. How many bugs does it still name?


def name_the_bug(dump: dict[str, np.ndarray]) -> str:
    """The suspect that explains the dump."""
    tried = explanations(dump, right)
    return min(tried, key=lambda name: tried[name])


few = ids[:8]
for seed in range(10):
    drawn = str(np.random.default_rng(seed).choice(SUSPECTS, 1, replace=False)[0])
    found = name_the_bug(broken_engine(seed)(few))
    print(f"engine {seed}: {found}")
    assert found == drawn, f"engine {seed} has {drawn}"

# %%
# Break it
# --------
# Engines may have **two** bugs, and the first hides the second: all that comes after it is wrong
# anyway. ``diff_local`` starts each layer from the engine's own input to it, so that no layer
# inherits from another; but within a layer the first bug is still in front.

two = broken_engine(seed=1, bugs=2)(few)
per_layer = diff_local(model.params, model.config, two, model.numerics)
whole = diff(model.params, model.config, two, model.numerics)
print("first wrong tensor of each layer, from its own input:", *per_layer.wrong)

# %%
# So peel them off. Take the first bug as known: give it to the *model*, and see where the engine
# leaves that. When it leaves nowhere, everything is explained.

setup, known, left = right, [], []
while (gone := first_difference(run(setup, few), two)) is not None:
    tried = explanations(two, setup)
    guess = min(tried, key=lambda name: tried[name])
    taps = run(setup, few)
    left.append([distance(taps[name], two[name]) for name in taps if name.endswith(".out")])
    print(f"with {known or 'no bug'} explained, it leaves at {gone.name}: {guess}")
    known.append(guess)
    setup = mutant(guess).apply(setup)
drawn = np.random.default_rng(1).choice(SUSPECTS, 2, replace=False).tolist()
assert sorted(known) == sorted(drawn)

names = [name for name in run(setup, few) if name.endswith(".out")]
figure, axes = plt.subplots()
for n, errors in enumerate(left):
    label = "nothing explained" if n == 0 else f"{known[0]} explained"
    axes.semilogy(
        np.maximum(errors, 1e-8),
        "o-" if n == 0 else "s--",
        color=(BLUE, ORANGE)[n],
        markersize=4,
        label=label,
    )
axes.semilogy([1e-8] * len(names), "k:", label="both explained (0 is drawn as 1e-8)")
axes.set_xlabel("outputs of attention, experts and layers, in order")
axes.set_ylabel("distance of engine and model, of its size")
axes.set_title("A bug is behind a bug: explain the first, and the second shows")
axes.legend()
plt.show()

# %%
# ``diagnose`` tries pairs as well, when no single bug explains a dump:

print(told.verdict(diagnose(model.params, model.config, two, model.numerics)))

# %%
# What to take home: the first wrong tensor is a *place*, a mutant that gives the same numbers is a
# *name*, and an engine is explained when nothing is left over.
