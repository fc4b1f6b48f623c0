"""
3. Attention and the paged cache
================================

After this page you can read who looks at whom in a sentence, follow a word's key to its page in
memory, say how many bytes a word costs, and why a prompt cut into pieces must give the same bits
as in one piece. You will find a bug that only shows when it is cut.

The experts of page 2 look at one token at a time. **Attention** is the only place where tokens
look at each other, and they only look back.
"""

# %%
# One query looks back
# --------------------
# In each layer a token makes three kinds of vectors: *queries* (what it looks for), *keys* (what
# it can be found by) and *values* (what it tells). Nq query heads of D numbers share Nk key heads.

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

import tinymoe
from tinymoe.cache import PagedCache
from tinymoe.core import Array, Batch, Run, Sampling
from tinymoe.engine import Engine
from tinymoe.model import attention, rope
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.precision import linear_unrounded
from tinymoe.model.transformer import forward
from tinymoe.oracle.compare import first_difference
from tinymoe.oracle.trace import trace

plt.rcParams.update({"figure.figsize": (8, 4), "figure.constrained_layout.use": True})
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"  # told apart by every kind of eye

model = tinymoe.load(backend="numpy")
config, numerics = model.config, model.numerics
L, Nq, Nk, D = config.num_layers, config.heads, config.kv_heads, config.head_dim

ids = model.encode("Lily had a red ball. Tom had a blue kite. One day, Lily lost her red")
words = [model.tokenizer.decode([token]) for token in ids]
taps = model.trace(ids)
T, layer = len(ids), L // 2
q, k, v, mix = (taps[f"layers.{layer}.attn.{name}"] for name in ("q", "k", "v", "mix"))
assert q.shape == (T, Nq, D)
assert k.shape == v.shape == (T, Nk, D)

# %%
# The last query is compared with every key, its own included. A softmax turns the matches into
# weights, and the answer is the weighted sum of the values. Bit for bit the traced one:

answer = attention.attend(q[-1], k, v, config.attention[layer].scale)  # (Nq, D)
assert np.array_equal(answer.ravel(), mix[-1])

# %%
# To *see* the weights, we give each token a value that only says "this is token t": 1 in place t,
# 0 elsewhere. What comes out is how much of each token went in.

assert T <= D  # one place for each token
names = np.zeros_like(v)  # (T, Nk, D)
names[np.arange(T), :, np.arange(T)] = 1
looks = np.array(
    [
        attention.attend(q[t], k[: t + 1], names[: t + 1], config.attention[layer].scale)[:, :T]
        for t in range(T)
    ]
)  # (T, Nq, T)
assert (np.triu(looks.transpose(1, 0, 2), k=1) == 0).all()  # nobody looks ahead

figure, panels = plt.subplots(2, Nq // 2, figsize=(8, 7.5), sharex=True, sharey=True)
labels = [word.strip() for word in words]
for head, axes in enumerate(panels.flat):
    picture = axes.imshow(looks[:, head], cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"head {head}")
    axes.set_xticks(range(T), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(T), labels, fontsize=8)
figure.supxlabel("... looks at this one")
figure.supylabel("this token ...")
figure.colorbar(picture, ax=panels, label="weight", shrink=0.6)
figure.suptitle(f"Layer {layer}: each head looks back in its own way, and none looks ahead")
plt.show()

# %%
# Keep what does not change
# -------------------------
# As nobody looks ahead, a token's keys and values never change once they are made. So they are
# kept, in the **cache**, and the next token only makes its own. The price, for each position:
# a key and a value of Nk heads and D numbers in each layer.

bytes_each = 2 * L * Nk * D * numerics.dtype.itemsize
cache = PagedCache.for_model(config, numerics, positions=64)
assert sum(array.nbytes for i in range(L) for array in cache.layer(i)) == 64 * bytes_each
print(f"2 * {L} layers * {Nk} heads * {D} numbers * {numerics.dtype.itemsize} = {bytes_each} bytes")
print(f"{config.max_positions} positions: {config.max_positions * bytes_each / 2**20:.1f} MiB")
print(f"if each query head had a key head of its own: {Nq // Nk} times as much")

# %%
# Pages
# -----
# Nobody knows how long a sequence will get. The cache is cut into **pages** of P positions, handed
# out one by one. The list of a sequence's pages is its **block table**: position i lies in page
# ``table[i // P]``, in place ``i % P``. Three sequences, the last one comes late; the engine makes
# one *step* at a time, and we note who owns which page.

P = 4  # the engine's own is 16; small pages show more
small = PagedCache.for_model(config, numerics, positions=64, page_size=P)
engine = Engine(model.params, config, numerics, small, end_ids=model.end_ids)


def submit(text: str, tokens: int):
    """Queue a prompt that will write exactly so many tokens."""
    wish = Sampling(max_tokens=tokens, temperature=0, ignore_eos=True)
    return engine.submit(model.encode(text), wish)


requests = [submit("Tom saw a big dog.", 10), submit("The sun was warm and", 26)]
owners = []
for step in range(28):
    if step == 14:
        requests.append(submit("Lily ran home.", 8))
    engine.step()
    owner = np.zeros(small.pages[0])  # 0: free
    for number, request in enumerate(requests):
        for table in request.pages:  # one, as all layers of this model keep all positions
            owner[table] = number + 1
    owners.append(owner)
    small.check_integrity(request.pages for request in requests)
assert not engine.busy
assert small.free_pages == small.pages  # everything came back

history = np.array(owners).T  # (pages, steps)
figure, axes = plt.subplots()
colours = plt.matplotlib.colors.ListedColormap(["#F4F4F4", BLUE, ORANGE, GREEN])
axes.pcolormesh(history, cmap=colours, vmin=0, vmax=3, edgecolors="white", linewidth=0.5)
for number, colour in enumerate((BLUE, ORANGE, GREEN)):
    axes.plot([], [], "s", color=colour, markersize=9, label=f"sequence {number}")
axes.set_xlabel("step of the engine")
axes.set_ylabel(f"page of {P} positions")
axes.set_title("Pages are taken one by one, given back together, and used again")
axes.legend(loc="upper right")
plt.show()

again = set(np.flatnonzero((history == 1).any(1))) & set(np.flatnonzero((history == 3).any(1)))
print(f"pages that sequence 0 gave back and sequence 2 took: {sorted(int(p) for p in again)}")
assert again

# %%
# Check yourself
# --------------
# A prompt is written to a cache whose pages are handed out in a strange order. Where is the key of
# position ``i``? Damage ``place`` (a + 1, ``i // P`` for ``i % P``) and run the page again.


def copying(seen: dict[str, Array]):
    """A tap that keeps copies in `seen`."""
    return lambda name, value: seen.update({name: value.copy()})


def run_in_pieces(
    ids: Sequence[int], cuts: Sequence[int], pages: Sequence[int], ops: Ops = DEFINITION
) -> tuple[dict[str, Array], PagedCache]:
    """A prompt cut before the given positions, piece after piece: its trace, and the cache."""
    cache = PagedCache.for_model(config, numerics, positions=64, page_size=P)
    table, pieces = np.array(pages), []
    for start, stop in pairwise([0, *cuts, len(ids)]):
        rows, seen = np.arange(stop - start), {}
        runs = (Run(slice(0, stop - start), start, (table,)),)
        batch = Batch(np.array(ids[start:stop]), start + rows, runs, rows)
        forward(model.params, config, batch, cache, numerics, ops, copying(seen))
        pieces.append(seen)
    return {name: np.concatenate([part[name] for part in pieces]) for name in taps}, cache


TABLE = [7, 2, 11, 5, 0, 14, 3, 9]
_, filled = run_in_pieces(ids, [], TABLE)
key_pages, _ = filled.layer(layer)  # (pages, P, Nk, D)
for i in range(T):
    page, place = TABLE[i // P], i % P
    assert np.array_equal(key_pages[page, place], k[i]), f"position {i} is not there"
print(f"found the keys of {T} positions, the last one in page {page}, place {place}")

# %%
# Cut anywhere, get the same bits
# -------------------------------
# To read a prompt is called *prefill*, to write one more token *decode*. Long prompts are read in
# *chunks*, so that others need not wait. All of it is the same work in other pieces, so the trace
# must not change, in any bit of any tensor; "one by one" is decode all the way.

for cuts in ([], [5], [3, 4, 11], list(range(1, T))):
    pieces, _ = run_in_pieces(ids, cuts, TABLE)
    assert first_difference(taps, pieces) is None
    print(f"{len(cuts) + 1:2} pieces: all {len(taps)} tensors the same")

# %%
# Why one product for each token
# ------------------------------
# This does not come by itself. A product of a *matrix* of tokens with the weights may add its terms
# in another order than a product of one token, and then the last bits depend on the company. So
# this engine makes one product for each token. What this machine's library does with 1 to 16 rows:

weight = model.params.layers[layer].attention.qkv  # (M, H)
x = taps[f"layers.{layer}.attn.norm"]  # (T, H)
row_by_row = linear_unrounded(x, weight)  # (T, M)
for rows in (1, 2, 4, 8, 16):
    together = x[:rows] @ weight.T
    off = np.abs(together - row_by_row[:rows])
    print(f"{rows:2} rows at once: {np.mean(off > 0):4.0%} of the numbers differ, {off.max():.0e}")

# %%
# Break it
# --------
# Chunks go wrong when a piece forgets where it starts. vllm#26042 was a fault of this family: cut
# prompts took a model from 93 to 65 points in a test of word problems. We let every piece believe
# that its first token is the first of the sequence:


def wrong_prefill(q, key_pages, value_pages, table, start, scale, numerics):
    """`attention_prefill` that forgets `start`: later pieces see too few keys."""
    return attention.attention_prefill(q, key_pages, value_pages, table, 0, scale, numerics)


broken = replace(DEFINITION, attention_prefill=wrong_prefill)
whole, _ = run_in_pieces(ids, [], TABLE, broken)
assert first_difference(taps, whole) is None  # in one piece there is nothing to see

cut = T // 2
halves, _ = run_in_pieces(ids, [cut], TABLE, broken)


def distance(run: dict[str, Array]) -> Array:
    """How far the last layer's vector of each token is off, in its own lengths: (T,)."""
    name = f"layers.{L - 1}.out"
    off = np.linalg.norm(run[name] - taps[name], axis=1)
    return off / np.linalg.norm(taps[name], axis=1)


figure, axes = plt.subplots()
axes.plot(distance(whole), "o-", color=BLUE, label="in one piece")
axes.plot(distance(halves), "s--", color=ORANGE, label=f"cut before token {cut}")
axes.axvline(cut - 0.5, color="black", linestyle=":", linewidth=1)
axes.set_xticks(range(T), [word.strip() for word in words], rotation=60, fontsize=8)
axes.set_ylabel("error / length")
axes.set_title("The same broken engine: right until the cut, wrong after it")
axes.legend()
plt.show()

# %%
# The tool says where to look: the keys and queries were right, their mixture is not. The worst
# token tells when: none before the cut is touched.

found = first_difference(taps, halves)
print(found)
assert found.name == "layers.0.attn.mix"
assert np.array_equal(halves[found.name][:cut], taps[found.name][:cut])

# %%
# Another bug, another name. Queries and keys are *turned* by an angle that grows with the position
# (*rope*), so that a match depends on the distance. Numbers turn in pairs; here each number j is
# paired with j + D/2. An engine that pairs neighbours breaks the queries themselves:


def wrong_rope(x, tables, card, numerics):
    """`rope` with neighbours paired."""
    return rope.rope(x, tables, replace(card, pairing="interleaved"), numerics)


card = config.attention[layer].rope
assert card is not None
assert card.pairing == "half"
turned = trace(model.params, config, ids, numerics, ops=replace(DEFINITION, rope=wrong_rope))
found = first_difference(taps, turned)
print(found)
assert found.name == "layers.0.attn.q"
assert np.array_equal(turned[found.name][0], taps[found.name][0])  # position 0 does not turn
