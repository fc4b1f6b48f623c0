"""Vectors of whole MoE layers, exact in float32: router, experts, shared expert, their sum.

An input's first E numbers are 1 for the experts that it wants and -1 for the others, and the
router reads just them: the chosen logits are equal, so that every weight is 1/K times the scale,
exactly. The rest is as in `experts.py`: whole numbers, gates where silu is exact, sums below 2^24.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard, RouterCard
from tinymoe.core import NUMERICS, Array
from tinymoe.kernels.bounds import sums_exactly
from tinymoe.oracle.vectors.experts import EXACT, exact_expert, exact_inputs, exact_weights
from tinymoe.oracle.vectors.quantised_layers import quantised_weights
from tinymoe.oracle.vectors.router_cards import CARDS
from tinymoe.oracle.vectors.vector import Vector

FP32 = NUMERICS["fp32"]
E, T, H, I = 8, 6, 20, 10  # noqa: E741  (the alphabet)
WANTED = [[0, 3], [3, 7], [2, 7], [0, 7], [6, 7], [1, 3]]  # nobody wants 4 and 5
FOUR = [[0, 3, 5, 7], [1, 3, 6, 7], [2, 5, 6, 7], [0, 1, 2, 7], [0, 2, 6, 7], [1, 3, 5, 7]]
TIES = "equal weights: rows by ascending id"


def layer_vectors() -> Iterator[Vector]:
    """All of them."""
    plain = replace(CARDS["mixtral"], scale=2.5)
    shared = replace(PLAIN_SWIGLU, shared="added", shared_intermediate=6)
    yield _layer("shared", "Two of eight, scale 2.5, a shared expert added once.", plain, shared)
    gated = replace(shared, shared="gated")
    holds = "A shared expert whose own gate is 1 for some tokens and 0 for others."
    yield _layer("gated-shared", holds, plain, gated)
    loud = replace(CARDS["mixtral"], top_k=4, scale=8.0, weight_on="input")
    holds = "Four of eight, weights of 2 on the experts' inputs (vllm#16744)."
    yield _layer("weights-on-input", holds, loud, PLAIN_SWIGLU, FOUR)
    for kind in ("nvfp4-multiplier", "nvfp4-divisor", "mxfp4"):
        yield _quantised(kind)
    yield _ranks("two-ranks", [0, 0, 0, 0, 1, 1, 1, 1], ())
    yield _ranks("four-ranks-replicas", [0, 0, 1, 1, 2, 2, 3, 3], ((7, 0), (3, 2)))


def inputs(rng: np.random.Generator, wanted: list[list[int]], hidden: int) -> Array:
    """x (T, H): wishes in the first E places, whole numbers in the others, 1 in the last."""
    x = exact_inputs(rng, len(wanted), hidden)
    x[:, :E] = -1
    for t, experts in enumerate(wanted):
        x[t, experts] = 1
    return x


def router_weight(hidden: int) -> Array:
    """(E, H): logits 8 and -8."""
    weight = np.zeros((E, hidden), np.float32)
    weight[:, :E] = 8 * np.eye(E)
    return weight


def outputs(
    x: Array, wanted: list[list[int]], weights: tuple[Array, Array, Array], card: RouterCard
) -> dict[str, Array]:
    """The layer's routed part in float64, loop by loop, nothing rounded."""
    gate, up, down = weights
    share = card.scale / card.top_k
    expert_out = np.zeros((len(x), card.top_k, x.shape[1]))
    for t, experts in enumerate(wanted):
        for k, e in enumerate(sorted(experts)):
            row = x[t] * share if card.weight_on == "input" else x[t]
            expert_out[t, k] = exact_expert(row, gate[e], up[e], down[e])
    final = np.full((len(x), card.top_k), share)
    on_output = np.ones_like(final) if card.weight_on == "input" else final
    size = (np.abs(expert_out) * on_output[..., None]).sum(axis=1).max()
    assert sums_exactly(expert_out, on_output, size, FP32)
    return {
        "ids": np.sort(np.array(wanted, np.int64)),
        "weights": final,
        "expert_out": expert_out,
        "routed": (on_output[..., None] * expert_out).sum(axis=1),
    }


def _check_sums(x: Array, weights: tuple[Array, Array, Array]) -> None:
    """Every product of the experts has the same bits in every order."""
    gate, up, down = (w.reshape(-1, w.shape[-1]) for w in weights)
    hidden = []
    for g, u in zip(*weights[:2], strict=True):
        hidden.append(np.maximum(x @ g.T, 0) * (x @ u.T))  # (T, I)
    middle = np.concatenate(hidden)
    for a, b in ((x, gate), (x, up), (middle, down)):
        assert sums_exactly(a, b, (np.abs(a) @ np.abs(b).T).max(), FP32)


def _layer(
    name: str,
    holds: str,
    router: RouterCard,
    experts: ExpertCard,
    wanted: list[list[int]] = WANTED,
) -> Vector:
    rng = np.random.default_rng(len(name))
    x, weights = inputs(rng, wanted, H), exact_weights(rng, E, H, I)
    _check_sums(x * (router.scale / router.top_k if router.weight_on == "input" else 1), weights)
    found = outputs(x, wanted, weights, router)
    given: dict[str, Any] = {
        **{"router_card": router, "expert_card": experts},
        "x": x.astype(np.float32),
        "router": router_weight(H),
        "gate_up": np.concatenate(weights[:2], axis=1).astype(np.float32),
        "down": weights[2].astype(np.float32),
    }
    found["out"] = found["routed"]
    if experts.shared != "none":
        given["shared"], found["shared"] = _shared(rng, x, experts)
        found["out"] = found["routed"] + found["shared"]
    return _vector(f"layer/{name}", holds, given, found)


def _shared(
    rng: np.random.Generator, x: Array, card: ExpertCard
) -> tuple[dict[str, Array | None], Array]:
    """The shared expert's weights and what it adds (T, H)."""
    gate, up, down = (w[0] for w in exact_weights(rng, 1, H, card.shared_intermediate))
    out = np.stack([exact_expert(row, gate, up, down) for row in x])
    own = None
    if card.shared == "gated":
        own = np.zeros((1, H))
        own[0, [0, -1]] = 160, -8  # expert 0 wanted: 152, sigmoid 1; not: -168, sigmoid 0
        out = out * (x[:, :1] > 0)
    held = {"gate_up": np.concatenate([gate, up]), "down": down, "gate": own}
    return {n: None if w is None else w.astype(np.float32) for n, w in held.items()}, out


def _vector(name: str, holds: str, given: dict[str, Any], found: dict[str, Array]) -> Vector:
    assert all((v == v.astype(np.float32)).all() for v in found.values())
    return Vector(
        name=name,
        op="moe",
        holds=f"{holds} x is the layer's normed input.",
        given={**given, "numerics": FP32},
        expected=found,
        derivation=EXACT + " Equal logits give weights of scale / K.",
        ties=TIES,
    )


def _quantised(kind: str) -> Vector:
    """Experts in four bits, each matrix with scales of its own."""
    rng = np.random.default_rng(len(kind))
    hidden = 64 if kind == "mxfp4" else 32
    x = inputs(rng, WANTED, hidden)
    x[:, E : hidden // 2] *= rng.integers(0, 2, x[:, E : hidden // 2].shape)
    stored, weights = quantised_weights(kind, rng, E, hidden)
    _check_sums(x, weights)
    card = replace(CARDS["mixtral"], scale=2.5)
    found = outputs(x, WANTED, weights, card)
    given: dict[str, Any] = {
        **{"router_card": card, "expert_card": PLAIN_SWIGLU},
        "x": x.astype(np.float32),
        "router": router_weight(hidden),
        "stored": {name: tuple(held) for name, held in stored.items()},
    }
    holds = (
        f"Experts in {kind}; gate, up and down of each have their own scales, no block's like its "
        "neighbour's."
    )
    return _vector(f"layer/{kind}", holds, given, found | {"out": found["routed"]})


def _ranks(name: str, place: list[int], replicas: tuple[tuple[int, int], ...]) -> Vector:
    """Expert parallelism: what each rank adds, and the sum.

    Token t is run by the first rank that has its expert, or by the replica where t is odd; the
    shared expert is added once, by rank 0. A slot of another rank adds nothing.
    """
    rng = np.random.default_rng(30 + len(name))
    card = CARDS["mixtral"]
    experts = replace(PLAIN_SWIGLU, shared="added", shared_intermediate=6)
    x, weights = inputs(rng, WANTED, H), exact_weights(rng, E, H, I)
    _check_sums(x, weights)
    found = outputs(x, WANTED, weights, card)
    shared, added = _shared(rng, x, experts)
    second = dict(replicas)
    partial = np.zeros((max(place) + 1, T, H))  # (ranks, T, H)
    for t, k in np.ndindex(T, card.top_k):
        e = int(found["ids"][t, k])
        rank = second.get(e, place[e]) if t % 2 else place[e]
        partial[rank, t] += found["weights"][t, k] * found["expert_out"][t, k]
    partial[0] += added
    assert (partial.sum(axis=0) == found["routed"] + added).all()
    given: dict[str, Any] = {
        **{"router_card": card, "expert_card": experts},
        "x": x.astype(np.float32),
        "router": router_weight(H),
        "gate_up": np.concatenate(weights[:2], axis=1).astype(np.float32),
        "down": weights[2].astype(np.float32),
        "shared": shared,
        "placement": np.array(place, np.int64),
        "replicas": np.array(replicas, np.int64).reshape(-1, 2),
    }
    found |= {"shared": added, "out": found["routed"] + added, "ranks": partial}
    holds = (
        f"Experts on {len(partial)} ranks, {len(replicas)} of them on a second one, which runs the "
        "odd tokens: each rank's sum, the shared expert once, by rank 0 (vllm#49122)."
    )
    return _vector(f"parallel/{name}", holds, given, found)
