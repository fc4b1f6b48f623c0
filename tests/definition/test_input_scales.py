"""Static input scales: each reaches its own products, and none is guessed.

Of matrices that share their input the loudest calibration counts; of experts each has its own,
unless numerics say otherwise (vllm#26135; sglang#21602, #23531).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.low_precision import INPUT, LAYOUTS, made, one
from tests.quantised_runs import (
    AS_STORED,
    STATIC,
    activations,
    params_of,
    run,
)
from tinymoe.cards import PLAIN_SWIGLU
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.formats import bf16
from tinymoe.formats.inputs import fake_quantise
from tinymoe.model.experts import expert_ffn, permute
from tinymoe.model.precision import linear
from tinymoe.model.weights import plain

pytestmark = pytest.mark.definition


@pytest.mark.parametrize("layout", STATIC)
@pytest.mark.parametrize(
    "module",
    ["self_attn.q_proj", "self_attn.o_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj"],
)
def test_each_input_scale_reaches_the_result(layout: str, module: str, tmp_path: Path) -> None:
    # flashinfer#3423: taken, and never used. Louder than its group's others, so that it counts;
    # a power of two would only move the exponent of every block's own scale
    case = made(layout)
    before = run(tmp_path / "a", case.low, case.config)
    low, louder = dict(case.low), np.float32(0.2 if "global" in STATIC[layout] else 5)
    for expert in range(4 if "{}" in module else 1):
        name = f"model.layers.1.{module.format(expert)}{STATIC[layout]}"
        kind, bits = low[name]
        if kind == "BF16":
            low[name] = (kind, bf16.encode(bf16.decode(bits) * louder))
        else:
            low[name] = (kind, np.asarray(bits * louder, np.float32))
    assert (run(tmp_path / "b", low, case.config) != before).any()
    # and where inputs are not quantised, it changes nothing
    fp32 = NUMERICS["fp32"]
    np.testing.assert_array_equal(
        run(tmp_path / "c", low, case.config, fp32),
        run(tmp_path / "d", case.low, case.config, fp32),
    )


@pytest.mark.parametrize(("layout", "choice"), [("modelopt NVFP4", max), ("ct NVFP4", min)])
def test_fused_matrices_share_the_loudest_calibration(
    layout: str, choice: Any, tmp_path: Path
) -> None:
    case = made(layout)
    scales = {m: float(s.tensors[STATIC[layout]][1].item()) for m, s in case.modules.items()}
    params = params_of(tmp_path / "a", case.low, case.config)
    name = "model.layers.1"
    qkv = [scales[f"{name}.self_attn.{letter}_proj"] for letter in "qkv"]
    got = params.layers[1].attention.qkv.inputs  # type: ignore[union-attr]
    assert [form.scale for form in got] == [choice(qkv)]
    pairs = [
        choice(scales[f"{name}.mlp.experts.{e}.{part}_proj"] for part in ("gate", "up"))
        for e in range(4)
    ]
    downs = [scales[f"{name}.mlp.experts.{e}.down_proj"] for e in range(4)]
    assert [form.scale for form in params.layers[1].ffn.gate_up.inputs] == pairs
    assert [form.scale for form in params.layers[1].ffn.down.inputs] == downs
    # or one for all experts of a layer, as engines that quantise a token once have it
    largest = replace(AS_STORED, expert_inputs="largest")
    params = params_of(tmp_path / "b", case.low, case.config, largest)
    assert [form.scale for form in params.layers[1].ffn.gate_up.inputs] == [choice(pairs)]
    assert [form.scale for form in params.layers[1].ffn.down.inputs] == [choice(downs)]


def test_every_expert_meets_its_own_scale(tmp_path: Path) -> None:
    # vllm#26135, sglang#21602: another expert's, or one of a slice
    case = made("modelopt NVFP4")
    params = params_of(tmp_path, case.low, case.config)
    gate_up, down = params.layers[0].ffn.gate_up, params.layers[0].ffn.down
    x, ids = activations(6, 96), np.array([[0, 2], [1, 3], [2, 0], [3, 1], [0, 1], [2, 3]])
    order, offsets = permute(ids, 4)
    rows = x[order // 2]
    got = expert_ffn(rows, gate_up, down, offsets, AS_STORED, card=PLAIN_SWIGLU)
    for expert, (a, b) in enumerate(pairwise(offsets)):
        # input and intermediate quantised by hand, then plain products: the same bits
        first = fake_quantise(rows[a:b], gate_up.inputs[expert])
        both = linear(first, plain(gate_up)[expert], AS_STORED)
        hidden = both[:, :32] / (1 + np.exp(-both[:, :32])) * both[:, 32:]
        hidden = fake_quantise(bf16.round_to_bf16(hidden), down.inputs[expert])
        wanted = linear(hidden, plain(down)[expert], AS_STORED)
        np.testing.assert_array_equal(got[a:b], wanted)
    # the intermediate left alone is another result
    once = expert_ffn(rows, gate_up, plain(down), offsets, AS_STORED, card=PLAIN_SWIGLU)
    assert (once != got).mean() > 0.5


@pytest.mark.parametrize("layout", STATIC)
def test_a_missing_input_scale_is_refused_where_it_is_needed(layout: str, tmp_path: Path) -> None:
    # vllm#35656: never 1 in its place
    case = made(layout)
    name = f"model.layers.1.mlp.experts.2.down_proj{STATIC[layout]}"
    del case.low[name]
    with pytest.raises(TinymoeError, match=f"missing.*{name}[,.]"):
        params_of(tmp_path / "a", case.low, case.config)
    params_of(tmp_path / "b", case.low, case.config, NUMERICS["bf16"])


@pytest.mark.parametrize("layout", STATIC)
@pytest.mark.parametrize("value", [np.nan, 0, -1, np.inf])
def test_an_input_scale_that_is_none_is_refused(layout: str, value: float, tmp_path: Path) -> None:
    case = made(layout)
    name = f"model.layers.0.self_attn.v_proj{STATIC[layout]}"
    kind, bits = case.low[name]
    low = case.low | {name: one(value, bits.shape, kind)}
    with pytest.raises(TinymoeError, match=f"{name}.*above zero"):
        params_of(tmp_path, low, case.config)


def test_an_input_scale_of_the_other_convention_is_refused(tmp_path: Path) -> None:
    # modular#6600: a calibration up to 10.8 read the wrong way round is one up to 670,000
    case = made("ct NVFP4")
    name = "model.layers.0.self_attn.v_proj.input_global_scale"
    with pytest.raises(TinymoeError, match=f"{name}.*read as a divisor.*other convention"):
        params_of(tmp_path, case.low | {name: one(INPUT, (1,))}, case.config)


def test_a_matrix_of_both_kinds_is_refused(tmp_path: Path) -> None:
    case = made("modelopt NVFP4")
    name = "model.layers.0.self_attn.k_proj"
    low = {n: v for n, v in case.low.items() if not n.startswith(name)}
    low[f"{name}.weight"] = case.plain[f"{name}.weight"]
    with pytest.raises(TinymoeError, match=f"some are not: not {name}.weight"):
        params_of(tmp_path / "a", low, case.config)
    params_of(tmp_path / "b", low, case.config, NUMERICS["bf16"])


def test_a_router_with_quantised_inputs_is_refused(tmp_path: Path) -> None:
    # nothing is left unquantised unsaid: routing is no product that is emulated
    case = made("DeepSeek FP8")
    name = "model.layers.0.mlp.gate.weight"
    stored = LAYOUTS["DeepSeek FP8"][1](case.low[name][1], 1)
    low = {n: v for n, v in case.low.items() if n != name}
    low |= {name.removesuffix(".weight") + end: v for end, v in stored.tensors.items()}
    with pytest.raises(TinymoeError, match=f"inputs of {name} are quantised"):
        params_of(tmp_path / "a", low, case.config)
    params_of(tmp_path / "b", low, case.config, NUMERICS["bf16"])
