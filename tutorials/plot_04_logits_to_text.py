"""
4. From logits to text
======================

After this page you can say which words a sampling setting allows and with what probability, why
the same seed gives the same story in any company, what a log-probability means, and how to notice
that an engine reports the wrong one although its text is right.

A model does not write. It gives one number for each of the V tokens of its vocabulary, the
**logits**, and a **sampler** picks a token from them. Then the text is one token longer, and the
model is asked again.
"""

# %%
# What the model thinks comes next
# --------------------------------

from inspect import getsource

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe import Sampling, sampler
from tinymoe.engine import Engine
from tinymoe.oracle.compare import first_difference

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#D0D0D0"

model = tinymoe.load()
V = model.config.vocab_size
prompt = "Once upon a time, there was a little"
ids = model.encode(prompt)
logits = model(ids)[-1]  # (V,) row t predicts token t + 1
assert logits.shape == (V,)

plain = sampler.masked_probabilities(logits, Sampling())  # (V,) the softmax of the logits
best = sampler.best_ids(logits, 12)
words = [model.tokenizer.decode([token]) for token in best]
print(f"{prompt} ...")
for token, word in zip(best[:6], words, strict=False):
    print(f"  {word!r:12} logit {logits[token]:6.2f}, probability {plain[token]:6.2%}")
# Each of the V probabilities is rounded, by at most 2**-53 of itself, and so is each partial sum.
assert abs(plain.sum() - 1) <= V * 2.0**-52

# %%
# Temperature
# -----------
# The logits are divided by the *temperature* first. Below 1 the likely words gain, above 1 the
# unlikely ones do; at 0 the best one always wins, and this is called *greedy*.

figure, axes = plt.subplots()
for shift, heat, colour in ((-0.27, 0.5, BLUE), (0, 1.0, GREY), (0.27, 1.5, ORANGE)):
    heated = sampler.masked_probabilities(logits, Sampling(temperature=heat))
    axes.bar(np.arange(12) + shift, heated[best], 0.27, color=colour, label=str(heat))
axes.set_xticks(range(12), [word.strip() or repr(word) for word in words], rotation=45)
axes.set_ylabel("probability")
axes.set_title(f"A low temperature T sharpens, a high one flattens: '... {prompt[-12:]}'")
axes.legend(title="temperature")
plt.show()

greedy = sampler.masked_probabilities(logits, Sampling(temperature=0))
assert greedy[best[0]] == 1

# %%
# Masks: which words may come at all
# ----------------------------------
# A *mask* forbids tokens by a logit of minus infinity; a softmax of the rest spreads their
# probability over the allowed ones. **top-k** keeps the k best. **top-p** keeps the fewest whose
# probabilities reach p. **min-p** keeps those of at least p times the best one's probability.

MASKS = {
    "top_k = 5": Sampling(top_k=5),
    "top_p = 0.8": Sampling(top_p=0.8),
    "min_p = 0.1": Sampling(min_p=0.1),
}
figure, panels = plt.subplots(1, 3, figsize=(9, 4), sharey=True)
for axes, (name, wish), colour in zip(panels, MASKS.items(), (BLUE, ORANGE, GREEN), strict=True):
    allowed = sampler.masked_probabilities(logits, wish)
    axes.bar(range(12), allowed[best], color=colour, label="with the mask")
    axes.step(np.arange(13) - 0.5, [*plain[best], 0], where="post", color="black", label="without")
    axes.set_title(f"{name}\nkeeps {np.count_nonzero(allowed)} of {V:,}")
    axes.set_xticks(range(12), [word.strip() or repr(word) for word in words], rotation=90)
panels[0].set_ylabel("probability")
panels[0].legend()
figure.suptitle("Three ways to cut the tail; what remains is raised to a sum of 1")
plt.show()

kept = sampler.masked_probabilities(logits, MASKS["top_p = 0.8"]) > 0
assert plain[kept].sum() >= 0.8  # enough,
assert plain[kept].sum() - plain[kept].min() < 0.8  # and not one too many

# %%
# The draw, and the seed
# ----------------------
# The draw needs one random number. Here it is a function of two things only, the request's *seed*
# and the number of the token, not the next one from a common stream. So token n of a request is
# the same draw alone, in company, or computed again. 400 seeds, and how often each word came:

wish = Sampling(temperature=0.8, top_k=5)
chances = sampler.masked_probabilities(logits, wish)
drawn = np.array([sampler.draw(chances, seed, step=0) for seed in range(400)])
for token in np.flatnonzero(chances):
    word, share = model.tokenizer.decode([token]), np.mean(drawn == token)
    print(f"{word!r:12} probability {chances[token]:5.1%}, drawn {share:5.1%}")
assert sampler.draw(chances, seed=7, step=0) == drawn[7]
assert set(drawn.tolist()) <= set(np.flatnonzero(chances).tolist())  # a masked token never comes

# %%
# Log-probabilities
# -----------------
# A *log-probability* is the natural logarithm of a probability: 0 is certain, -0.7 is one in two,
# -4.6 one in a hundred. Those of a text's tokens add up to that of the text. A text's *perplexity*
# is e to the power of minus their mean: as if each token had been one of so many equal choices.


def scores_of(text: str) -> np.ndarray:
    """The log-probability of each token but the first, given those before it: (T - 1,)."""
    tokens = model.encode(text)
    rows = model(tokens)[:-1]  # (T - 1, V)
    each = [
        sampler.log_probabilities(row)[token] for row, token in zip(rows, tokens[1:], strict=True)
    ]
    return np.array(each)


for text in ("The little girl was very happy.", "The happy very girl was little."):
    found = scores_of(text)
    print(f"{text:32} sum {found.sum():6.1f}, perplexity {np.exp(-found.mean()):8.1f}")

# %%
# The loop, on one screen
# -----------------------
# Who is ready gets one more token: pick requests, run the model once for all of them, sample.

print(getsource(Engine.step))

# %%
# And a story, shown as it comes. (A token can be a part of a letter; the stream then waits.)

told = []
for token in model.generate(prompt, max_tokens=60, temperature=0.7, top_p=0.9, seed=1):
    told.append(token)
print(prompt + "".join(token.text for token in told))
print(f"[{len(told)} tokens, ended by {told[-1].finish}]")

# %%
# Together or alone
# -----------------
# Several prompts share each run of the model. Each must get what it gets alone: the same tokens
# and the same log-probabilities, to the last bit.

prompts = [prompt, "Tom and Lily went to", "17+25="]
wishes = [model.default_sampling(max_tokens=16, seed=seed, logprobs=0) for seed in (1, 2, 3)]
together = [[] for _ in prompts]
for number, token in model.generate_many(prompts, wishes):
    together[number].append((token.id, token.logprob))
for text, wish, got in zip(prompts, wishes, together, strict=True):
    alone = [(token.id, token.logprob) for token in model.generate(text, wish)]
    assert got == alone
    print(f"{text!r} -> {model.tokenizer.decode([token for token, _ in got])!r}")

# %%
# Check yourself
# --------------
# top-k in three lines, without the package. Replace it or damage it (keep one more, forget to
# divide, cut after the division without dividing again), and run the page again.


def my_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Logits (V,) to probabilities (V,), 0 below the k-th largest."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    powers[logits < np.sort(logits)[-k]] = 0
    return powers / powers.sum()


for k in (1, 5, 40):
    expected = sampler.masked_probabilities(logits, Sampling(top_k=k))
    mine = my_top_k(logits, k)
    assert np.array_equal(mine > 0, expected > 0), f"k = {k}: other tokens are allowed"
    # Both add the same V numbers, perhaps in other orders: V roundings of 2**-53, twice.
    assert np.allclose(mine, expected, rtol=V * 2.0**-52, atol=0), f"k = {k}: other probabilities"
    print(f"k = {k:2}: {np.count_nonzero(mine)} tokens, the best one with {mine.max():.1%}")

# %%
# Break it
# --------
# Which log-probability does an engine report: of what the model said ("raw"), or of what was left
# after temperature and masks ("processed")? Users could not tell (vllm#9453), and who takes one
# for the other gets a model that seems surer than it is. The wrong engine here mixes them up.

wish = Sampling(max_tokens=40, temperature=0.7, top_p=0.9, seed=1, logprobs=0)


def report(**settings: str) -> dict[str, np.ndarray]:
    """What a request gets back, as named arrays: ids (n,) and log-probabilities (n,)."""
    out = list(model.generate(prompt, wish, **settings))
    return {"ids": np.array([t.id for t in out]), "logprobs": np.array([t.logprob for t in out])}


right, wrong = report(logprobs_of="raw"), report(logprobs_of="processed")

figure, axes = plt.subplots()
axes.plot(right["logprobs"], "o-", color=BLUE, label="raw: what the model said")
axes.plot(wrong["logprobs"], "s--", color=ORANGE, label="processed: after temperature and top-p")
axes.set_xlabel("token of the story")
axes.set_ylabel("log-probability")
seeming = {name: np.exp(-run["logprobs"].mean()) for name, run in (("r", right), ("w", wrong))}
axes.set_title(
    f"The same story: perplexity {seeming['r']:.1f}, but it seems to be {seeming['w']:.1f}"
)
axes.legend()
plt.show()

# %%
# The text is the same, so no reader will ever notice. Named arrays and a comparison do:

found = first_difference(right, wrong)
print(found)
assert found.name == "logprobs"

# %%
# The second classic is the *order* of the steps. If top-p measures before the temperature has
# divided, other words survive. We keep what each step gives, as a small trace, right and wrong:


def steps(logits: np.ndarray, wish: Sampling, top_p_first: bool) -> dict[str, np.ndarray]:
    """The sampler's own steps for temperature and top-p, in one of two orders."""
    x = logits.astype(np.float64)
    masked = sampler.keep_top_p(x if top_p_first else x / wish.temperature, wish)  # (V,)
    final = masked / wish.temperature if top_p_first else masked
    return {"logits": x, "allowed": masked > -np.inf, "probabilities": sampler.softmax(final)}


wish = Sampling(temperature=1.5, top_p=0.8)
right, wrong = steps(logits, wish, top_p_first=False), steps(logits, wish, top_p_first=True)
assert np.array_equal(right["probabilities"], sampler.masked_probabilities(logits, wish))
found = first_difference(right, wrong)
print(f"allowed: {right['allowed'].sum()} tokens, or {wrong['allowed'].sum()} in the wrong order")
print(found)
assert found.name == "allowed"
