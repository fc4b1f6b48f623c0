"""The network by itself: gradients written by hand, Muon's matrices, the hub's names."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (extra `train`)")

from torch import Tensor  # noqa: E402

from weights.recipe.evaluate import specialisation  # noqa: E402
from weights.recipe.export import from_hub, to_hub  # noqa: E402
from weights.recipe.network import MoeNetwork, rms_norm, rotary_tables, rotate  # noqa: E402
from weights.recipe.optimiser import NEWTON_SCHULZ, STEPS, orthogonalise  # noqa: E402
from weights.recipe.shape import Shape  # noqa: E402

pytestmark = pytest.mark.train

TINY = Shape(
    vocab=64,
    hidden=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    experts=4,
    top_k=2,
    ffn=16,
    max_positions=256,
)


def iterate(values: np.ndarray) -> np.ndarray:
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("size", [(3, 32, 64), (2, 64, 32), (1, 48, 48)])
def test_newton_schulz_makes_matrices_nearly_orthogonal(size: tuple[int, ...]) -> None:
    """In exact arithmetic each singular value follows the scalar polynomial.

    A step rounds three products to bfloat16. The rounding noise of one, entries of about
    1/sqrt(max) times 2^-9, has a spectral norm of about 2^-9 (sqrt(rows) + sqrt(columns)) /
    sqrt(max) <= 2^-8, times the coefficients' sum of 10.3: 0.04 a step. The slope of the
    polynomial at 1 is a + 3b + 5c = -0.72, so steps add up to at most 0.04 / (1 - 0.72) = 0.15.
    """
    matrices = torch.randn(size, generator=torch.Generator().manual_seed(0))
    norms = matrices.norm(dim=(-2, -1), keepdim=True)
    before = torch.linalg.svdvals(matrices / norms).numpy()
    after = torch.linalg.svdvals(orthogonalise(matrices).float()).numpy()
    reachable = iterate(np.linspace(before.min(), before.max(), 10_000))
    assert after.min() > reachable.min() - 0.15
    assert after.max() < reachable.max() + 0.15
    usual = before.min() > 0.01  # below, five steps do not reach the band
    assert not usual or 0.5 < after.min() <= after.max() < 1.35


def reference(weights: dict[str, Tensor], tokens: Tensor, s: Shape) -> Tensor:
    """The model once more, a loop over layers and experts in the hub's names; float64."""
    w = {k: v.double() for k, v in to_hub(weights, s).items()}
    x = w["model.embed_tokens.weight"][tokens]
    batch, time_, _ = x.shape
    cos, sin = (t.double() for t in rotary_tables(time_, s))
    past = torch.ones(time_, time_, dtype=torch.bool).tril()
    for layer in range(s.layers):

        def at(name: str, layer: int = layer) -> Tensor:
            return w[f"model.layers.{layer}.{name}.weight"]

        def heads(name: str, x: Tensor) -> Tensor:
            return (x @ at(f"self_attn.{name}_proj").T).view(batch, time_, -1, s.head_dim)

        h = norm(x, at("input_layernorm"), s.eps)
        q = rotate(norm(heads("q", h), at("self_attn.q_norm"), s.eps), cos, sin)
        k = rotate(norm(heads("k", h), at("self_attn.k_norm"), s.eps), cos, sin)
        k, v = (t.repeat_interleave(s.heads // s.kv_heads, 2) for t in (k, heads("v", h)))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / s.head_dim**0.5
        share = scores.masked_fill(~past, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", share, v).flatten(2)
        x = x + mixed @ at("self_attn.o_proj").T
        h = norm(x, at("post_attention_layernorm"), s.eps)
        top, chosen = (h @ at("mlp.gate").T).softmax(-1).topk(s.top_k, dim=-1)
        top = top / top.sum(-1, keepdim=True)
        for e in range(s.experts):
            gate, up = (h @ at(f"mlp.experts.{e}.{n}_proj").T for n in ("gate", "up"))
            out = (torch.nn.functional.silu(gate) * up) @ at(f"mlp.experts.{e}.down_proj").T
            x = x + out * (top * (chosen == e)).sum(-1, keepdim=True)
    return norm(x, w["model.norm.weight"], s.eps) @ w["model.embed_tokens.weight"].T


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def test_hand_written_gradients_match_a_plain_model() -> None:
    """Time passes one block of queries, so several blocks add to one key."""
    network = MoeNetwork(TINY)
    network.initialise(0)
    tokens = torch.randint(0, 64, (2, 150), generator=torch.Generator().manual_seed(1))
    targets = tokens.roll(-1, 1)
    loss, _ = network.loss(tokens, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    copies = {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters()}
    logits = reference(copies, tokens, TINY)
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    plain.backward()
    # Float32 against float64: sums of 300 terms, through two layers and back.
    assert abs(loss.item() - plain.item()) < 1e-5
    for name, weight in network.named_parameters():
        wanted = copies[name].grad
        assert weight.grad is not None
        assert wanted is not None
        assert (weight.grad - wanted).norm() < 1e-4 * wanted.norm(), name


def test_hub_names_and_back() -> None:
    network = MoeNetwork(TINY)
    network.initialise(3)
    weights = {n: p.detach() for n, p in network.named_parameters()}
    again = from_hub(to_hub(weights, TINY), TINY)
    for name, weight in weights.items():
        assert torch.equal(again[name].view_as(weight), weight), name


def test_specialisation_of_known_loads() -> None:
    one, other = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert specialisation({"a": one, "b": other}) == [1.0, 0.0]


def test_norm_weights_are_used() -> None:
    x = torch.tensor([[3.0, 4.0]])
    wanted = torch.tensor([[3.0, 8.0]]) / 12.5**0.5
    assert torch.allclose(rms_norm(x, torch.tensor([1.0, 2.0]), 0.0), wanted)
