"""Four-bit weights times whole numbers of one or two digits: sums that no order can change.

Twice a code's value is a whole number, up to 12, and so is each x, as so many units. A term of a
row's answer is one block's sum of their products, exact, times the block's scale and x's unit:

    y = fma(sum[0], s[0] * u[0], 0); y = fma(sum[1], s[1] * u[1], y); ...

Who makes x whole numbers, and what the error is then: `fixed.py` of activations in BF16, two
digits, `w4a4.py` of activations in four bits, one. A row of x lies in memory so that it need only
be loaded: of each 16 columns the digits as bytes, in pairs of columns, each pair twice (0 1 0 1 2 3
2 3 ...), one digit after the other; then, after all of these, of each term and each of its digits
-LIFT times their sum, int16, twice, which is where a sum of products begins; and a float32, the
unit.

A weight's codes go through registers: 64 bytes are two columns of 32 rows in their low nibbles and
two in the high ones. They are looked up as numbers without sign (`integers.py`), an instruction
multiplies them by two columns' x, and 16 bits hold the sum: a block's 32 columns at most, of one
digit up to 12, make 32 * 12 * 12, and 16 columns of a digit up to 64 make 16 * 12 * 64. (On its way
a sum may be more than 16 bits hold: they wrap, and it comes back.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.chains import _rolled
from tinymoe.kernels.cpu.integers import byte_pairs, interleaved, lifted, nibbles, pairs_times
from tinymoe.kernels.cpu.lazily import cgutils, operation, types
from tinymoe.kernels.cpu.simd import F32, I32, fused, spread
from tinymoe.kernels.cpu.tiles import Format, ask_ahead, load_at

COLUMNS = 16  # whose digits lie together
RADIX = 128  # of two digits
TILES = 2
WORD, INT = ir.IntType(64), ir.IntType(32)
BYTES, HALVES = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.IntType(16), 32)


@dataclass(frozen=True)
class Rows:
    """How rows of x lie in memory, see above."""

    digits: int  # of a number: 1, or 2, the low one first
    term: int  # columns of a term: 16, or 32 of one digit
    between: int = 0  # bytes of each 16 columns that lie between the digits and the terms

    @property
    def digit_bytes(self) -> int:
        """Of 16 columns."""
        return 2 * COLUMNS * self.digits

    @property
    def term_bytes(self) -> int:
        """A lift of each digit, a unit."""
        return 4 * self.digits + 4

    def bytes_of(self, columns: int) -> int:
        """Of a row, whose columns are whole terms."""
        pieces, terms = columns // COLUMNS, columns // self.term
        return pieces * (self.digit_bytes + self.between) + terms * self.term_bytes


def at_(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    """A pointer to a vector or a number."""
    return builder.inttoptr(builder.add(address, WORD(offset)), kind.as_pointer())


def plus(builder: Any, base: Any, index: Any, step: int) -> Any:
    """base + index * step."""
    return builder.add(base, builder.mul(index, WORD(step)))


class Row:
    """Where a row of x is read."""

    def __init__(self, builder: Any, rows: Rows, start: Any, columns: Any) -> None:
        pieces = builder.udiv(columns, WORD(COLUMNS))
        self.builder, self.rows, self.digits = builder, rows, start
        self.between = plus(builder, self.digits, pieces, rows.digit_bytes)
        self.terms = plus(builder, self.between, pieces, rows.between)

    def digit(self, piece: Any, pair: Any, digit: int, offset: int) -> Any:
        """One digit of two columns, 32 times: 64 bytes."""
        at = plus(self.builder, self.digits, piece, self.rows.digit_bytes)
        at = plus(self.builder, at, pair, 4)
        return self.builder.bitcast(self.four(at, 2 * COLUMNS * digit + offset), BYTES)

    def four(self, at: Any, offset: int = 0) -> Any:
        """4 bytes, 16 times: int32."""
        four = self.builder.load(at_(self.builder, at, INT, offset), align=4)
        return spread(self.builder, four, I32.llvm)

    def lift(self, term: Any, digit: int) -> Any:
        """-12 times a digit's sum, 32 times."""
        at = plus(self.builder, self.terms, term, self.rows.term_bytes)
        return self.builder.bitcast(self.four(at, 4 * digit), HALVES)

    def unit(self, term: Any) -> Any:
        """16 times."""
        at = plus(self.builder, self.terms, term, self.rows.term_bytes)
        at = at_(self.builder, at, ir.FloatType(), 4 * self.rows.digits)
        return spread(self.builder, self.builder.load(at, align=4), F32.llvm)


class Held:
    """Whole numbers, in registers as long as a block lasts: a vector for each name."""

    def __init__(self, builder: Any, kind: Any, names: Iterable[Any]) -> None:
        self.builder, self.kind = builder, kind
        self.places = {name: cgutils.alloca_once(builder, kind) for name in names}

    def clear(self) -> None:
        """A block begins."""
        for name in self.places:
            self.begin(name, ir.Constant(self.kind, [0] * self.kind.count))

    def begin(self, name: Any, number: Any) -> None:
        """With so much."""
        self.builder.store(number, self.places[name])

    def add(self, name: Any, products: Any) -> None:
        """Two columns more."""
        place = self.places[name]
        self.builder.store(self.builder.add(self.builder.load(place), products), place)

    def __getitem__(self, name: Any) -> Any:
        return self.builder.load(self.places[name])


def _tiles(builder: Any, digits: list[Any]) -> list[Any]:
    """Sums of each digit, 32 int16 of two tiles, as whole numbers: of each tile 16 int32."""
    low, high, factors = digits[0], digits[-1], (1, RADIX if len(digits) > 1 else 0)
    halves = [
        pairs_times(builder, interleaved(builder, low, high, half), factors) for half in range(2)
    ]  # rows 0 .. 7 of both tiles, rows 8 .. 15
    lanes = [[8 * tile + k + side for side in (0, 16) for k in range(8)] for tile in range(TILES)]
    return [builder.shuffle_vector(*halves, ir.Constant(I32.llvm, each)) for each in lanes]


def add_term(builder: Any, whole: Any, scale: Any, to: Any) -> None:
    """One term more of 16 rows' sums."""
    number = builder.sitofp(whole, F32.llvm)
    builder.store(fused(builder, number, scale, builder.load(to, align=4)), to, align=4)


def times_whole(form: Format, rows: Rows, tokens: int, factor: float = 1.0) -> Callable[..., Any]:
    """`f(weight, columns, xs, sums)`: 32 rows of a weight times `tokens` rows of x.

    xs: addresses of their addresses. sums: (tokens, 32) float32, added to. factor: of all scales.
    """

    def build(builder: Any, weight: Any, columns: Any, listed: Any, sums: Any) -> None:
        xs = [
            Row(builder, rows, builder.load(at_(builder, listed, WORD, 8 * t)), columns)
            for t in range(tokens)
        ]
        held = Held(builder, HALVES, product(range(tokens), range(rows.digits)))
        count = builder.udiv(columns, WORD(form.block))
        with cgutils.for_range(builder, count) as loop:
            at = plus(builder, weight, loop.index, form.block_bytes)
            ask_ahead(builder, form, at)
            for part in range(form.block // rows.term):
                term = plus(builder, WORD(part), loop.index, form.block // rows.term)
                for t, digit in held.places:
                    held.begin((t, digit), xs[t].lift(term, digit))
                first = plus(builder, WORD(part * rows.term // 4), loop.index, form.block // 4)
                quads = builder.add(at, WORD(2 * form.scale_bytes))
                quads = builder.add(quads, WORD(part * rows.term // 4 * 2 * form.quad_bytes))
                _visit(builder, rows, xs, held, first, quads)
                _end(builder, form, xs, held, at, term, sums, factor)

    made: Callable[..., Any] = operation(types.void, (types.int64,) * 4, build)
    return made


def _visit(builder: Any, rows: Rows, xs: list[Row], held: Held, first: Any, quads: Any) -> None:
    """All columns of a term, by fours from quad `first` of a row on."""

    def quad(number: Any) -> None:
        both = nibbles(builder, load_at(builder, plus(builder, quads, number, 64), BYTES))
        column = builder.add(first, number)  # in fours
        piece, pair = builder.lshr(column, WORD(2)), builder.and_(column, WORD(3))
        pair = builder.mul(pair, WORD(2))
        for half, codes in enumerate(both):
            w = lifted(builder, codes)
            for t, digit in product(range(len(xs)), range(rows.digits)):
                two = xs[t].digit(piece, pair, digit, 4 * half)
                held.add((t, digit), byte_pairs(builder, w, two))

    _rolled(builder, 0, rows.term // 4, quad)


def _end(
    builder: Any,
    form: Format,
    xs: list[Row],
    held: Held,
    block: Any,
    term: Any,
    sums: Any,
    factor: float,
) -> None:
    """A term of each row of x, onto its sums."""
    scales = [
        form.scale(builder, builder.add(block, WORD(form.scale_bytes * tile)))  # type: ignore[misc]
        for tile in range(TILES)
    ]
    if factor != 1:
        by = ir.Constant(F32.llvm, [factor] * 16)
        scales = [builder.fmul(scale, by) for scale in scales]
    for t, x in enumerate(xs):
        whole = _tiles(builder, [held[t, digit] for digit in range(x.rows.digits)])
        for tile in range(TILES):
            scale = builder.fmul(scales[tile], x.unit(term))
            add_term(builder, whole[tile], scale, at_(builder, sums, F32.llvm, 128 * t + 64 * tile))
