"""Quantised checkpoints that we write: layouts, scales and bytes as the exporters have them.

Loaders take such files at their word: a scale that divides where it should multiply, gate's
scale on up, a module that is listed as kept and is not, give a model that talks rubbish.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantising import IDS, MODULE, READ, bits, quantised, scalar
from tests.stored import Tensors, arrays, write
from tinymoe.api import load as load_model
from tinymoe.core import NUMERICS
from tinymoe.families import load_params, read_config
from tinymoe.formats import fp8, mxfp4, nvfp4
from tinymoe.quantize.layouts import by_name
from tinymoe.quantize.plan import make_plan

pytestmark = pytest.mark.definition


@pytest.mark.parametrize(("layout_name", "case"), READ)
def test_what_is_written_loads_as_what_the_encoders_say(
    layout_name: str, case: str, tmp_path: Path
) -> None:
    format_, convention, scales = layout_name.split()
    before, after = quantised(tmp_path, case, format=format_, convention=convention, scales=scales)
    config = read_config(before.config)
    plan = make_plan(before, config, by_name()[layout_name])
    groups: dict[str, list[float]] = {}
    for m in plan.modules.values():
        groups.setdefault(m.group, []).append(np.abs(before.read(m.tensor, "float32")).max())
    plain = Tensors()
    for name in before.names():
        plain[name] = bits(before, name)
        if name in plan.modules:
            m = plan.modules[name]
            w = before.read(name, "float32")
            plain[name] = ("F32", expected_values(w, max(groups[m.group]), layout_name))
    wanted = write(tmp_path / "plain", plain, before.config)
    numerics = NUMERICS["fp32"]
    got = list(arrays(load_params(after, read_config(after.config), numerics)))
    theirs = list(arrays(load_params(wanted, config, numerics)))
    assert len(got) == len(theirs) > 10
    for ours, other in zip(got, theirs, strict=True):
        np.testing.assert_array_equal(ours, other)
    logits = load_model(after.path)(IDS[:8])
    assert np.isfinite(logits).all()
    assert (logits != load_model(before.path)(IDS[:8])).any()


def expected_values(w: np.ndarray, amax: float, layout: str) -> np.ndarray:
    """What a module stands for, from the formats alone. A stack (E, K, N) has blocks along K."""
    if w.ndim == 3:
        return np.stack([expected_values(np.ascontiguousarray(e.T), amax, layout).T for e in w])
    format_, convention, scales = layout.split()
    by = {
        "compressed-tensors": "ct",
        "gpt-oss": "gpt_oss",
        "deepseek": "div32",
        "modelopt": "modelopt" if format_ == "nvfp4" else f"modelopt_{scales}",
    }[convention]
    if format_ == "nvfp4":
        scale = nvfp4.tensor_scale(amax, convention=by, source="bfloat16")
        return nvfp4.decode(nvfp4.encode_with(w, scale, convention=by, source="bfloat16"))
    if format_ == "mxfp4":
        return mxfp4.decode(mxfp4.encode(w, convention=by))
    if by == "modelopt_tensor":  # one scale for an expert's gate and up
        s = float(np.float32(amax) / np.float32(448))
        return fp8.decode(fp8.encode_static(w, s, convention=by, source="bfloat16"))
    granularity: Any = scales
    q = fp8.encode(w, convention=by, granularity=granularity, source="bfloat16", power_of_two="no")
    return fp8.decode(q)


# what the others store, byte by byte: name's end, dtype, shape, from formats.md section 9
OTHERS: dict[str, dict[str, tuple[str, Any]]] = {
    "mxfp4 compressed-tensors block": {
        "weight_packed": ("U8", lambda n, k: (n, k // 2)),
        "weight_scale": ("U8", lambda n, k: (n, k // 32)),
    },
    "fp8 compressed-tensors tensor": {
        "weight": ("F8_E4M3", lambda n, k: (n, k)),
        "weight_scale": ("BF16", lambda n, k: (1,)),
        "input_scale": ("BF16", lambda n, k: (1,)),
    },
    "fp8 compressed-tensors channel": {
        "weight": ("F8_E4M3", lambda n, k: (n, k)),
        "weight_scale": ("BF16", lambda n, k: (n, 1)),
    },
    "fp8 compressed-tensors block": {
        "weight": ("F8_E4M3", lambda n, k: (n, k)),
        "weight_scale": ("BF16", lambda n, k: (-(-n // 128), -(-k // 128))),
    },
    "fp8 modelopt tensor": {
        "weight": ("F8_E4M3", lambda n, k: (n, k)),
        "weight_scale": ("F32", lambda n, k: ()),
        "input_scale": ("F32", lambda n, k: ()),
    },
    "fp8 modelopt channel": {
        "weight": ("F8_E4M3", lambda n, k: (n, k)),
        "weight_scale": ("F32", lambda n, k: (n,)),
    },
    "nvfp4 modelopt block": {
        "weight": ("U8", lambda n, k: (n, k // 2)),
        "weight_scale": ("F8_E4M3", lambda n, k: (n, k // 16)),
        "weight_scale_2": ("F32", lambda n, k: ()),
        "input_scale": ("F32", lambda n, k: ()),
    },
    "nvfp4 compressed-tensors block": {
        "weight_packed": ("U8", lambda n, k: (n, k // 2)),
        "weight_scale": ("F8_E4M3", lambda n, k: (n, k // 16)),
        "weight_global_scale": ("F32", lambda n, k: (1,)),
        "input_global_scale": ("F32", lambda n, k: (1,)),
    },
    "fp8 deepseek block": {
        "weight": ("F8_E4M3", lambda n, k: (n, k)),
        "weight_scale_inv": ("F32", lambda n, k: (-(-n // 128), -(-k // 128))),
    },
}


def test_every_layout_is_held_to_its_names() -> None:
    assert {*OTHERS, "mxfp4 gpt-oss block"} == set(by_name())


@pytest.mark.parametrize("layout", OTHERS)
def test_names_types_and_shapes(layout: str, tmp_path: Path) -> None:
    format_, convention, scales = layout.split()
    before, after = quantised(tmp_path, format=format_, convention=convention, scales=scales)
    rows, columns = before.entry(f"{MODULE}.weight").shape
    got = {name for name in after.names() if name.startswith(f"{MODULE}.")}
    assert got == {f"{MODULE}.{end}" for end in OTHERS[layout]}
    for end, (dtype, shape) in OTHERS[layout].items():
        entry = after.entry(f"{MODULE}.{end}")
        assert (entry.dtype, entry.shape) == (dtype, shape(rows, columns)), end
        assert entry.start % {"F32": 4, "BF16": 2}.get(dtype, 1) == 0  # torch views it in place


@pytest.mark.parametrize(
    ("layout", "convention", "granularity"),
    [
        ("fp8 compressed-tensors tensor", "ct", "tensor"),
        ("fp8 compressed-tensors channel", "ct", "channel"),
        ("fp8 compressed-tensors block", "ct", "block"),
        ("fp8 modelopt tensor", "modelopt_tensor", "tensor"),
        ("fp8 modelopt channel", "modelopt_channel", "channel"),
    ],
)
def test_fp8_bytes_are_the_conventions(
    layout: str, convention: str, granularity: Any, tmp_path: Path
) -> None:
    format_, of, scales = layout.split()
    before, after = quantised(tmp_path, format=format_, convention=of, scales=scales)
    w = before.read(f"{MODULE}.weight", "float32")
    q = fp8.encode(
        w, convention=convention, granularity=granularity, source="bfloat16", power_of_two="no"
    )
    np.testing.assert_array_equal(after.raw(f"{MODULE}.weight"), q.codes)
    stored = after.read(f"{MODULE}.weight_scale", "float32")
    np.testing.assert_array_equal(stored.reshape(q.scales.shape), q.scales)


def test_mxfp4_bytes_are_compressed_tensors(tmp_path: Path) -> None:
    before, after = quantised(tmp_path, format="mxfp4")
    q = mxfp4.encode(before.read(f"{MODULE}.weight", "float32"), convention="ct")
    np.testing.assert_array_equal(after.raw(f"{MODULE}.weight_packed"), q.codes)
    np.testing.assert_array_equal(after.raw(f"{MODULE}.weight_scale"), q.scales)


def test_modelopts_stacks_are_packed_along_the_input(tmp_path: Path) -> None:
    # gpt-oss's (E, K, N): packed along N, the bytes would fit the file all the same
    before, after = quantised(tmp_path, "gpt_oss", convention="modelopt")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    w = before.read(name, "float32")  # (E, K, N)
    experts, inputs, outputs = w.shape
    assert after.entry(name).shape == (experts, inputs // 2, outputs)
    assert after.entry(f"{name}_weight_scale").shape == (experts, inputs // 16, outputs)
    assert after.entry(f"{name}_weight_scale_2").shape == ()
    assert after.entry(f"{name}_input_scale").shape == ()
    rows = np.ascontiguousarray(w.swapaxes(1, 2))
    q = nvfp4.encode(rows, convention="modelopt", source="bfloat16", zero_tensor="refuse")
    np.testing.assert_array_equal(after.raw(name).swapaxes(1, 2), q.codes)
    np.testing.assert_array_equal(after.raw(f"{name}_weight_scale").swapaxes(1, 2), q.scales)
    assert scalar(after, f"{name}_weight_scale_2") == q.tensor_scale
