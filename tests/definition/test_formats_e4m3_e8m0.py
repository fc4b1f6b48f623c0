"""E4M3 and E8M0: all bytes, all BF16 inputs, against exact search, ml_dtypes and the tables."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.formats import bf16, e4m3, e8m0

pytestmark = pytest.mark.definition

BYTES = np.arange(256, dtype=np.uint8)
EVERY_BF16 = bf16.decode(np.arange(2**16, dtype=np.uint16))
FINITE = EVERY_BF16[np.isfinite(EVERY_BF16)]
NORMAL = FINITE[np.finfo(np.float32).tiny <= FINITE]


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32)


def ties_and_neighbours() -> np.ndarray:
    """Each E4M3 midpoint, 464 among them, and the float32 on either side."""
    values = np.append(e4m3.decode(BYTES[:127]), np.float32(480))
    middle = (values[1:] + values[:-1]) / 2
    near = [np.nextafter(middle, np.float32(to)) for to in (0, 1000)]
    return np.concatenate([middle, *near, values])


def test_e4m3_decodes_every_byte() -> None:
    theirs = BYTES.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    ours = e4m3.decode(BYTES)
    number = ~np.isnan(theirs)
    assert np.array_equal(bits(ours[number]), bits(theirs[number]))
    # sglang#22928: byte 127 was taken for 480
    assert np.flatnonzero(np.isnan(ours)).tolist() == [0x7F, 0xFF]
    assert [ours[0x7E], ours[0x08], ours[0x01]] == [e4m3.MAX, e4m3.MIN_NORMAL, e4m3.MIN_SUBNORMAL]


def test_e4m3_every_bf16_input_against_ml_dtypes() -> None:
    with np.errstate(all="ignore"):
        theirs = EVERY_BF16.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert np.array_equal(e4m3.encode(EVERY_BF16, overflow="nan", nan_sign="kept"), theirs)


@pytest.mark.parametrize("overflow", ["saturate", "nan"])
def test_e4m3_against_the_search(overflow: str) -> None:
    x = np.concatenate([ties_and_neighbours(), [500, 3e38, 1e-40, 2**-10, 0]]).astype(np.float32)
    x = np.concatenate([x, -x])
    got = e4m3.encode(x, overflow=overflow, nan_sign="kept")
    assert got.tolist() == [e4m3.encode_naive(float(v), overflow=overflow) for v in x]


def test_e4m3_overflow_is_where_libraries_part() -> None:
    # an unclamped cast by ml_dtypes or an older torch stores NaN where CUDA stores 448
    x = np.array([449, 464, np.nextafter(np.float32(464), np.float32(500)), np.inf], np.float32)
    assert e4m3.encode(x, overflow="saturate", nan_sign="kept").tolist() == [0x7E] * 4
    assert e4m3.encode(x, overflow="nan", nan_sign="kept").tolist() == [0x7E, 0x7E, 0x7F, 0x7F]
    nan = np.copysign(np.float32(np.nan), np.array([1, -1], np.float32))
    assert e4m3.encode(nan, overflow="saturate", nan_sign="kept").tolist() == [0x7F, 0xFF]
    assert e4m3.encode(nan, overflow="saturate", nan_sign="positive").tolist() == [0x7F, 0x7F]


def test_e4m3_half_of_the_smallest_is_zero() -> None:
    half = np.float32(2.0**-10)
    above = np.nextafter(half, np.float32(1))
    assert e4m3.saturated(np.array([half, above, -half])).tolist() == [0x00, 0x01, 0x80]


def test_e8m0_decodes_every_byte() -> None:
    theirs = BYTES.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    ours = e8m0.decode(BYTES, reading="nan")
    assert np.array_equal(bits(ours[:255]), bits(theirs[:255]))
    assert np.isnan(ours[255])


@pytest.mark.parametrize(
    ("reading", "zero", "last"),
    [("nan", 2.0**-127, np.nan), ("inf", 2.0**-127, np.inf), ("shift", 0.0, np.inf)],
)
def test_e8m0_decoders_part_at_0_and_255(reading: str, zero: float, last: float) -> None:
    got = e8m0.decode(np.array([0, 1, 127, 254, 255], np.uint8), reading=reading)
    assert np.array_equal(got, [zero, 2.0**-126, 1, 2.0**127, last], equal_nan=True)


def test_e8m0_every_normal_bf16_against_ml_dtypes() -> None:
    with np.errstate(all="ignore"):
        theirs = NORMAL.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    assert np.array_equal(e8m0.encode(NORMAL, rounding="half_up", overflow="nan"), theirs)


@pytest.mark.parametrize("rounding", ["down", "up", "half_up"])
def test_e8m0_against_the_search(rounding: str) -> None:
    one = np.float32(1)
    base = np.array([1, 1.5, 1.25, 1.75], np.float32)
    near = [base, np.nextafter(base, one * 4), np.nextafter(base[1:], one)]
    x = np.concatenate(
        [v * np.float32(s) for v in near for s in (2.0**-126, 1, 2.0**100, 2.0**127)]
    )
    got = e8m0.encode(x, rounding=rounding, overflow="nan")
    assert got.tolist() == [e8m0.encode_naive(float(v), rounding=rounding) for v in x]


def test_e8m0_worked_examples() -> None:
    x = np.array([1.5, 3, 1.75 * 2.0**127], np.float32)
    assert e8m0.encode(x, rounding="half_up", overflow="nan").tolist() == [128, 129, 255]
    assert e8m0.encode(x, rounding="up", overflow="saturate").tolist() == [128, 129, 254]
    assert e8m0.encode(x, rounding="down", overflow="saturate").tolist() == [127, 128, 254]


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e-40, np.inf, np.nan])
def test_e8m0_has_no_byte_for(bad: float) -> None:
    with pytest.raises(TinymoeError, match="expected positive normal"):
        e8m0.encode(np.array([1, bad], np.float32), rounding="up", overflow="nan")
