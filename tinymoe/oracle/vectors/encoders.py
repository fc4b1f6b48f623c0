"""Vectors of quantisers: the bytes that each convention makes, ties and dead blocks among them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinymoe.core import Array, QuantTensor
from tinymoe.formats import e2m1, e4m3, e8m0, fp8, mxfp4, nvfp4
from tinymoe.formats.activations import quantize_nvfp4
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4
from tinymoe.formats.e2m1 import MIDPOINTS, RULES
from tinymoe.oracle.vectors.vector import Vector

STEPS = (
    "The library's steps, each float32 operation rounded once, in the order that "
    "tinymoe/formats states for each convention; tests run the same in rational numbers. Bytes, "
    "so no tolerance."
)


def encoder_vectors() -> Iterator[Vector]:
    """All of them."""
    yield _elements()
    yield _tables()
    yield _nvfp4()
    yield _loud_activations()
    yield _mxfp4()
    yield _fp8()


def around(values: Array) -> Array:
    """Each float32 with the one below and the one above, in both signs."""
    v = values.astype(np.float32)
    near = np.concatenate([v, np.nextafter(v, np.float32(-9)), np.nextafter(v, np.float32(9))])
    return np.concatenate([near, -near])


def _elements() -> Vector:
    points = around(np.array([*MIDPOINTS, *e2m1.MAGNITUDES]))
    x = np.concatenate([points, np.array([0.0, -0.0, 7.0, 1e9, -1e9], np.float32)])
    return Vector(
        name="encoders/e2m1",
        op="encode_e2m1",
        holds="Every midpoint between two E2M1 values with both its float32 neighbours, both "
        "zeros, and what is too large, in each library's rule.",
        given={"x": x},
        expected={rule: e2m1.encode(x, how) for rule, how in RULES.items()},
        derivation="The nearest value in exact distance; a tie, and the sign of zero, as each "
        "library's rule has it (tinymoe/formats/e2m1.py). Codes, so no tolerance.",
        ties="by rule: to the even code, towards zero, or away from it",
    )


def _tables() -> Vector:
    codes = np.arange(256, dtype=np.uint8)
    readings = {f"e8m0-{how}": e8m0.decode(codes, reading=how) for how in ("nan", "inf", "shift")}
    return Vector(
        name="encoders/tables",
        op="decode_bytes",
        holds="All 256 bytes as E4M3 (127 and 255 are NaN: sglang#22928) and as E8M0 in its three "
        "readings of 0 and 255; all 16 codes of E2M1.",
        given={"codes": codes},
        expected={
            "e4m3": e4m3.decode(codes),
            **readings,
            "e2m1": e2m1.decode(codes[:16], code_8="-0"),
        },
        derivation="Sign, exponent, fraction: exact in float32, no tolerance.",
    )


def blocks(size: int) -> Array:
    """Eight blocks in two rows: plain, ties, zeros, too small for a scale, one loud number."""
    rng = np.random.default_rng(size)
    ties = np.resize(np.array((*MIDPOINTS, 6.0)), size) * np.resize([1, -1], size)
    loud = np.full(size, 0.01)
    loud[3] = 2000.0
    rows = [
        *(rng.normal(size=size), ties, np.zeros(size), rng.normal(size=size) * 1e-9),
        *(loud, ties * 0.25, np.full(size, -3.5), rng.normal(size=size) * 40),
    ]
    return np.concatenate(rows).reshape(2, -1).astype(np.float32)


def _bytes(made: dict[str, QuantTensor]) -> dict[str, Array]:
    """Codes, scales and tensor scale of each convention."""
    found: dict[str, Array] = {}
    for name, q in made.items():
        found |= {f"{name}.codes": q.codes, f"{name}.scales": q.scales}
        if q.tensor_scale is not None:
            found[f"{name}.tensor_scale"] = np.asarray(q.tensor_scale)
    return found


def _nvfp4() -> Vector:
    x = blocks(16)
    made = {
        name: nvfp4.encode(x, convention=name, source="float32", zero_tensor="refuse")
        for name in NVFP4
        if name != "te_2d"  # its blocks are of 16 rows
    }
    return Vector(
        name="encoders/nvfp4",
        op="encode_nvfp4",
        holds="A block of zeros, one too small for an E4M3 scale, one of ties, one loud: the same "
        f"numbers in {len(made)} conventions.",
        given={"x": x},
        expected=_bytes(made),
        derivation=STEPS,
        ties="by convention (encoders/e2m1)",
    )


def _loud_activations() -> Vector:
    """Rows from a tenth of the calibration to fifty times as loud."""
    rng, scale = np.random.default_rng(1), np.float32(4 / 2688)  # calibrated on an amax of 4
    x = (rng.normal(size=(5, 64)) * [[0.1], [1], [3], [12], [200]]).astype(np.float32)
    made = {
        name: quantize_nvfp4(x, scale, meaning="multiplier", convention=name, source="float32")
        for name, row in NVFP4.items()
        if row.association == "reciprocal"
    }
    return Vector(
        name="encoders/nvfp4-activations",
        op="encode_nvfp4_activations",
        holds="Activations under a static input_scale, some far beyond its calibration: block "
        "scales stop at 448 and codes at 6, with no word from the kernel (imp#1544).",
        given={"x": x, "input_scale": scale},
        expected=_bytes(made),
        derivation=STEPS,
        ties="by convention (encoders/e2m1)",
    )


def _mxfp4() -> Vector:
    x = blocks(32)
    made = {name: mxfp4.encode(x, convention=name) for name in MXFP4}
    return Vector(
        name="encoders/mxfp4",
        op="encode_mxfp4",
        holds="A block of zeros, a tiny one, one of ties, one loud: the same numbers in "
        f"{len(made)} conventions, which part on the exponent.",
        given={"x": x},
        expected=_bytes(made),
        derivation=STEPS,
        ties="by convention (encoders/e2m1)",
    )


def _fp8() -> Vector:
    rng = np.random.default_rng(0)
    w = (rng.normal(size=(4, 256)) * [[1.0], [30.0], [1e-3], [5.0]]).astype(np.float32)
    made = {
        f"{name}-{how}": fp8.encode(
            w, convention=name, granularity=how, source="float32", power_of_two="no"
        )
        for name in FP8
        for how in ("tensor", "group")
    }
    return Vector(
        name="encoders/fp8",
        op="encode_fp8",
        holds="One scale for all, and one for every 128 of a row, in each convention.",
        given={"x": w},
        expected=_bytes(made),
        derivation=STEPS,
        ties="to the even code",
    )
