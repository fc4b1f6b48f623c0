"""Another implementation, captured: right it passes, and with one line broken its bug is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymoe.api import Model, load
from tinymoe.core import NUMERICS
from tinymoe.oracle.diagnose import diagnose
from tinymoe.oracle.diagnose.told import verdict
from tinymoe.oracle.dumps.capture import capture

torch = pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("transformers", reason="needs the extra `train`")
modeling = pytest.importorskip("transformers.models.qwen3_moe.modeling_qwen3_moe")

pytestmark = pytest.mark.train

WEIGHTS = Path(__file__).parents[2] / "weights"
IDS = (413, 77, 902, 1500, 31, 256, 8, 3000, 77, 902, 12, 640)
FP32 = NUMERICS["fp32"]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(WEIGHTS, numerics=FP32)


@pytest.fixture
def network() -> Any:
    made = modeling.Qwen3MoeForCausalLM.from_pretrained(
        WEIGHTS, dtype=torch.float32, attn_implementation="eager"
    )
    return made.eval()


def no_renorm(network: Any, patch: pytest.MonkeyPatch) -> None:
    for layer in network.model.layers:
        router = getattr(layer.mlp, "gate", layer.mlp)
        place = router if hasattr(router, "norm_topk_prob") else layer.mlp
        patch.setattr(place, "norm_topk_prob", False)


def rotate_backwards(network: Any, patch: pytest.MonkeyPatch) -> None:
    right = modeling.rotate_half
    patch.setattr(modeling, "rotate_half", lambda x: -right(x))


def swap_gate_up(network: Any, patch: pytest.MonkeyPatch) -> None:
    for layer in network.model.layers:
        experts = layer.mlp.experts
        if hasattr(experts, "gate_up_proj"):
            fused = experts.gate_up_proj.data  # (E, 2I, H)
            experts.gate_up_proj.data = torch.roll(fused, fused.shape[1] // 2, dims=1)
        else:
            for expert in experts:
                expert.gate_proj, expert.up_proj = expert.up_proj, expert.gate_proj


BROKEN: dict[str, Callable[[Any, pytest.MonkeyPatch], None]] = {
    "router.renorm-inverted": no_renorm,
    "rope.backwards": rotate_backwards,
    "experts.gate-up-swapped": swap_gate_up,
}


def test_it_passes(model: Model, network: Any) -> None:
    found = diagnose(model.params, model.config, capture(network, IDS), FP32)
    assert found.agrees, verdict(found)
    names = {tensor.name for tensor in found.report.tensors}
    assert {"layers.7.router.ids", "layers.7.attn.q", "layers.7.moe.out", "logits"} <= names


@pytest.mark.parametrize("name", BROKEN)
def test_its_bug_is_named(
    name: str, model: Model, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    BROKEN[name](network, monkeypatch)
    found = diagnose(model.params, model.config, capture(network, IDS), FP32)
    assert found.named is not None, verdict(found)
    assert found.named.name == name, verdict(found)
    assert not found.alike
    assert np.isfinite(found.named.error)
