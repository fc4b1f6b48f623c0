"""What no tolerance hides: FP4 kernels against whole numbers, on every chip they are made for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.kernels.fp4_cases import BF16, FP32, Case, cases, product
from tests.kernels.model_kernels import machine
from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.formats import activations, bf16, e4m3
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.ops_fp4 import Fp4Ops
from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm, Rung
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.kernels.cuda.recorder import Recorder

pytestmark = pytest.mark.kernels
TARGETS: list[tuple[str, Rung]] = [
    *(("80", "mma"), ("90a", "mma"), ("100a", "mma"), ("120a", "mma")),
    ("120a", "sm120"),
]
TWICE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])  # E2M1, doubled


def whole_numbers(codes: Array, scales: Array) -> Array:
    """Rows as int64: 2 * value * 512 * scale."""
    values = TWICE[np.stack([codes & 15, codes >> 4], axis=-1)].reshape(*codes.shape[:-1], -1)
    byte = scales.astype(np.int64)
    steps = np.where(byte < 8, byte, (8 + byte % 8) << np.maximum(byte // 8 - 1, 0))
    return values * np.repeat(steps, 16, axis=-1)


@pytest.mark.parametrize(("arch", "rung"), TARGETS)
def test_all_experts_products_are_the_exact_integers(arch: str, rung: Rung) -> None:
    # Scales of 1/4 and more are multiples of 2^7 steps of 2^-9, so products are multiples of 2^14:
    # a float32 holds their sums while the magnitudes add up to less than 2^24 of these.
    case = product("grouped_gemm_nvfp4_w4a4", FP32, "exact", rows=35, outs=133, blocks=7)
    x = whole_numbers(case["x_codes"], case["x_scales"])  # (S, K)
    weights = whole_numbers(case["weight_codes"], case["weight_scales"])  # (E, N, K)
    expert = np.repeat(np.arange(4), np.diff(case["offsets"]))
    sums = np.einsum("sk,snk->sn", x, weights[expert])
    most = np.einsum("sk,snk->sn", abs(x), abs(weights[expert])).max()
    assert most < 2**24 * 2**14
    got = Fp4Gemm(machine(arch), rung).grouped_gemm_nvfp4_w4a4(**case)
    want = sums * 2.0**-20 * case["alphas"].astype(np.float64)[expert][:, None]
    assert np.array_equal(got, want)


@pytest.mark.parametrize("numerics", [FP32, BF16], ids=["fp32", "bf16"])
def test_no_bit_of_an_activation_is_lost(numerics: Numerics) -> None:
    # columns of weights with a single 1 pick numbers of x: a float32 needs all its three pieces
    x = np.random.default_rng(4).normal(size=(17, 48)).astype(np.float32)
    if numerics is BF16:
        x = bf16.round_to_bf16(x)
    codes = np.zeros((48, 24), np.uint8)
    codes[np.arange(48), np.arange(48) // 2] = np.where(np.arange(48) % 2, 0x20, 0x02)
    scales = np.full((48, 3), 0x38, np.uint8)
    got = Fp4Gemm(machine("80")).gemm_nvfp4(x, codes, scales, 1.0, "modelopt", numerics)
    assert np.array_equal(got, x)


@pytest.mark.parametrize("rung", ["naive", "shared", "mma", "sm120"])
def test_a_scale_of_nan_is_no_number(rung: Rung) -> None:
    # 0x7f read as 480 made loud garbage of a damaged checkpoint (sglang#22928)
    case = product("gemm_nvfp4_w4a4", FP32, "exact", rows=3, outs=5, blocks=1)
    case["weight_scales"][2] = 0x7F
    got = Fp4Gemm(machine("120a"), rung).gemm_nvfp4_w4a4(**case)
    assert np.isnan(got[:, 2]).all()
    assert np.isfinite(np.delete(got, 2, axis=1)).all()


@pytest.mark.parametrize("rung", ["mma", "sm120"])
def test_a_row_has_the_same_bits_alone_and_in_company(rung: Rung) -> None:
    case = product("gemm_nvfp4_w4a4", FP32, "any", rows=19, outs=9, blocks=9)
    multiply = Fp4Gemm(machine("120a"), rung).gemm_nvfp4_w4a4
    together = multiply(**case)
    for row in (0, 15, 16, 18):
        own = {n: case[n][row : row + 1] for n in ("x_codes", "x_scales")}
        assert np.array_equal(multiply(**{**case, **own})[0], together[row])


def test_experts_without_rows_are_not_read_and_blocks_behind_the_list_leave() -> None:
    case = product("grouped_gemm_nvfp4_w4a4", FP32, "exact", rows=18, outs=6, blocks=1)
    tiles = RoutingOps(machine("80")).schedule(case["offsets"], 16, 18)
    assert tiles[:, 0].tolist() == [1, 1, 3, -1, -1]  # 18 rows in tiles of 16: 17 and 1
    clean = Fp4Gemm(machine("80")).grouped_gemm_nvfp4_w4a4(**case)
    case["weight_scales"][[0, 2]] = 0x7F  # NaN, for experts that nobody chose
    assert np.array_equal(Fp4Gemm(machine("80")).grouped_gemm_nvfp4_w4a4(**case), clean)


def test_a_recorded_block_serves_other_counts() -> None:
    # a captured graph cannot change its grids: they hold the worst case, and blocks find their rows
    device = PtxDevice("80")
    case = next(cases("expert_ffn_nvfp4_w4a4"))
    weights = {n: a for n, a in case.items() if not n.startswith("x_") and n != "offsets"}
    rng = np.random.default_rng(9)
    x, offsets = rng.normal(size=(18, 80)).astype(np.float32), case["offsets"].copy()

    def block(on: PtxDevice | Recorder) -> Array:
        packed = Fp4Ops(on).quantize_nvfp4(x, 500.0, "kernel", "float32")
        network = Fp4Gemm(on).expert_ffn_nvfp4_w4a4
        return network(x_codes=packed.codes, x_scales=packed.scales, offsets=offsets, **weights)

    recorder = Recorder(device)
    out = recorder.record(lambda: block(recorder))
    for counts in ([0, 17, 17, 18], [0, 1, 2, 18], [0, 0, 0, 18]):
        x[...], offsets[...] = rng.normal(size=x.shape), counts
        recorder.replay()
        assert np.array_equal(out, block(device))


STRICT = {arch: PtxDevice(arch, strict=True) for arch in ("80", "120a")}


@pytest.mark.parametrize(
    ("op", "arch", "rung"),
    [
        ("gemm_nvfp4_w4a4", "80", "shared"),
        ("gemm_mxfp4", "80", "shared"),
        ("expert_ffn_nvfp4_w4a4", "80", "mma"),
        ("expert_ffn_nvfp4_w4a4", "120a", "sm120"),
        ("quantize_nvfp4", "80", "mma"),
    ],
)
def test_no_lane_waits_for_another_without_saying_so(op: str, arch: str, rung: Rung) -> None:
    # lanes of one warp race too, unless a __syncwarp or a shuffle orders them
    device = STRICT[arch]
    kernels: Any = Fp4Ops(device) if op == "quantize_nvfp4" else Fp4Gemm(device, rung)
    contract(op).judge(getattr(kernels, op), next(cases(op)))


# ------------------------------------------------------------------------ hardware's reciprocals


def an_ulp_off(ptx: str, entry: str, which: int, by: int) -> str:
    """The PTX with reciprocal number `which` of an entry moved by an ulp, as rcp.approx may be."""
    start = ptx.index(f".entry {entry}(")
    found = list(re.finditer(r"rcp\.approx\.ftz\.f32\s+(%f\d+), %f\d+;", ptx[start:]))[which]
    bits = f"{{ .reg .b32 t; mov.b32 t, {found[1]}; add.s32 t, t, {by}; mov.b32 {found[1]}, t; }}"
    end = start + found.end()
    return ptx[:end] + bits + ptx[end:]


class Moved(PtxDevice):
    """A machine whose reciprocals are an ulp off."""

    which, by = 0, 1

    def kernel(self, source: str, entry: str, defines: tuple[str, ...] = ()) -> Any:
        ptx = build(source, self.arch).ptx
        return self.from_ptx(an_ulp_off(ptx, entry, self.which, self.by), entry)


def test_reciprocals_an_ulp_off_show_at_ambiguous_places_alone() -> None:
    # what a GPU may do differently from the definition, and all that it may
    rng = np.random.default_rng(8)
    x = bf16.round_to_bf16(rng.normal(size=(64, 256)).astype(np.float32))
    S = float(np.float32(2688 / np.abs(x).max()))
    given: Case = {"x": x, "tensor_scale": S, "convention": "kernel_vllm", "source": "bfloat16"}
    exact = contract("quantize_nvfp4").definition(**given)
    allowed = activations.ambiguous_places(x, S, meaning="divisor")
    differing = np.zeros(x.shape, bool)
    for which in range(3):
        for by in (-1, 1):
            device = Moved()
            device.which, device.by = which, by
            got = Fp4Ops(device).quantize_nvfp4(**given)
            apart = got.codes ^ exact.codes
            differing |= np.stack([apart & 15, apart >> 4], axis=-1).reshape(x.shape) > 0
            differing |= np.repeat(got.scales != exact.scales, 16, axis=-1)
    assert differing.any()  # else this test would see nothing
    assert not (differing & ~allowed).any()


# ---------------------------------------------------------------------------------- bad calls


def test_bad_calls_say_what_was_expected() -> None:
    case = product("gemm_nvfp4_w4a4", FP32, "exact", rows=3, outs=5, blocks=2)
    multiply = Fp4Gemm(machine("80")).gemm_nvfp4_w4a4
    with pytest.raises(TinymoeError, match=r"x has rows of 16, the weights of 32"):
        multiply(**{**case, "x_codes": case["x_codes"][:, :8], "x_scales": case["x_scales"][:, :1]})
    with pytest.raises(TinymoeError, match=r"8 bytes of codes for each byte of scales"):
        multiply(**{**case, "x_scales": case["x_scales"][:, :1]})
    with pytest.raises(TinymoeError, match="x .nvfp4.: codes: expected uint8, got int64"):
        multiply(**{**case, "x_codes": case["x_codes"].astype(np.int64)})
    grouped = product("grouped_gemm_nvfp4_w4a4", FP32, "exact", rows=3, outs=5, blocks=2)
    with pytest.raises(TinymoeError, match="2 experts in offsets, 4 in the weights"):
        Fp4Gemm(machine("80")).grouped_gemm_nvfp4_w4a4(
            **{**grouped, "offsets": np.array([0, 2, 3])}
        )
    with pytest.raises(TinymoeError, match="the rung 'naive' has no kernel for all experts"):
        Fp4Gemm(machine("80"), "naive").grouped_gemm_nvfp4_w4a4(**grouped)
    with pytest.raises(TinymoeError, match="is for sm_120a, not sm_80"):
        Fp4Gemm(machine("80"), "sm120").gemm_nvfp4_w4a4(**case)


def test_quantisers_refuse_what_they_would_get_wrong() -> None:
    ops, x = Fp4Ops(machine("80")), np.ones((3, 32), np.float32)
    with pytest.raises(TinymoeError, match="expected rows of whole blocks of 16, got .3, 31."):
        ops.quantize_nvfp4(x[:, :31], 1.0, "kernel", "float32")
    with pytest.raises(TinymoeError, match="tensor_scale: expected divisor for 'kernel', got None"):
        ops.quantize_nvfp4(x, None, "kernel", "float32")
    with pytest.raises(TinymoeError, match="rows in multiples of 16 for 'te_2d', got .3, 32."):
        ops.quantize_nvfp4(x, 1.0, "te_2d", "float32")
    with pytest.raises(TinymoeError, match="convention: expected one of ocp_floor, .*, got 'nv'"):
        ops.quantize_mxfp4(x, "nv")
    with pytest.raises(TinymoeError, match="the kernels count 2.31 blocks, take it apart"):
        ops.quantize_nvfp4(np.broadcast_to(x, (2**29, 3, 32)), 1.0, "kernel", "float32")
    with pytest.raises(TinymoeError, match="expected float32, got float64"):
        ops.quantize_mxfp4(x.astype(np.float64), "ct")
    with pytest.raises(TinymoeError, match=r"flat: expected \(1024,\) for 3 rows of 5 scales"):
        ops.unswizzle_scales(np.zeros(512, np.uint8), 3, 5)


def test_nothing_to_do_is_no_launch() -> None:
    ops = Fp4Ops(machine("80"))
    packed = ops.quantize_nvfp4(np.zeros((0, 32), np.float32), 1.0, "kernel", "float32")
    assert packed.codes.shape == (0, 16)
    assert ops.dequantize_nvfp4(*packed, 1.0, "kernel").shape == (0, 32)
    case = product("grouped_gemm_nvfp4_w4a4", FP32, "exact", rows=2, outs=3, blocks=1)
    empty = {n: case[n][:0] for n in ("x_codes", "x_scales")}
    case |= empty | {"offsets": np.zeros(5, np.int64)}
    assert Fp4Gemm(machine("80")).grouped_gemm_nvfp4_w4a4(**case).shape == (0, 3)


def test_every_e4m3_scale_is_found_again() -> None:
    # bytes to numbers and back through the quantiser's encoder: amax 6 * scale, S = 1
    scales = np.arange(1, 0x7F, dtype=np.uint8)[:, None]
    codes = np.full((126, 8), 0x77, np.uint8)  # 6 everywhere
    x = Fp4Ops(machine("80")).dequantize_nvfp4(codes, scales, 1.0, "modelopt")
    assert np.array_equal(x[:, :1], 6 * e4m3.decode(scales))
    back = Fp4Ops(machine("80")).quantize_nvfp4(x, 1.0, "kernel", "float32")
    assert np.array_equal(back.scales, scales)
    assert np.array_equal(back.codes, codes)
