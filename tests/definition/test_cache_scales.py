"""FP8 keys and values: their scales are read, checked, applied where numerics ask, and never 1.0.

vllm#35656, sglang#39942: dropped at load, and nobody said so. And latent attention, whose cache
holds other numbers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.definition.test_quantised import FP8, quantised
from tests.low_precision import made, one
from tests.quantised_runs import (
    AS_STORED,
    IDS,
    params_of,
    run,
)
from tests.stored import Tensors, arrays, config_of, stored
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import read_config
from tinymoe.formats import fp8
from tinymoe.model.weights import QuantisedInput
from tinymoe.oracle.trace import forward_alone, trace

pytestmark = pytest.mark.definition

CACHE = {
    "modelopt FP8": ("k_proj.k_scale", "v_proj.v_scale"),
    "ct FP8 tensor": ("k_scale", "v_scale"),
}
SAYS: dict[str, dict[str, Any]] = {
    "modelopt FP8": {"kv_cache_quant_algo": "FP8"},
    "ct FP8 tensor": {
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    },
}


def with_cache(layout: str, scale: float = 0.01) -> tuple[Tensors, dict[str, Any]]:
    case = made(layout)
    config = dict(case.config)
    config["quantization_config"] = config["quantization_config"] | SAYS[layout]
    low = dict(case.low)
    for layer in range(2):
        for factor, name in enumerate(CACHE[layout], 1):
            shape = (1,) if layout.startswith("ct") else ()
            low[f"model.layers.{layer}.self_attn.{name}"] = one(scale * factor, shape)
    return low, config


@pytest.mark.parametrize("layout", CACHE)
def test_keys_and_values_lie_in_fp8_under_their_scales(layout: str, tmp_path: Path) -> None:
    # vllm#35656, sglang#39942: scales dropped at load, silently 1.0
    low, config = with_cache(layout)
    params = params_of(tmp_path / "a", low, config)
    got = trace(params, read_config(config), IDS, AS_STORED, patterns=["layers.*.attn.[kv]"])
    without = {n: v for n, v in low.items() if "k_scale" not in n and "v_scale" not in n}
    plain_config = made(layout).config
    raw = trace(
        params_of(tmp_path / "b", without, plain_config),
        *(read_config(plain_config), IDS, AS_STORED),
        patterns=["layers.*.attn.[kv]"],
    )
    for name, scale in (("k", 0.01), ("v", 0.02)):
        s = np.float32(scale)
        q = fp8.encode_static(
            raw[f"layers.0.attn.{name}"].reshape(len(IDS), -1),
            *(float(s),),
            convention="div32",
            source="float32",
        )
        values = got[f"layers.0.attn.{name}"]
        np.testing.assert_array_equal(values.reshape(len(IDS), -1), fp8.decode(q))
        assert (values != raw[f"layers.0.attn.{name}"]).any()
    # scales of another size are another result, and none where the cache is not quantised
    other = with_cache(layout, 0.03)[0]
    assert (run(tmp_path / "c", other, config) != run(tmp_path / "d", low, config)).any()
    np.testing.assert_array_equal(
        *(run(tmp_path / n, t, config, NUMERICS["bf16"]) for n, t in (("e", other), ("f", low)))
    )


@pytest.mark.parametrize("layout", CACHE)
def test_a_missing_cache_scale_is_refused_where_it_is_needed(layout: str, tmp_path: Path) -> None:
    low, config = with_cache(layout)
    del low[f"model.layers.1.self_attn.{CACHE[layout][1]}"]
    with pytest.raises(TinymoeError, match=r"missing.*layers.1.self_attn.v_proj.v_scale[,.]"):
        params_of(tmp_path / "a", low, config)
    params_of(tmp_path / "b", low, config, NUMERICS["bf16"])


@pytest.mark.parametrize("preset", NUMERICS)
def test_a_cache_scale_that_is_none_is_refused_in_all_numerics(preset: str, tmp_path: Path) -> None:
    low, config = with_cache("modelopt FP8")
    name = "model.layers.1.self_attn.k_proj.k_scale"
    low[name] = one(np.nan)
    with pytest.raises(TinymoeError, match=f"{name}.*above zero"):
        params_of(tmp_path, low, config, NUMERICS[preset])


@pytest.mark.parametrize(
    "said",
    [
        {"kv_cache_quant_algo": "NVFP4"},
        {"kv_cache_scheme": {"num_bits": 8, "type": "int", "strategy": "tensor"}},
        {"kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "attn_head"}},
        {"kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": True}},
    ],
)
def test_another_cache_is_not_taken_for_fp8(said: dict[str, Any], tmp_path: Path) -> None:
    case = made("modelopt FP8")
    scheme = case.config["quantization_config"] | said
    config = case.config | {"quantization_config": scheme}
    with pytest.raises(TinymoeError, match="cache is to be kept in"):
        params_of(tmp_path / "a", case.low, config)
    params_of(tmp_path / "b", case.low, config, NUMERICS["bf16"])


# ------------------------------------------------------------------------------- latent attention


def latent() -> tuple[Tensors, dict[str, Any]]:
    """DeepSeek-V3 in its own FP8."""
    low, _ = quantised(stored("deepseek_v3"))
    return low, config_of("deepseek_v3") | {"quantization_config": FP8}


def test_latent_attention_in_both_forms(tmp_path: Path) -> None:
    low, config = latent()
    card = read_config(config)
    params = params_of(tmp_path, low, config)
    assert isinstance(params.layers[0].attention.up, QuantisedInput)  # type: ignore[union-attr]
    absorbed = tuple(
        replace(a, latent=replace(a.latent, form="absorbed")) for a in card.attention if a.latent
    )
    logits = [
        forward_alone(params, form, IDS, AS_STORED)
        for form in (card, replace(card, attention=absorbed))
    ]
    assert all(np.isfinite(each).all() for each in logits)
    assert len(list(arrays(params))) > 10


def test_an_fp8_cache_of_latent_attention_is_refused(tmp_path: Path) -> None:
    low, config = latent()
    for letter in "kv":
        low[f"model.layers.0.self_attn.{letter}_scale"] = one(0.01)
    with pytest.raises(TinymoeError, match="FP8 cache of latent attention"):
        params_of(tmp_path / "a", low, config)
    params_of(tmp_path / "b", low, config, NUMERICS["bf16"])
