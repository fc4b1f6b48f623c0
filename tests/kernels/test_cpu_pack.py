"""Weights as tiles: the values of every format, to the bit, and products within their bounds.

Prevents: a row under a neighbour's scale (vllm#54974: gate's tensor scale used for up), a divisor
taken for a multiplier, nibbles or halves exchanged, gate and up left by turns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tinymoe.core import Array, Batch, QuantTensor, TinymoeError
from tinymoe.formats import fp8, mxfp4, nvfp4
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu.batch import TOKENS, Header, aligned
from tinymoe.kernels.cpu.pack import Packed, pack, pack_quantised
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team
from tinymoe.kernels.cpu.tiles import UE5M3_UNIT
from tinymoe.model.on_demand import CodedRows, OnDemand

pytestmark = pytest.mark.kernels
UNIT = 2.0**-24
RNG = np.random.default_rng(11)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([E2M1, -E2M1])
E4M3 = fp8.e4m3.decode(np.arange(256, dtype=np.uint8))


# ------------------------------------------------------------------------------- reading tiles


def rows_of(packed: Packed, gate_up: bool) -> Array:
    """The place of each row (N,) among the tiles' rows, from the words of `tiles.py`."""
    row = np.arange(packed.rows)
    if not gate_up:
        return row
    unit = row % (packed.rows // 2)
    return unit // 16 * 32 + unit % 16 + 16 * (row >= packed.rows // 2)


def read_tiles(packed: Packed, gate_up: bool = False) -> Array:
    """(E, N, K) float32 as the kernels see it, without the factors of rows."""
    form, pairs = packed.form, packed.experts * packed.pairs
    data = packed.data.reshape(pairs, -1)
    if form.name == "f32":  # quad, tile, column, row
        v = data.view(np.float32).reshape(pairs, -1, 2, 4, 16).transpose(0, 2, 4, 1, 3)
    elif form.name == "bf16":  # quad, tile, word, row, half
        halves = data.view(np.uint16).reshape(pairs, -1, 2, 2, 16, 2).astype(np.uint32) << 16
        v = halves.view(np.float32).transpose(0, 2, 4, 1, 3, 5)
    else:
        blocks = data.reshape(pairs, packed.padded // form.block, -1)
        scales, body = np.split(blocks, [2 * form.scale_bytes], axis=2)
        scales = scale_values(form.name, np.ascontiguousarray(scales))  # (pairs, blocks, 2, 16)
        codes = body.reshape(*body.shape[:2], form.block // 4, 2, -1)  # quad, tile, bytes
        if form.name == "fp8":
            values = E4M3[codes.reshape(*codes.shape[:4], 16, 4)]  # row, column
        else:
            row, two = np.arange(16)[:, None], np.arange(2)
            place = np.array([0, 16, 8, 24])[row // 4] + 2 * (row % 4) + two
            pair = codes[..., place]  # row, column of two
            values = E2M1[np.concatenate([pair & 15, pair >> 4], axis=-1)]
        v = (values * scales[:, :, None, :, :, None]).transpose(0, 3, 4, 1, 2, 5)
    whole = v.reshape(packed.experts, packed.pairs * 32, packed.padded)
    places = rows_of(packed, gate_up)
    behind = np.delete(whole, places, axis=1)
    assert not behind.any()  # padding is zeros
    assert not whole[..., packed.columns :].any()
    return np.ascontiguousarray(whole[:, places, : packed.columns])


def scale_values(name: str, head: Array) -> Array:
    flat = head.view(np.float32) if name == "fp8" else head
    if name == "nvfp4":
        flat = (head.astype(np.uint32) << 20).view(np.float32) * UE5M3_UNIT
    if name == "mxfp4":
        flat = np.ldexp(np.float32(1), head.astype(np.int32) - 127) * (head > 0)
    return flat.reshape(*head.shape[:2], 2, 16)


def factors_of(packed: Packed, gate_up: bool) -> Array:
    assert packed.row_scales is not None
    return packed.row_scales[:, rows_of(packed, gate_up)]


def coded(format_: str, rows: int, columns: int, **how: Any) -> QuantTensor:
    w = (RNG.standard_normal((rows, columns)) * RNG.uniform(0.1, 9)).astype(np.float32)
    if format_ == "mxfp4":
        return mxfp4.encode(w, convention="ct")
    if format_ == "fp8":
        scale: Any = {"source": "float32", "power_of_two": "no", "convention": "div32"}
        return fp8.encode(w, **scale, granularity=how.get("granularity", "block"))
    name = how.get("convention", "modelopt")
    return nvfp4.encode(w, convention=name, source="float32", zero_tensor="refuse")


def stack_of(experts: list[list[CodedRows]], columns: int) -> OnDemand:
    """A stack whose values nobody may ask for: they would be eight times as large."""

    def refuse(_: Any) -> Array:
        raise AssertionError("values were read of a stack that is stored in few bits")

    rows = sum(len(part.rows) for part in experts[0])
    shape = (len(experts), rows, columns)
    return OnDemand(shape, refuse, codes=lambda number: experts[number or 0])


# ------------------------------------------------------------------------------- the values


@pytest.mark.parametrize("gate_up", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 70, 20), (1, 34, 33), (3, 64, 8)])
def test_plain_tiles_hold_the_values(shape: tuple[int, ...], gate_up: bool) -> None:
    values = RNG.standard_normal(shape).astype(np.float32)
    for form, w in (("f32", values), ("bf16", (values.view(np.uint32) & 0xFFFF0000))):
        w = w.view(np.float32)
        packed = pack(w, gate_up=gate_up)
        assert packed.form.name == form  # found by itself: BF16 where that is exact, else float32
        assert np.array_equal(read_tiles(packed, gate_up), w)
    with pytest.raises(TinymoeError, match="no BF16"):
        pack(values, form="bf16")


@pytest.mark.parametrize("gate_up", [False, True])
@pytest.mark.parametrize(
    ("format_", "how", "columns"),
    [
        ("nvfp4", {"convention": "modelopt"}, 48),
        ("nvfp4", {"convention": "ct"}, 16),
        ("mxfp4", {}, 96),
        ("fp8", {"granularity": "tensor"}, 100),
        ("fp8", {"granularity": "channel"}, 130),
        ("fp8", {"granularity": "block"}, 300),
        ("fp8", {"granularity": "group"}, 128),
    ],
)
def test_coded_tiles_hold_the_values(
    format_: str, how: dict[str, Any], columns: int, gate_up: bool
) -> None:
    """Two experts of two tensors each, every one under scales of its own."""
    tensors = [[coded(format_, 134, columns, **how) for _ in range(2)] for _ in range(2)]
    halves = [np.arange(134), np.arange(134, 268)]
    experts = [[CodedRows(rows, t) for rows, t in zip(halves, own, strict=True)] for own in tensors]
    packed = pack(stack_of(experts, columns), gate_up=gate_up)
    assert packed.form.name == format_
    found = read_tiles(packed, gate_up)
    decode = {"nvfp4": exact_nvfp4, "mxfp4": mxfp4.decode, "fp8": fp8.decode}[format_]
    wanted = np.stack([np.concatenate([decode(t) for t in own]) for own in tensors])
    if format_ != "nvfp4":
        assert packed.row_scales is None
        assert np.array_equal(found, wanted)  # code times scale in float32: the definition's own
        return
    exact = found.astype(np.float64) * factors_of(packed, gate_up)[..., None]
    # a multiplier is itself; a divisor's reciprocal is rounded once, to within u of it
    most = 0 if how["convention"] == "modelopt" else UNIT
    assert (np.abs(exact - wanted) <= most * np.abs(wanted) * (1 + 1e-15)).all()


def test_every_scale_of_nvfp4_is_kept() -> None:
    """Negative ones and those below 2^-6 have no byte of their own in tiles."""
    tensor = coded("nvfp4", 8, 32 * 16)
    scales = np.delete(np.arange(256, dtype=np.uint8), [0x7F, 0xFF])  # without NaN
    tensor.scales.reshape(-1)[: len(scales)] = scales
    found = read_tiles(pack_quantised(tensor))[0]
    assert np.array_equal(found, nvfp4.decode(replace(tensor, tensor_scale=np.float32(1))))


def exact_nvfp4(tensor: QuantTensor) -> Array:
    """Code times scale is exact in float64; so is that times 24 bits of a multiplier."""
    scale = np.float64(tensor.tensor_scale)
    unscaled = replace(tensor, tensor_scale=np.float32(1))
    values = nvfp4.decode(unscaled, dtype=np.float64)
    return values / scale if tensor.tensor_scale_is == "divisor" else values * scale


def test_rows_in_another_order_go_where_they_belong() -> None:
    """gpt-oss stores gate and up by turns."""
    tensor = coded("mxfp4", 40, 32)
    kept = np.concatenate([np.arange(0, 40, 2), np.arange(1, 40, 2)])
    packed = pack(stack_of([[CodedRows(np.argsort(kept), tensor)]], 32), gate_up=True)
    assert np.array_equal(read_tiles(packed, True)[0], mxfp4.decode(tensor)[kept])


# ------------------------------------------------------------------------------- the product


def products(x: Array, packed: Packed) -> Array:
    """x (T, K) times the matrix: (T, N)."""
    rows = np.zeros((len(x), packed.padded), np.float32)
    rows[:, : packed.columns] = x
    out, program = np.zeros((len(x), packed.pairs * 32), np.float32), Program()
    program.add(
        product.linear, x=rows, x_stride=rows.shape[1], count=TOKENS, rows=0,
        **product.tiles_of(packed), bias=None, out=out, out_stride=out.shape[1], residual=None,
        part=None, factor=1.0, kind=product.PLAIN, rounding=False,
    )  # fmt: skip
    none = np.zeros(len(x), np.int64)
    header = Header(Batch(none, none, (), none[:0]), 1, 1, aligned(2 * product.OWN_WORDS), 1)
    Team(1).run(program.code, header.address)
    return out[:, : packed.rows]


FORMATS = ["f32", "bf16", "nvfp4", "nvfp4 ct", "mxfp4", "fp8"]


def packed_and_exact(name: str, rows: int, columns: int) -> tuple[Packed, Array]:
    """A random matrix, and what its bits stand for in float64."""
    if name in ("f32", "bf16"):
        w = RNG.standard_normal((rows, columns)).astype(np.float32)
        w = w if name == "f32" else (w.view(np.uint32) & 0xFFFF0000).view(np.float32)
        return pack(w), w.astype(np.float64)
    format_, _, convention = name.partition(" ")
    tensor = coded(format_, rows, columns, convention=convention or "modelopt")
    decode = {"nvfp4": exact_nvfp4, "mxfp4": mxfp4.decode, "fp8": fp8.decode}[format_]
    return pack_quantised(tensor), decode(tensor).astype(np.float64)


@pytest.mark.parametrize("tokens", [1, 2, 13])
@pytest.mark.parametrize("name", FORMATS)
def test_a_product_is_within_the_roundings_of_its_chain(name: str, tokens: int) -> None:
    """n = K + 2 (see `pack_codes.py`); FP8's own rounding of each weight is the definition's."""
    columns = 160
    packed, w = packed_and_exact(name, 45, columns)
    x = RNG.standard_normal((tokens, columns)).astype(np.float32)
    n = (columns + 2) * UNIT
    bound = n / (1 - n) * (np.abs(x).astype(np.float64) @ np.abs(w).T)
    # the float64 product that it is held to is itself off by K roundings of 2^-53
    bound *= 1 + columns * 2.0**-28
    assert (np.abs(products(x, packed) - x.astype(np.float64) @ w.T) <= bound).all()


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "fp8"])
def test_a_product_of_small_whole_numbers_is_exact(name: str) -> None:
    """Codes on the formats' whole numbers, scales powers of two: no operation rounds."""
    rows, columns = 37, 256
    signs = RNG.integers(0, 2, (rows, columns)).astype(np.uint8)
    nibbles = RNG.choice(np.array([0, 2, 4, 5, 6, 7], np.uint8), (rows, columns)) | signs << 3
    codes = nibbles[:, ::2] | nibbles[:, 1::2] << 4
    block = {"nvfp4": (1, 16), "mxfp4": (1, 32), "fp8": (1, 128)}[name]
    scales: Array = RNG.integers(126, 130, (rows, columns // block[1])).astype(np.uint8)
    if name == "nvfp4":
        scales = RNG.choice(np.array([0x30, 0x38, 0x40], np.uint8), scales.shape)  # 0.5, 1, 2
    if name == "fp8":
        codes = RNG.choice(np.array([0, 0x38, 0xB8, 0x40, 0xC4, 0x44], np.uint8), signs.shape)
        scales = np.exp2(RNG.integers(-2, 3, scales.shape)).astype(np.float32)
    scaled = name == "nvfp4"
    tensor = QuantTensor(
        format=name, convention={"nvfp4": "modelopt", "mxfp4": "ct", "fp8": "div32"}[name],  # type: ignore[arg-type]
        codes=codes, scales=scales, block=block,
        tensor_scale=np.float32(0.25) if scaled else None,
        tensor_scale_is="multiplier" if scaled else "none",
    )  # fmt: skip
    x = RNG.integers(-8, 9, (3, columns)).astype(np.float32)
    decode: Any = {"nvfp4": nvfp4.decode, "mxfp4": mxfp4.decode, "fp8": fp8.decode}[name]
    assert np.array_equal(products(x, pack_quantised(tensor)), x @ decode(tensor).T)


# ------------------------------------------------------------------------------- what is refused


def test_codes_and_scales_that_are_no_numbers_are_refused() -> None:
    for name, field, byte in (("nvfp4", "scales", 0x7F), ("mxfp4", "scales", 0xFF),
                              ("fp8", "codes", 0xFF), ("fp8", "codes", 0x7F)):  # fmt: skip
        tensor = coded(name, 4, 128)
        broken = getattr(tensor, field).copy()
        broken[1, 0] = byte
        with pytest.raises(TinymoeError, match="NaN|no finite"):
            pack_quantised(replace(tensor, **{field: broken}))
    tensor = coded("fp8", 4, 128)
    with pytest.raises(TinymoeError, match="not finite"):
        pack_quantised(replace(tensor, scales=np.full_like(tensor.scales, np.inf)))


def test_what_tiles_cannot_say_is_packed_by_value() -> None:
    """2^-127 is no normal float32; of zeros any scale says the same."""
    tensor = coded("mxfp4", 4, 64)
    scales, codes = tensor.scales.copy(), tensor.codes.copy()
    scales[2, 1] = 0
    tiny = replace(tensor, scales=scales)
    with pytest.raises(TinymoeError, match="pack its values"):
        pack_quantised(tiny)
    values = mxfp4.decode(tiny)
    parts = [CodedRows(np.arange(4), tiny)]
    by_value = pack(OnDemand((4, 64), lambda rows: values[rows], codes=lambda _: parts))
    assert by_value.form.name in ("bf16", "f32")
    assert np.array_equal(read_tiles(by_value)[0], values)
    codes[2, 16:] &= 0x88
    empty = replace(tiny, codes=codes)
    assert np.array_equal(read_tiles(pack_quantised(empty))[0], mxfp4.decode(empty))
    narrow = replace(coded("fp8", 4, 128), block=(1, 64), scales=np.ones((4, 2), np.float32))
    with pytest.raises(TinymoeError, match="FP8 scales of 128 columns"):
        pack_quantised(narrow)
