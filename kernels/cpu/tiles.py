"""How weights lie in memory, and how they are read: 32 rows together, lane = row.

A matrix (N, K) becomes ceil(N / 32) pairs of tiles, a tile 16 rows of all K columns. Columns come
in quads; of each quad first the one tile's, then the other's. So memory is read strictly forward,
one load serves 16 rows, and no sum ever crosses lanes.

    format   one quad of one tile                                         before a block of columns
    f32      4 x 16 float32                                               -
    bf16     2 x 16 words: columns 2j (low half) and 2j + 1 (high half)    -
    fp8      16 words: byte j is column j, E4M3                            2 x 16 float32, of 128
    nvfp4    32 bytes: low nibbles are columns 0 and 1, high 2 and 3       2 x 16 bytes UE5M3, of 16
    mxfp4    the same                                                      2 x 16 bytes E8M0, of 32

UE5M3 is what E4M3's scales become here: the same values with an exponent of five bits, so that
there is none below the normal ones, which cost a CPU as much as a block of weights, and without a
sign, which goes to the codes. Codes are exact in float32. How sums are made of them, and in which
order: `chains.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from tinymoe.core import Array
from tinymoe.formats import e4m3 as e4m3_codes
from tinymoe.kernels.cpu.lookup import byte_table
from tinymoe.kernels.cpu.simd import F32, I32, LANES, U8, prefetch_at

ROWS = 2 * LANES  # of a pair of tiles
_WORD = ir.IntType(64)
# E2M1 as BF16: 0 0.5 1 1.5 2 3 4 6, then with the sign. High and low byte of each.
_E2M1_HIGH = [0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40]
_E2M1_LOW = [0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0]
HIGH_BYTES = [*_E2M1_HIGH, *(high | 0x80 for high in _E2M1_HIGH)]
LOW_BYTES = [*_E2M1_LOW, *_E2M1_LOW]
# Where byte (row, column of two) of a quad's nibbles lies, so that unpacking needs no shuffle
# across the halves of an AVX2 register.
_EIGHTS = (0, 16, 8, 24)
NIBBLE_BYTE = [[_EIGHTS[row // 4] + 2 * (row % 4) + k for k in (0, 1)] for row in range(LANES)]

UE5M3_UNIT = np.float32(2.0**104)  # a byte's 8 bits as the upper ones of a float32, times this
_E4M3 = e4m3_codes.decode(np.arange(0x7F, dtype=np.uint8)).astype(np.float32)  # but for its NaN
UE5M3: Array = ((_E4M3 / UE5M3_UNIT).view(np.uint32) >> 20).astype(np.uint8)  # of an E4M3 byte


def load_at(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    """A vector at an address: for builders of LLVM instructions."""
    pointer = builder.inttoptr(builder.add(address, _WORD(offset)), kind.as_pointer())
    return builder.load(pointer, align=1 if kind.element == ir.IntType(8) else 4)


def _i32(value: int) -> Any:
    return ir.Constant(I32.llvm, [value] * LANES)


def _f32(value: float) -> Any:
    return ir.Constant(F32.llvm, [value] * LANES)


def _halves(builder: Any, words: Any) -> list[Any]:
    """16 words of two BF16 each: the low ones and the high ones, as float32."""
    parts = (builder.shl(words, _i32(16)), builder.and_(words, _i32(-65536)))
    return [builder.bitcast(part, F32.llvm) for part in parts]


def e4m3(builder: Any, bytes_: Any) -> Any:
    """16 E4M3 codes (int32 lanes) as float32: into the place of a float32's bits, times 2^120.

    Exact, subnormals included; 0x7f and 0xff, which are NaN, would become 480: `pack` refuses them.
    """
    sign = builder.shl(builder.and_(bytes_, _i32(0x80)), _i32(24))
    size = builder.shl(builder.and_(bytes_, _i32(0x7F)), _i32(20))
    return builder.fmul(builder.bitcast(builder.or_(sign, size), F32.llvm), _f32(2.0**120))


def _widened(builder: Any, address: Any) -> Any:
    """16 bytes, each as an int32."""
    return builder.zext(load_at(builder, address, ir.VectorType(ir.IntType(8), LANES)), I32.llvm)


def _f32_quad(builder: Any, at: Any) -> list[Any]:
    return [load_at(builder, at, F32.llvm, 64 * k) for k in range(4)]


def _unpacked_quad(builder: Any, at: Any) -> list[Any]:
    return [load_at(builder, at, F32.llvm, 128 * k) for k in range(4)]


def _bf16_quad(builder: Any, at: Any) -> list[Any]:
    words = [load_at(builder, at, I32.llvm, 64 * k) for k in range(2)]
    return [value for each in words for value in _halves(builder, each)]


def _fp8_quad(builder: Any, at: Any) -> list[Any]:
    words = load_at(builder, at, I32.llvm)
    codes = [builder.and_(builder.lshr(words, _i32(8 * k)), _i32(0xFF)) for k in range(4)]
    return [e4m3(builder, code) for code in codes]


def _fp4_quad(builder: Any, at: Any) -> list[Any]:
    """Nibbles to BF16 by two look-ups of a byte each: exact."""
    both = load_at(builder, at, U8.llvm)
    low = builder.and_(both, ir.Constant(U8.llvm, [15] * 32))
    high = builder.lshr(both, ir.Constant(U8.llvm, [4] * 32))
    order = [place for row in NIBBLE_BYTE for k in row for place in (k, k + 32)]
    values = []
    for codes in (low, high):
        bytes_ = [byte_table(builder, table, codes) for table in (LOW_BYTES, HIGH_BYTES)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 64), order)
        words = builder.bitcast(builder.shuffle_vector(*bytes_, mask), I32.llvm)
        values += _halves(builder, words)
    return values


def _ue5m3_scale(builder: Any, at: Any) -> Any:
    """Into the place of a float32's bits, times a power of two: exact, and 0 stays 0."""
    small = builder.shl(_widened(builder, at), _i32(20))
    return builder.fmul(builder.bitcast(small, F32.llvm), _f32(float(UE5M3_UNIT)))


def _e8m0_scale(builder: Any, at: Any) -> Any:
    """2^(byte - 127); bytes 0 and 255 are no exponents of a float32: `pack` refuses them."""
    return builder.bitcast(builder.shl(_widened(builder, at), _i32(23)), F32.llvm)


def _f32_scale(builder: Any, at: Any) -> Any:
    return load_at(builder, at, F32.llvm)


@dataclass(frozen=True)
class Format:
    """One way for weights to lie in memory."""

    name: str
    block: int  # columns that share a scale; the number of columns is a multiple of it
    scale_bytes: int  # of one tile before each block
    quad_bytes: int  # of one tile
    tile_step: int  # bytes from one tile's quad to the other's
    quad: Callable[..., list[Any]]
    scale: Callable[..., Any] | None
    ahead: bool = True  # ask memory for what comes; not for 66 lines at once, which is slower
    short: int = 1  # quads of a block that are written out one after another, if it has no more

    @property
    def block_bytes(self) -> int:
        """Of both tiles."""
        return 2 * (self.scale_bytes + self.block // 4 * self.quad_bytes)

    def columns(self, k: int) -> int:
        """K with its padding: whole blocks."""
        return -(-k // self.block) * self.block

    def pair_bytes(self, k: int) -> int:
        """Of 32 rows."""
        return self.columns(k) // self.block * self.block_bytes


FORMATS = {
    each.name: each
    for each in (
        Format("f32", 4, 0, 256, 256, _f32_quad, None),
        Format("bf16", 4, 0, 128, 128, _bf16_quad, None),
        Format("fp8", 128, 64, 64, 64, _fp8_quad, _f32_scale, ahead=False),
        Format("nvfp4", 16, 16, 32, 32, _fp4_quad, _ue5m3_scale),
        Format("mxfp4", 32, 16, 32, 32, _fp4_quad, _e8m0_scale),
    )
}


AHEAD = 4096  # bytes: further is another's part, nearer is too late


def ask_ahead(builder: Any, form: Format, block: Any) -> None:
    """Ask memory for the block so many bytes further on.

    A CPU guesses what is read next as well, but it waits for the block at hand to be computed with:
    without this, reading and computing take one after the other's time.
    """
    for line in range(-(-form.block_bytes // 64)):
        prefetch_at(builder, builder.add(block, _WORD(AHEAD + 64 * line)))


def unpacked(form: Format) -> Format:
    """What `chains.unpack` writes and the many-token product reads: (columns, 32 rows) float32.

    Before each block come its scales, as float32.
    """
    name = f"{form.name} unpacked"
    return Format(name, form.block, 64, 256, 64, _unpacked_quad, _f32_scale, ahead=False, short=4)
