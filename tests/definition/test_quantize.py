"""Quantising a folder: whole or not at all, and refused where the result would not load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantising import IDS, MODULE, bits, made, quantised
from tests.stored import ROOT, Tensors, write
from tinymoe.api import load as load_model
from tinymoe.api import shipped_model
from tinymoe.checkpoint import INDEX, Checkpoint
from tinymoe.core import TinymoeError
from tinymoe.oracle.lint import lint
from tinymoe.quantize import run
from tinymoe.quantize.headers import quantization_config
from tinymoe.quantize.layouts import LAYOUTS
from tinymoe.quantize.run import Settings, quantize
from tinymoe.safetensors_file import SafetensorsFile
from tinymoe.safetensors_writer import SafetensorsWriter, Spec

pytestmark = pytest.mark.definition


def test_shards_and_their_index(tmp_path: Path) -> None:
    _, whole = quantised(tmp_path)
    many = tmp_path / "many"
    quantize(tmp_path / "before", many, Settings(calibration=IDS, shard_bytes=100_000))
    index = json.loads((many / INDEX).read_text())
    opened = Checkpoint.open(many)
    assert len(opened.files) == len(set(index["weight_map"].values())) > 2
    assert opened.names() == whole.names()
    assert index["metadata"]["total_size"] == sum(opened.entry(n).nbytes for n in opened.names())
    for name in whole.names():
        np.testing.assert_array_equal(opened.raw(name), whole.raw(name))


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "before", "qwen3_moe")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("dear to someone")

    def stop(what: str, part: float) -> None:
        if part > 0.5 and what != "calibrating":
            raise KeyboardInterrupt

    for out in ("new", "there"):
        settings = Settings(calibration=IDS, force=True)
        with pytest.raises(KeyboardInterrupt):
            quantize(tmp_path / "before", tmp_path / out, settings, stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "there"]
    assert (tmp_path / "there" / "config.json").read_text() == "dear to someone"
    quantize(tmp_path / "before", tmp_path / "there", Settings(calibration=IDS, force=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "there"]
    assert Checkpoint.open(tmp_path / "there").names()


def test_a_group_of_zeros_reads_as_zeros(tmp_path: Path) -> None:
    # ModelOpt and torchao write NaN scales for such a tensor
    before = made(tmp_path / "made", "qwen3_moe")
    tensors = Tensors({name: bits(before, name) for name in before.names()})
    dead = "model.layers.1.mlp.experts.2.{}_proj.weight"
    for part in ("gate", "up"):
        dtype, values = tensors[dead.format(part)]
        tensors[dead.format(part)] = (dtype, np.zeros_like(values))
    write(tmp_path / "before", tensors, before.config)
    for number, by in enumerate(("modelopt", "compressed-tensors")):
        out = tmp_path / str(number)
        report = quantize(tmp_path / "before", out, Settings(convention=by, weights_only=True))
        moe = load_model(out).params.layers[1].ffn
        assert not moe.gate_up[2].any()  # type: ignore[union-attr]
        assert np.isfinite(report["worst"]["l2"])


def test_the_shipped_model_in_four_bits_still_knows_what_it_knew(tmp_path: Path) -> None:
    report = quantize(shipped_model(), tmp_path / "out", Settings())
    assert report["calibration"]["experts_not_reached"] == 0  # what the text in the package is for
    assert lint(tmp_path / "out").findings == ()
    before, after = load_model(), load_model(tmp_path / "out")
    ids = before.encode(run.CALIBRATION_TEXT)[:128]
    losses = []
    for model in (before, after):
        logits = model(ids).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses.append(-log_probabilities[np.arange(127), ids[1:]].mean())
    # a scale taken the wrong way leaves a loss of log V or more; four bits cost a few percent of
    # what the model is better than that
    nothing = np.log(before.config.vocab_size)
    assert losses[1] - losses[0] < (nothing - losses[0]) / 10


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"format": "int4"}, "nvfp4, mxfp4 or fp8"),
        ({"convention": "deepseek"}, "modelopt .block., compressed-tensors .block."),
        ({"format": "fp8", "scales": "row"}, "deepseek .block."),
        ({"format": "mxfp4", "convention": "gpt-oss"}, "family gpt_oss"),
        ({"format": "fp8", "weights_only": True}, "--weights-only is for"),
        ({"format": "fp8", "calibration": [5]}, "nothing to calibrate"),
        ({"format": "mxfp4", "separate_scales": True}, "shares no scales"),
        ({"keep": ["*.layer.0.*"], "weights_only": True}, "no module's name matches"),
        ({"keep": ["*.q_proj"], "weights_only": True}, "as one matrix"),
        ({"calibration": []}, "empty"),
        ({}, "no tokenizer.json"),
        ({"calibration": [10**6]}, "token ids"),
        ({"shard_bytes": 0}, "at least 1"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    made(tmp_path / "before", "qwen3_moe")
    with pytest.raises(TinymoeError, match=says):
        quantize(tmp_path / "before", tmp_path / "after", Settings(**settings))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before"]


def test_rows_that_do_not_divide_are_named(tmp_path: Path) -> None:
    # the vectors' own Qwen3 has experts 24 wide: no engine loads such rows in blocks of 16
    with pytest.raises(TinymoeError, match=r"divide by 16: .*down_proj \(24\).*--keep"):
        quantize(ROOT / "qwen3_moe", tmp_path / "after", Settings())
    keep = ["*.down_proj"]
    report = quantize(ROOT / "qwen3_moe", tmp_path / "after", Settings(keep=keep))
    assert "model.layers.0.mlp.experts.0.down_proj" in report["kept"]
    assert report["bytes_after"] < report["bytes_before"]


def test_stacks_without_a_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TinymoeError, match="stored as one stack: .*input_linear"):
        quantize(ROOT / "granitemoe", tmp_path / "after", Settings(weights_only=True))


def test_a_quantised_model_is_refused(tmp_path: Path) -> None:
    quantised(tmp_path)
    with pytest.raises(TinymoeError, match="quantised already"):
        quantize(tmp_path / "after", tmp_path / "twice", Settings(calibration=IDS))
    with pytest.raises(TinymoeError, match="quantised already"):
        quantize(ROOT / "gpt_oss-mxfp4", tmp_path / "twice", Settings())


def test_a_value_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    before = made(tmp_path / "made", "qwen3_moe")
    tensors = Tensors({name: bits(before, name) for name in before.names()})
    name = f"{MODULE}.weight"
    values = tensors[name][1].copy()
    values[0, 0] = 0x7FC0  # NaN
    tensors[name] = ("BF16", values)
    write(tmp_path / "before", tensors, before.config)
    with pytest.raises(TinymoeError, match=f"{name}.*finite"):
        quantize(tmp_path / "before", tmp_path / "after", Settings(weights_only=True))
    assert not (tmp_path / "after").exists()


def test_a_target_that_may_not_be_written(tmp_path: Path) -> None:
    made(tmp_path / "before", "qwen3_moe")
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.png").write_text("x")
    settings = Settings(weights_only=True, force=True)
    for out, says in (
        ("before", "own folder"),
        ("before/inside", "own folder"),
        ("none/after", "no folder"),
        ("file", "a file or a link"),
        ("other", "no config.json"),
    ):
        with pytest.raises(TinymoeError, match=says):
            quantize(tmp_path / "before", tmp_path / out, settings)
    with pytest.raises(TinymoeError, match="--force"):
        quantize(tmp_path / "before", tmp_path / "other", Settings(weights_only=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "file", "other"]


# ------------------------------------------------------------------------------- the writer


def test_the_writer_wants_what_was_announced(tmp_path: Path) -> None:
    specs = {"bytes": Spec("U8", (3,)), "scale": Spec("F32", ()), "w": Spec("BF16", (2, 2))}
    path = tmp_path / "t.safetensors"
    with SafetensorsWriter(path, specs, {"format": "pt"}) as file:
        file.write("bytes", np.arange(3, dtype=np.uint8))  # any order
        with pytest.raises(TinymoeError, match="written already"):
            file.write("bytes", np.arange(3, dtype=np.uint8))
        with pytest.raises(TinymoeError, match="not announced"):
            file.write("other", np.zeros(1, np.float32))
        with pytest.raises(TinymoeError, match="announced as F32"):
            file.write("scale", np.zeros(1, np.float32))
        file.write("w", np.full((2, 2), 0x3F80, np.uint16))
        file.write("scale", np.array(0.5, np.float32))
    read = SafetensorsFile(path)
    assert read.entries["scale"].start % 8 == 0
    assert read.raw("scale") == 0.5
    np.testing.assert_array_equal(read.raw("bytes"), [0, 1, 2])
    with (
        pytest.raises(TinymoeError, match="were not written: .'w'"),
        SafetensorsWriter(tmp_path / "u", {"w": specs["w"]}, {}),
    ):
        pass


def test_every_layout_has_a_config_of_plain_json() -> None:
    for layout in LAYOUTS:
        said = quantization_config(layout, ("lm_head",), layout.static)
        assert said["quant_method"] in ("modelopt", "compressed-tensors", "fp8", "mxfp4")
        assert json.loads(json.dumps(said)) == said
    assert run.CALIBRATION_TEXT.isascii()
