"""The whole model against transformers' numbers for the same checkpoint.

Everything the reference recorded is compared: a model that is right in its logits for one prompt
and wrong in a layer (sglang#32430, vllm#12002) shows in the layer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinymoe.cache import PagedCache
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, Batch, Run
from tinymoe.families import load_params, read_config
from tinymoe.model.transformer import forward
from tinymoe.tokenizer import TextStream, Tokenizer

pytestmark = pytest.mark.definition

CASE = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"
REFERENCE = load_file(CASE / "reference.safetensors")
META = json.loads((CASE / "reference.json").read_text(encoding="utf-8"))
LENGTHS = META["prompt_lengths"]

# Two correct float32 engines sum in different orders. How far that moves a logit was measured on
# the reference itself: its own attention and expert implementations differ by `noise`. A third
# engine may differ from each of them by as much in either direction, and the largest of a few
# samples underestimates the tail: 6 x the largest, and at least 1e-4 (25 float32 steps at the
# logits' standard deviation of 4), plus 1e-5 relative.
NOISE = max(META["noise_max_abs_logit_diff"].values())
ATOL, RTOL = max(1e-4, 6 * NOISE), 1e-5


class Runner:
    """One sequence through `forward`: a prompt, then token by token, with every tap kept."""

    def __init__(self, folder: Path, preset: str, positions: int) -> None:
        checkpoint = Checkpoint.open(folder)
        self.numerics = NUMERICS[preset]
        self.config = read_config(checkpoint.config)
        self.params = load_params(checkpoint, self.config, self.numerics)
        self.cache = PagedCache.for_model(self.config, self.numerics, positions)
        self.pages = np.array(self.cache.allocate(self.cache.pages))
        self.length = 0

    def __call__(self, ids: list[int]) -> dict[str, np.ndarray]:
        """Taps of the next tokens; logits of all of them."""
        start, self.length = self.length, self.length + len(ids)
        batch = Batch(
            ids=np.array(ids, np.int64),
            positions=np.arange(start, self.length),
            runs=(Run(slice(0, len(ids)), start, self.pages),),
            logit_rows=np.arange(len(ids)),
        )
        taps: dict[str, np.ndarray] = {}

        def keep(name: str, value: np.ndarray) -> None:
            taps[name] = value.copy()

        forward(self.params, self.config, batch, self.cache, self.numerics, tap=keep)
        return taps


def results(folder: Path, n: int) -> dict[str, np.ndarray]:
    """What we compute for the prompt of n tokens, under the reference's names."""
    steps = len(REFERENCE[f"p{n}.greedy_ids"])
    run = Runner(folder, "fp32", n + steps)
    ids = REFERENCE[f"p{n}.input_ids"]
    taps = run([int(i) for i in ids])
    out = {"input_ids": taps["tokens"], "logits": taps["logits"], "hidden.0": taps["embed"]}
    out["hidden.final_norm"] = taps["final_norm"]
    for layer in range(run.config.num_layers):
        out[f"hidden.{layer + 1}"] = taps[f"layers.{layer}.out"]
        out[f"router_logits.{layer}"] = taps[f"layers.{layer}.router.logits"]
        out[f"expert_ids.{layer}"] = taps[f"layers.{layer}.router.ids"]
        out[f"expert_weights.{layer}"] = taps[f"layers.{layer}.router.weights"]
    rows = [taps["logits"][-1]]
    while len(rows) < steps:
        rows.append(run([int(rows[-1].argmax())])["logits"][0])
    out["greedy_logits"] = np.stack(rows)
    out["greedy_ids"] = np.array([row.argmax() for row in rows])
    return {f"p{n}.{name}": value for name, value in out.items()}


@pytest.fixture(params=["config.json", "config.v5.json"], scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case with one of its two configs as config.json."""
    made = tmp_path_factory.mktemp("case")
    for file in CASE.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    (made / "config.json").write_bytes((CASE / request.param).read_bytes())
    return made


@pytest.fixture(scope="module")
def ours(folder: Path) -> dict[str, np.ndarray]:
    merged: dict[str, np.ndarray] = {}
    for n in LENGTHS:
        merged |= results(folder, n)
    return merged


def test_every_recorded_key_is_computed(ours: dict[str, np.ndarray]) -> None:
    # a comparison that skips what is missing passes on an empty file
    assert set(ours) == set(REFERENCE)
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in REFERENCE.items()
    }


@pytest.mark.parametrize("key", sorted(REFERENCE))
def test_agrees_with_the_reference(ours: dict[str, np.ndarray], key: str) -> None:
    got, wanted = ours[key], REFERENCE[key]
    kind = key.split(".")[1]
    if kind in ("input_ids", "greedy_ids", "expert_ids"):
        # exact, order included: the reference's smallest routing gap and greedy margin are wider
        # than what moving both candidates by the tolerance could close
        assert min(META["smallest_routing_gap"], META["smallest_greedy_margin"]) > 2 * ATOL
        np.testing.assert_array_equal(got, wanted)
    else:
        assert np.isfinite(got).all()
        error = np.abs(got.astype(np.float64) - wanted)
        assert (error <= ATOL + RTOL * np.abs(wanted)).all(), f"differs by {error.max():.2e}"


def test_results_pass_through_a_file(ours: dict[str, np.ndarray], tmp_path: Path) -> None:
    # engines are compared through files: nothing may be lost on the way
    file = tmp_path / "results.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in ours.items()}, file)
    back = load_file(file)
    assert all((back[key] == ours[key]).all() for key in ours)


def test_text_prompt_continues_as_recorded() -> None:
    # tokenizer and model together: a bos too many, or an id shifted by one, changes the text
    text, tokenizer = META["text"], Tokenizer.open(CASE)
    ids = tokenizer.encode(text["prompt"])
    assert ids == text["prompt_ids"]
    run = Runner(CASE, "fp32", len(ids) + len(text["greedy_ids"]))
    logits = run(ids)["logits"][-1]
    chosen: list[int] = []
    for _ in text["greedy_ids"]:
        chosen.append(int(logits.argmax()))
        logits = run(chosen[-1:])["logits"][0]
    assert chosen == text["greedy_ids"]
    assert tokenizer.decode(chosen) == text["decoded"]
    assert list(tokenizer.eos_ids) == text["stops_at"]
    stream = TextStream(tokenizer)
    assert "".join(map(stream.push, chosen)) + stream.finish() == text["decoded"]


@pytest.mark.parametrize("case", META["tokenizer_cases"], ids=lambda case: repr(case["text"])[:30])
def test_tokenizer_case(case: dict[str, object]) -> None:
    tokenizer = Tokenizer.open(CASE)
    assert tokenizer.encode(case["text"]) == case["ids"]
    assert tokenizer.encode(case["text"], special=False) == case["ids_no_special"]
    assert tokenizer.decode(case["ids_no_special"]) == case["decoded"]
    assert tokenizer.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]


@pytest.mark.parametrize("number", range(len(META["chat_cases"])))
def test_chat_case(number: int) -> None:
    case, tokenizer = dict(META["chat_cases"][number]), Tokenizer.open(CASE)
    rendered, ids = case.pop("rendered"), case.pop("ids")
    assert tokenizer.chat(**case) == rendered
    assert tokenizer.encode(rendered, special=False) == ids


def test_exact_is_closer_than_the_tolerance_to_fp32() -> None:
    # `exact` is the same model with every sum in float64: it differs from fp32 by fp32's own
    # rounding, which the tolerance bounds; a preset that ran another model would differ by O(1)
    ids = [int(i) for i in REFERENCE["p17.input_ids"]]
    exact = Runner(CASE, "exact", len(ids))(ids)["logits"]
    assert exact.dtype == np.float64
    assert np.abs(exact - REFERENCE["p17.logits"]).max() <= ATOL + RTOL * np.abs(exact).max()


def test_bf16_keeps_bf16_values_between_ops() -> None:
    # the preset must round where engines do: every stored activation is a BF16 value, the logits
    # and router weights are not rounded (they stay in the accumulation type)
    ids = [int(i) for i in REFERENCE["p17.input_ids"]]
    taps = Runner(CASE, "bf16", len(ids))(ids)
    for name in ("embed", "layers.0.attn.q", "layers.1.mid", "layers.2.out", "final_norm"):
        assert not (taps[name].view(np.uint32) & 0xFFFF).any(), name
    assert (taps["logits"].view(np.uint32) & 0xFFFF).any()
    assert not np.array_equal(taps["logits"], REFERENCE["p17.logits"])
    assert np.isfinite(taps["logits"]).all()
