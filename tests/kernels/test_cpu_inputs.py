"""W4A4 checkpoints through the compiled step: inputs become the definition's codes, products exact.

Prevents: an intermediate that is left unquantised (published tests with tolerances of 0.1 do not
see it), an expert under another's input scale (vllm#26135, sglang#21602), a number made of NaN.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymoe
from tests.low_precision import LAYOUTS, made
from tests.quantising import quantised
from tests.stored import write
from tinymoe.core import NUMERICS, Array, Numerics
from tinymoe.formats import e2m1, e4m3, e8m0, mxfp4
from tinymoe.formats.activations import quantize_nvfp4
from tinymoe.formats.e2m1 import RULES
from tinymoe.kernels.cpu.batch import Header, aligned
from tinymoe.kernels.cpu.coded_rows import quantised_rows, row_bytes
from tinymoe.kernels.cpu.codes import rounding_of
from tinymoe.kernels.cpu.integers import LIFT
from tinymoe.kernels.cpu.ops import tokens_alone
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team
from tinymoe.oracle.diff import diff
from tinymoe.oracle.diff.told import verdict

pytestmark = pytest.mark.kernels
IDS = [5, 6, 7, 31, 2, 9, 11, 3, 1]
CHECKPOINT = NUMERICS["checkpoint"]
CODED = ("modelopt NVFP4", "ct NVFP4", "ct MXFP4")  # inputs are four-bit codes, too
NOT_COMPILED = [  # FP8 inputs: run op by op
    name for name in LAYOUTS if "FP8" in name and name != "modelopt FP8 block"
]


def agrees(folder: Path, numerics: Numerics = CHECKPOINT) -> tinymoe.Model:
    reference = tinymoe.load(folder, numerics=numerics)
    model = tinymoe.load(folder, numerics=numerics, backend="numba", threads=2)
    report = diff(reference.params, reference.config, model.trace(IDS, ["*"]), numerics)
    assert report.agrees, verdict(report)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each layout."""
    found = {}
    for layout in LAYOUTS:
        case, found[layout] = made(layout), tmp_path_factory.mktemp("w4a4")
        write(found[layout], case.low, case.config)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_definition_s(layout: str, folders: dict[str, Path]) -> None:
    """In one compiled call, unless inputs are FP8."""
    model = agrees(folders[layout])
    step: Any = model.ops.step
    assert (step._step is not None) is (layout not in NOT_COMPILED)
    if step._step is not None:
        quantises = [matrix.inputs is not None for matrix in step._step.weights.matrices]
        assert sum(quantises) == (8 if layout in CODED else 0)


@pytest.mark.parametrize("layout", ["modelopt NVFP4", "ct NVFP4"])
def test_one_input_scale_for_all_experts(layout: str, folders: dict[str, Path]) -> None:
    """As engines that quantise a token once have it: another way through the kernels."""
    own, shared = (
        agrees(folders[layout], replace(CHECKPOINT, expert_inputs=which))  # type: ignore[arg-type]
        for which in ("own", "largest")
    )
    assert (own(IDS) != shared(IDS)).any()


@pytest.mark.parametrize("case", ["gpt_oss", "qwen3_moe"])
def test_what_tinymoe_quantises_runs_in_w4a4(case: str, tmp_path: Path) -> None:
    """Biases after alpha, the clamped activation, gate and up by turns; scales of a calibration."""
    quantised(tmp_path, case, format="nvfp4", convention="modelopt")
    model = agrees(tmp_path / "after")
    step: Any = model.ops.step
    assert step._step is not None
    bf16 = tinymoe.load(tmp_path / "after", numerics="bf16", backend="numba")
    assert (bf16(IDS) != model(IDS)).any()


@pytest.mark.parametrize("layout", CODED)
def test_threads_and_company_change_no_bit(layout: str, folders: dict[str, Path]) -> None:
    alone, *others = (
        tinymoe.load(folders[layout], numerics="checkpoint", backend="numba", threads=threads)
        for threads in (1, 2, 4)
    )
    whole = alone(IDS)
    for other in others:
        assert other(IDS).tobytes() == whole.tobytes()
    for stop in (1, 2, 5):
        assert alone(IDS[:stop]).tobytes() == whole[:stop].tobytes()


def coded(x: Array, block: int, divisors: Array, ids: Array | None, shared: int) -> Array:
    """(rows, blocks, block + 1): twice the codes' values and scales that the kernel makes of x.

    `shared` rows of each.
    """
    rows, size = len(x) * shared, row_bytes(x.shape[1], block)
    out, team = np.zeros((rows, size), np.uint8), Team(2)
    program = Program()
    program.add(
        quantised_rows, x=x, x_stride=x.shape[1], columns=x.shape[1], block=block,
        per_token=shared, shared=shared, ids=ids, divisors=divisors,
        **rounding_of(RULES["cuda"])._asdict(), out=out, out_bytes=size,
    )  # fmt: skip
    header = Header(tokens_alone(len(x)), 1, 1, aligned(128, np.int64), team.threads)
    team.run(program.code, header.address)
    digits = out[:, : 2 * x.shape[1]].view(np.int8).reshape(rows, -1, 2, 2)  # pair, copy
    assert (digits[:, :, 0] == digits[:, :, 1]).all()
    twice = digits[:, :, 0].reshape(rows, -1, block).astype(int)
    terms = out[:, 2 * x.shape[1] :][:, : twice.shape[1] * 8].copy().view(np.int32)
    for half in (terms[:, ::2] & 0xFFFF, terms[:, ::2] >> 16 & 0xFFFF):
        assert (half.astype(np.uint16).view(np.int16) == -LIFT * twice.sum(axis=-1)).all()
    scales = terms[:, 1::2].copy().view(np.float32)
    return np.concatenate([twice, scales[..., None]], axis=-1)


@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
def test_inputs_become_the_definition_s_codes(form: str) -> None:
    """Louder and quieter than calibrated, blocks of zeros, more than 16 blocks in a row."""
    rng, block = np.random.default_rng(2), 16 if form == "nvfp4" else 32
    x = rng.standard_normal((5, 32 * 19)).astype(np.float32)
    x *= np.exp2(rng.integers(-30, 8, (5, 19))).repeat(32, axis=1).astype(np.float32)
    x[:, 64:96] = 0
    divisors = np.array([260.0, 31.7, 0.5], np.float32)
    ids = rng.integers(0, 3, 10)
    got = coded(x, block, divisors, ids, shared=2)
    for row, parts in enumerate(got):
        one = x[row // 2 : row // 2 + 1]
        if form == "nvfp4":
            scale = divisors[ids[row]]
            q = quantize_nvfp4(one, scale, meaning="divisor", convention="kernel", source="float32")
            scales = e4m3.decode(q.scales[0])
        else:
            q = mxfp4.encode(one, convention="vllm")
            scales = e8m0.decode(q.scales[0], reading="nan")
        twice = 2 * e2m1.decode(e2m1.unpack(q.codes[0]), code_8="+0")
        assert (parts[:, :block].reshape(-1) == twice).all()
        assert (parts[:, block] == scales).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(wrong: float) -> None:
    """Codes have no NaN: an engine's kernel writes 6 for it, and the model talks on."""
    x = np.ones((2, 64), np.float32)
    x[1, 40] = wrong
    for block in (16, 32):
        broken = np.isnan(coded(x, block, np.ones(1, np.float32), None, 1)[..., block])
        assert broken.any(axis=1).tolist() == [False, True]
        assert broken[1, 40 // block]
