"""Our model as a file of llama.cpp's: read back by another reader, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.formats import ggml
from tinymoe.measure import peer_model
from tinymoe.measure.gguf_shape import check_shape
from tinymoe.measure.random_model import random_params
from tinymoe.measure.shapes import shape
from tinymoe.measure.stored import rounded
from tinymoe.model.weights import plain

pytestmark = pytest.mark.definition
gguf = pytest.importorskip("gguf")

FP32 = NUMERICS["fp32"]
TINY = shape(
    hidden=64, layers=2, heads=2, kv_heads=1, experts=6, top_k=2,
    moe_intermediate=64, vocab=128, tied=False, positions=64, head_dim=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    peer_model.write(path, random_params(TINY, 0, FP32), TINY, "nvfp4")
    return path


@pytest.mark.parametrize("form", list(peer_model.CODINGS))
def test_the_file_holds_the_models_numbers(form: str, tmp_path: Path) -> None:
    # read by gguf, whose decoders are not ours
    params, path = random_params(TINY, 0, FP32), tmp_path / "tiny.gguf"
    size = peer_model.write(path, params, TINY, form)
    assert size == path.stat().st_size
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    ffn = params.layers[1].ffn
    up = plain(ffn.gate_up)[:, 64:]  # type: ignore[union-attr]
    stored = gguf.quants.dequantize(
        tensors["blk.1.ffn_up_exps.weight"].data, tensors["blk.1.ffn_up_exps.weight"].tensor_type
    )
    assert stored.shape == (6, 64, 64)
    if form == "nvfp4":
        scale = tensors["blk.1.ffn_up_exps.scale"].data
        ours = rounded(np.ascontiguousarray(up), "nvfp4")
        # each of the two multiplies a code, a block scale and a tensor scale: 2 roundings at most
        assert (np.abs(stored * scale[:, None, None] - ours) <= 4 * 2**-24 * np.abs(ours)).all()
    elif form == "nvfp4-flat":
        assert np.array_equal(stored, ggml.decode_nvfp4(ggml.encode_nvfp4(up)))
    elif form in ("fp32", "bf16", "mxfp4"):
        assert np.array_equal(stored, rounded(np.ascontiguousarray(up), form))
    else:  # 4 or 8 bits of the largest of 32, half a step off at most, and the step in float16
        step = np.abs(up.reshape(6, 64, 2, 32)).max(axis=-1) / (8 if form == "q4_0" else 127)
        error = np.abs(stored - up).reshape(6, 64, 2, 32)
        # q4_0 has 16 steps from -8 to 7: its largest may be cut by one
        most = step * ((1 if form == "q4_0" else 0.5) + 127 * 2**-11 + 2**-11)
        assert (error <= most[..., None]).all()
    names = ("token_embd", "output", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v")
    shapes = {name: tensors[f"{name}.weight"].shape.tolist() for name in names}
    assert shapes == {
        "token_embd": [64, 128],
        "output": [64, 128],
        "blk.0.attn_q": [64, 64],
        "blk.0.attn_k": [64, 32],
        "blk.0.attn_v": [64, 32],
    }
    assert check_shape(path, TINY) == form.removesuffix("-flat")


def test_a_file_of_another_shape_is_named_number_by_number(model: Path) -> None:
    other = shape(
        hidden=64, layers=3, heads=2, kv_heads=1, experts=8, top_k=2,
        moe_intermediate=64, vocab=128, tied=False, positions=64, head_dim=32,
    )  # fmt: skip
    with pytest.raises(TinymoeError, match=r"layers 2 \(ours: 3\), experts 6 \(ours: 8\)"):
        check_shape(model, other)


def test_no_file_and_no_gguf_are_two_errors(tmp_path: Path) -> None:
    with pytest.raises(TinymoeError, match=r"no such GGUF file .*tinymoe.measure.peer_model"):
        check_shape(tmp_path / "none.gguf", TINY)
    (tmp_path / "text.gguf").write_bytes(b"a text that is longer than any header would be")
    with pytest.raises(TinymoeError, match="is no GGUF file that gguf can read"):
        check_shape(tmp_path / "text.gguf", TINY)


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(TinymoeError, match=r"tinymoe\[peers\]"):
        check_shape(model, TINY)
    monkeypatch.setattr(sys, "argv", ["x", "--shape", "small", "--format", "bf16", "out.gguf"])
    assert peer_model.main() == 2
    assert "tinymoe[peers]" in capsys.readouterr().err


def test_what_a_file_cannot_hold_is_refused() -> None:
    narrow = shape(
        hidden=64, layers=1, heads=2, kv_heads=1, experts=4, top_k=2,
        moe_intermediate=48, vocab=64, tied=False, positions=64, head_dim=32,
    )  # fmt: skip
    with pytest.raises(TinymoeError, match=r"nvfp4: expected rows of a multiple of 64 .*48"):
        peer_model.check(narrow, "nvfp4")
    with pytest.raises(TinymoeError, match="--format must be one of"):
        peer_model.check(TINY, "int3")
