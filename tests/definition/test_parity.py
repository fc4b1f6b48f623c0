"""The whole model against transformers' numbers for the same checkpoint, family by family.

Everything the reference recorded is compared: a model that is right in its logits for one prompt
and wrong in a layer (sglang#32430, vllm#12002) shows in the layer.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinymoe.cache import PagedCache
from tinymoe.cards import in_form
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, Batch, Run, TinymoeError
from tinymoe.families import load_params, read_config
from tinymoe.model.transformer import forward
from tinymoe.tokenizer import TextStream, Tokenizer

pytestmark = pytest.mark.definition

ROOT = Path(__file__).parents[1] / "vectors" / "parity"
CASES = sorted(folder.name for folder in ROOT.iterdir() if folder.is_dir())
STYLED = [
    (case, style)
    for case in CASES
    for style in ("config.json", "config.v5.json")
    if (ROOT / case / style).is_file()  # gpt_oss-mxfp4 has the one style
]
REFERENCES = {case: load_file(ROOT / case / "reference.safetensors") for case in CASES}
METAS: dict[str, dict[str, Any]] = {
    case: json.loads((ROOT / case / "reference.json").read_text(encoding="utf-8")) for case in CASES
}
WITH_TEXT = [case for case in CASES if "text" in METAS[case]]
KEYS = [(case, key) for case in CASES for key in sorted(REFERENCES[case])]
STYLED_KEYS = [(case, key, style) for case, style in STYLED for key in sorted(REFERENCES[case])]


def tolerance(case: str) -> tuple[float, float]:
    """(absolute, relative).

    Two correct float32 engines sum in different orders. How far that moves a logit was measured
    on the reference itself: its own attention and expert implementations differ by `noise`. A
    third engine may differ from each of them by as much in either direction, and the largest of
    a few samples underestimates the tail: 6 x the largest, and at least 200 float32 steps at the
    logits' standard deviation (1e-4 at 4), plus 1e-5 relative.
    """
    step = float(np.spacing(np.float32(METAS[case]["logits_std"])))
    return max(200 * step, 6 * noise(case)), 1e-5


def noise(case: str) -> float:
    """The most by which two of the reference's own implementations differ in a logit."""
    measured = METAS[case]["noise_max_abs_logit_diff"].values()
    return max(n for n in measured if isinstance(n, float))  # text where it has no such form


Form = Literal["expanded", "absorbed"]


class Runner:
    """One sequence through `forward`: a prompt, then token by token, with every tap kept."""

    def __init__(
        self,
        case: str,
        preset: str,
        positions: int,
        style: str = "config.json",
        form: Form | None = None,
    ) -> None:
        config = read_config(json.loads((ROOT / case / style).read_text(encoding="utf-8")))
        self.config = config if form is None else in_form(config, form)
        self.numerics = NUMERICS[preset]
        self.params = load_params(Checkpoint.open(ROOT / case), self.config, self.numerics)
        self.cache = PagedCache.for_model(
            self.config, self.numerics, positions, sequences=1, batch_tokens=positions
        )
        self.pages = self.cache.take(positions)
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


@cache
def results(case: str, style: str, form: Form | None = None) -> dict[str, np.ndarray]:
    """What we compute for every prompt, under the reference's names."""
    merged: dict[str, np.ndarray] = {}
    for n in METAS[case]["prompt_lengths"]:
        merged |= results_of(case, style, form, n)
    return merged


def results_of(case: str, style: str, form: Form | None, n: int) -> dict[str, np.ndarray]:
    reference = REFERENCES[case]
    steps = len(reference.get(f"p{n}.greedy_ids", ()))
    run = Runner(case, "fp32", n + steps, style, form)
    taps = run([int(i) for i in reference[f"p{n}.input_ids"]])
    out = {"input_ids": taps["tokens"], "logits": taps["logits"], "hidden.0": taps["embed"]}
    out["hidden.final_norm"] = taps["final_norm"]
    for layer, kind in enumerate(run.config.layers):
        out[f"hidden.{layer + 1}"] = taps[f"layers.{layer}.out"]
        if kind == "moe":
            out[f"router_logits.{layer}"] = taps[f"layers.{layer}.router.logits"]
            out[f"expert_ids.{layer}"] = taps[f"layers.{layer}.router.ids"]
            out[f"expert_weights.{layer}"] = taps[f"layers.{layer}.router.weights"]
    if steps:
        rows = [taps["logits"][-1]]
        while len(rows) < steps:
            rows.append(run([int(rows[-1].argmax())])["logits"][0])
        out["greedy_logits"] = np.stack(rows)
        out["greedy_ids"] = np.array([row.argmax() for row in rows])
    return {f"p{n}.{name}": value for name, value in out.items()}


def check(case: str, key: str, got: np.ndarray) -> None:
    """One recorded array; whole numbers exactly, order included."""
    wanted, (atol, rtol) = REFERENCES[case][key], tolerance(case)
    if key.split(".")[1] in ("input_ids", "greedy_ids", "expert_ids"):
        # the reference's smallest routing gap and greedy margin are wider than what moving both
        # candidates by the noise could close
        meta = METAS[case]
        gaps = (meta["smallest_routing_gap"], meta.get("smallest_greedy_margin", np.inf))
        assert min(gaps) > 2 * noise(case)
        np.testing.assert_array_equal(got, wanted)
        return
    assert np.isfinite(got).all()
    error = np.abs(got.astype(np.float64) - wanted)
    assert (error <= atol + rtol * np.abs(wanted)).all(), f"differs by {error.max():.2e}"


@pytest.mark.parametrize(("case", "style"), STYLED)
def test_every_recorded_key_is_computed(case: str, style: str) -> None:
    # a comparison that skips what is missing passes on an empty file
    ours, reference = results(case, style), REFERENCES[case]
    assert len(reference) >= 16
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in reference.items()}


@pytest.mark.parametrize(
    ("case", "key", "style"), STYLED_KEYS, ids=["-".join(k) for k in STYLED_KEYS]
)
def test_agrees_with_the_reference(case: str, key: str, style: str) -> None:
    check(case, key, results(case, style)[key])


LATENT = [(case, key) for case, key in KEYS if case.startswith("deepseek")]


@pytest.mark.parametrize(("case", "key"), LATENT, ids=[f"{case}-{key}" for case, key in LATENT])
def test_absorbed_latent_attention_agrees_too(case: str, key: str) -> None:
    # the same function in another order of sums, with a cache of one short key for all heads
    check(case, key, results(case, "config.json", "absorbed")[key])


@pytest.mark.parametrize("case", CASES)
def test_a_prompt_may_be_cut_anywhere(case: str) -> None:
    # vllm#26042 (latent attention, chunked prefill), windows and chunks that forget the pieces
    # before: same bits, whether it came whole, in pieces or token by token
    n = max(METAS[case]["prompt_lengths"])
    ids = [int(i) for i in REFERENCES[case][f"p{n}.input_ids"]]
    latent = case.startswith("deepseek")
    forms: list[Form | None] = ["expanded", "absorbed"] if latent else [None]
    for form in forms:
        whole = Runner(case, "bf16", n, form=form)(ids)["logits"]
        for sizes in ([1] * n, [n // 2, 1, n - n // 2 - 1], [5, n - 5]):
            run, start, rows = Runner(case, "bf16", n, form=form), 0, []
            for size in sizes:
                rows.append(run(ids[start : start + size])["logits"])
                start += size
            np.testing.assert_array_equal(np.concatenate(rows), whole)


@pytest.mark.parametrize("case", CASES)
def test_results_pass_through_a_file(case: str, tmp_path: Path) -> None:
    # engines are compared through files: nothing may be lost on the way
    ours, file = results(case, "config.json"), tmp_path / "results.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in ours.items()}, file)
    back = load_file(file)
    assert all((back[key] == ours[key]).all() for key in ours)


@pytest.mark.parametrize("case", WITH_TEXT)
def test_text_prompt_continues_as_recorded(case: str) -> None:
    # tokenizer and model together: a bos too many, or an id shifted by one, changes the text
    text, tokenizer = METAS[case]["text"], Tokenizer.open(ROOT / case)
    ids = tokenizer.encode(text["prompt"])
    assert ids == text["prompt_ids"]
    run = Runner(case, "fp32", len(ids) + len(text["greedy_ids"]))
    logits = run(ids)["logits"][-1]
    chosen: list[int] = []
    for _ in text["greedy_ids"]:
        chosen.append(int(logits.argmax()))
        logits = run(chosen[-1:])["logits"][0]
    assert chosen == text["greedy_ids"]
    assert tokenizer.decode(chosen, skip_special=True) == text["decoded"]
    assert list(tokenizer.eos_ids) == text["stops_at"]
    stream = TextStream(tokenizer)
    assert "".join(map(stream.push, chosen)) + stream.finish() == text["decoded"]


# transformers 5.23 ignores `add_bos_token` where tokenizer.json has no template for it; the text
# prompt above, which the reference's author made, begins with it
IGNORED_BOS = {"deepseek_v3": [0]}


@pytest.mark.parametrize("name", WITH_TEXT)
def test_tokenizer_cases(name: str) -> None:
    tokenizer = Tokenizer.open(ROOT / name)
    assert len(METAS[name]["tokenizer_cases"]) == 30
    for case in METAS[name]["tokenizer_cases"]:
        assert tokenizer.encode(case["text"]) == IGNORED_BOS.get(name, []) + case["ids"]
        assert tokenizer.encode(case["text"], special=False) == case["ids_no_special"]
        assert tokenizer.decode(case["ids_no_special"]) == case["decoded"]
        assert tokenizer.decode(case["ids"], skip_special=True) == case["decoded_skip_special"]


@pytest.mark.parametrize("name", [case for case in WITH_TEXT if METAS[case]["chat_cases"]])
def test_chat_cases(name: str) -> None:
    tokenizer = Tokenizer.open(ROOT / name)
    for recorded in METAS[name]["chat_cases"]:
        case = dict(recorded)
        if case.pop("error", None):  # the template raises: roles that do not alternate
            with pytest.raises(TinymoeError, match="must alternate"):
                tokenizer.chat(**case)
            continue
        rendered, ids = case.pop("rendered"), case.pop("ids")
        assert tokenizer.chat(**case) == rendered
        assert tokenizer.encode(rendered, special=False) == ids


@pytest.mark.parametrize("case", CASES)
def test_exact_is_closer_than_the_tolerance_to_fp32(case: str) -> None:
    # `exact` is the same model with every sum in float64: it differs from fp32 by fp32's own
    # rounding, which the tolerance bounds; a preset that ran another model would differ by O(1)
    ids, (atol, rtol) = [int(i) for i in REFERENCES[case]["p17.input_ids"]], tolerance(case)
    exact = Runner(case, "exact", len(ids))(ids)["logits"]
    assert exact.dtype == np.float64
    difference = np.abs(exact - REFERENCES[case]["p17.logits"])
    assert difference.max() <= atol + rtol * np.abs(exact).max()


@pytest.mark.parametrize("case", CASES)
def test_bf16_keeps_bf16_values_between_ops(case: str) -> None:
    # the preset must round where engines do: every stored activation is a BF16 value, the logits
    # and router weights are not rounded (they stay in the accumulation type)
    ids = [int(i) for i in REFERENCES[case]["p17.input_ids"]]
    taps = Runner(case, "bf16", len(ids))(ids)
    names = ["embed", "final_norm"]
    for layer in range(METAS[case].get("layers", 2)):
        names += [f"layers.{layer}.{part}" for part in ("attn.q", "attn.mix", "mid", "out")]
    for name in names:
        assert not (taps[name].view(np.uint32) & 0xFFFF).any(), name
    assert (taps["logits"].view(np.uint32) & 0xFFFF).any()
    assert not np.array_equal(taps["logits"], REFERENCES[case]["p17.logits"])
    assert np.isfinite(taps["logits"]).all()
