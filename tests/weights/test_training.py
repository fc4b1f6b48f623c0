"""The trainer: a killed run goes on, Muon's matrices are orthogonal, the export is the model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (extra `train`)")

from torch import Tensor  # noqa: E402

from weights.recipe.corpus import write_atomically  # noqa: E402
from weights.recipe.evaluate import load_network, report, specialisation  # noqa: E402
from weights.recipe.export import export, from_hub, to_hub  # noqa: E402
from weights.recipe.network import MoeNetwork, rms_norm, rotary_tables, rotate  # noqa: E402
from weights.recipe.optimiser import NEWTON_SCHULZ, STEPS, orthogonalise  # noqa: E402
from weights.recipe.shape import Shape, hub_config  # noqa: E402

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]
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
BUDGET = 60 * 2 * 4 * 16  # steps, processes, rows, context


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains: one counts upwards, the other draws at random."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        for domain, ids in {
            "stories": np.arange(3000) % 50,
            "code": random.integers(0, 64, 2000),
        }.items():
            write_atomically(folder / f"{domain}.{split}.u16", ids.astype(np.uint16).tobytes())
    return folder


def start(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    shape = data / "config.json"
    shape.write_text(json.dumps(hub_config(TINY)))
    command = [
        sys.executable,
        "-m",
        "weights.recipe.train",
        "--data",
        str(data),
        "--out",
        str(out),
        "--shape",
        str(shape),
        "--no-compile",
        "--rows",
        "4",
        "--context",
        "16",
        "--warmup-steps",
        "5",
        "--tokens",
        str(BUDGET),
        "--checkpoint-minutes",
        "0.001",
        "--evaluate-minutes",
        "60",
        *more,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    return output


def log(out: Path) -> list[dict[str, float]]:
    path = out / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(out: Path) -> list[dict[str, float]]:
    return [entry for entry in log(out) if "loss" in entry]


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    limit = time.monotonic() + 300
    while time.monotonic() < limit:
        if process.poll() is not None:
            pytest.fail(f"ended before step {step}: {finish(process)}")
        if (out / "checkpoint.pt").exists() and len(steps(out)) >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} never came")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    process = start(data, out)
    output = finish(process)
    assert process.returncode == 0, output
    return out


def test_a_run_learns_what_can_be_learnt(whole: Path) -> None:
    first, last = steps(whole)[0], steps(whole)[-1]
    assert last["tokens"] == BUDGET
    assert last["loss"] < 0.75 * first["loss"]
    assert last["context"] == 32
    assert last["speed"] < 0.1


def test_a_killed_run_goes_on_to_the_same_end(data: Path, whole: Path, tmp_path: Path) -> None:
    killed = start(data, tmp_path)
    wait_for_step(killed, tmp_path, 12)
    killed.send_signal(signal.SIGKILL)
    finish(killed)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]
    assert 0 < saved["tokens"] < BUDGET
    refused = start(data, tmp_path)
    assert "--resume" in finish(refused)
    assert refused.returncode not in (0, 3)

    resumed = start(data, tmp_path, "--resume")
    wait_for_step(resumed, tmp_path, saved["updates"] + 3)
    resumed.send_signal(signal.SIGTERM)
    output = finish(resumed)
    assert resumed.returncode == 3, output
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["tokens"] > 0
    last = start(data, tmp_path, "--resume")
    output = finish(last)
    assert last.returncode == 0, output

    assert [e["step"] for e in steps(tmp_path)] == list(range(1, len(steps(whole)) + 1))
    ours = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other = torch.load(whole / "checkpoint.pt", weights_only=True)
    assert ours["progress"]["sampler"] == other["progress"]["sampler"]
    assert ours["progress"]["tokens"] == other["progress"]["tokens"] == BUDGET
    # One thread a process, and the same batches: not even rounding may differ.
    for name, weight in other["weights"].items():
        assert torch.equal(ours["weights"][name], weight), name


def test_weights_alone_start_a_run(data: Path, whole: Path, tmp_path: Path) -> None:
    export(whole / "checkpoint.pt", None, tmp_path / "model")
    (tmp_path / "run").mkdir()
    process = start(
        data,
        tmp_path / "run",
        "--weights",
        str(tmp_path / "model" / "model.safetensors"),
        "--processes",
        "1",
        "--tokens",
        "640",
    )
    output = finish(process)
    assert process.returncode == 0, output
    # Below the loss of equal chances: the run began with what the other had learnt.
    assert steps(tmp_path / "run")[0]["loss"] < 0.9 * np.log(TINY.vocab)


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


@pytest.mark.filterwarnings("default")
def test_the_export_is_the_same_model_in_transformers(whole: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    export(whole / "checkpoint.pt", None, tmp_path)
    theirs = transformers.Qwen3MoeForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = load_network(tmp_path, torch.float32)
    tokens = torch.randint(0, 64, (2, 200), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (theirs(tokens).logits - ours.logits(tokens)).abs().max()
    assert difference < 1e-4


def test_evaluation_compares_domains(whole: Path, data: Path) -> None:
    from weights.recipe.evaluate import load_windows

    network = load_network(whole / "checkpoint.pt", torch.float32)
    result = report(network, load_windows(data, "valid", 16, 10), rows=8)
    assert result["loss"]["stories"] < result["loss"]["code"]
    assert len(result["window_losses"]["code"]) == 10
    assert len(result["specialisation"]) == TINY.layers
    for loads in result["expert_loads"].values():
        assert np.allclose(np.sum(loads, axis=1), 1.0, atol=1e-4)


def test_specialisation_of_known_loads() -> None:
    one, other = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert specialisation({"a": one, "b": other}) == [1.0, 0.0]


def test_norm_weights_are_used() -> None:
    x = torch.tensor([[3.0, 4.0]])
    wanted = torch.tensor([[3.0, 8.0]]) / 12.5**0.5
    assert torch.allclose(rms_norm(x, torch.tensor([1.0, 2.0]), 0.0), wanted)
