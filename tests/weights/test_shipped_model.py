"""The model in `weights/`: exact text, exact routing, and the losses its card claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymoe
from tinymoe.api import Model
from tinymoe.core import Array
from weights.recipe.card import between, distance_line, loss_table
from weights.recipe.splits import TEST_SPLITS, text_windows

pytestmark = pytest.mark.definition
WEIGHTS = Path(__file__).parents[2] / "weights"
PINNED: dict[str, Any] = json.loads((WEIGHTS / "pinned.json").read_text())
EVALUATION: dict[str, Any] = json.loads((WEIGHTS / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def model() -> Model:
    return tinymoe.load()


def test_the_pins_belong_to_this_model_file(model: Model) -> None:
    assert model.checkpoint.hash() == PINNED["model_sha256"]


def test_greedy_text_is_that_of_transformers(model: Model) -> None:
    # 64 tokens on 5 prompts, recorded from another implementation; all five in one batch here.
    # A token may differ only where both implementations' logits are further apart than the gap:
    # the recorded gaps are far above the 1e-4 that float32 makes, so every token is compared.
    entries = PINNED["greedy"]
    assert min(entry["smallest_gap"] for entry in entries) > 2e-4
    greedy = model.default_sampling(temperature=0.0, max_tokens=64, ignore_eos=True)
    ids: list[list[int]] = [[] for _ in entries]
    prompts = [entry["prompt"] for entry in entries]
    for number, token in model.generate_many(prompts, [greedy] * len(entries)):
        ids[number].append(token.id)
    assert ids == [entry["ids"] for entry in entries]
    assert [model.tokenizer.decode(row) for row in ids] == [entry["text"] for entry in entries]


def test_routing_is_as_recorded(model: Model) -> None:
    # float32 moves a score by about 1e-6; no token of this text is that close to a tie
    assert PINNED["routing"]["smallest_margin"] > 2e-5
    taps = model.trace(model.encode(PINNED["routing"]["text"]), ["layers.*.router.ids"])
    for layer, recorded in enumerate(PINNED["routing"]["ids"]):
        ids = taps[f"layers.{layer}.router.ids"]
        assert np.array_equal(np.sort(ids), np.sort(recorded)), f"layer {layer}"


def window_losses(model: Model, windows: Array) -> list[float]:
    """Mean negative log-likelihood of each window (n, context + 1), nats per token."""
    losses = []
    for window in windows:
        logits = model(window[:-1].tolist()).astype(np.float64)  # (context, V)
        top = logits.max(axis=-1, keepdims=True)
        norm = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1))
        losses.append(float(np.mean(norm - logits[np.arange(len(window) - 1), window[1:]])))
    return losses


@pytest.mark.parametrize("domain", EVALUATION["loss"])
def test_the_card_s_losses_are_this_model_s(model: Model, domain: str) -> None:
    # The recorded losses are torch's in float32. Logits within 1e-4 (checked against
    # transformers) move a token's loss by at most 2e-4, and so their mean.
    count, context = EVALUATION["windows"][domain], EVALUATION["context"]
    windows = text_windows(TEST_SPLITS, WEIGHTS / "tokenizer.json", context, count, (domain,))
    first = window_losses(model, windows[domain][:1])
    assert abs(first[0] - EVALUATION["window_losses"][domain][0]) <= 2e-4


def test_experts_specialise(model: Model) -> None:
    """Three kinds of text of 256 tokens each; a collapsed or domain-blind router is near 0."""
    domains, count = ("stories", "code", "arithmetic"), model.config.router.experts
    context = EVALUATION["context"]
    windows = text_windows(TEST_SPLITS, WEIGHTS / "tokenizer.json", context, 1, domains)
    last = f"layers.{model.config.num_layers - 1}.router.ids"
    loads = {}
    for domain in domains:
        ids = model.trace(windows[domain][0][:-1].tolist(), [last])[last]  # (context, K)
        loads[domain] = np.bincount(ids.ravel(), minlength=count) / ids.size
        # One window of many: the domain's recorded load is nearer than another domain's.
        recorded = {
            d: np.abs(loads[domain] - EVALUATION["expert_loads"][d][-1]).sum() for d in domains
        }
        assert min(recorded, key=recorded.__getitem__) == domain
    pairs = [(a, b) for a in domains for b in domains if a < b]
    distances = [np.abs(loads[a] - loads[b]).sum() / 2 for a, b in pairs]
    assert min(distances) > 0.3
    assert EVALUATION["specialisation"][-1] > 0.3


def test_loads_in_transformers_with_the_same_logits(model: Model) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `train`")
    network, report = transformers.Qwen3MoeForCausalLM.from_pretrained(
        WEIGHTS, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys"))
    ids = model.encode(PINNED["routing"]["text"])
    with torch.no_grad():
        theirs = network.eval()(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(model(ids) - theirs).max() <= 1e-4  # the bound the model card states


def test_the_card_shows_the_recorded_losses() -> None:
    card = (WEIGHTS / "README.md").read_text()
    assert between(card, "loss table") == loss_table(EVALUATION)
    assert between(card, "distances") == distance_line(EVALUATION)
