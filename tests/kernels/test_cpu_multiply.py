"""One pair of tiles times 1 to 15 tokens: the same bits for each token, however many there are.

Few tokens, many and what is left over go different ways through `multiply`; a way that sums in
another order makes a prompt's text depend on how it was cut. The second half runs this file's own
products in a process that compiles for a CPU without AVX or FMA.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.plain_cpu import on_a_plain_cpu
from tinymoe.core import Array
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.multiply import SCRATCH, multiply
from tinymoe.kernels.cpu.tiles import FORMATS

pytestmark = pytest.mark.kernels
MOST, DEEPS = 15, (128, 384)  # columns: one unpacked piece, and several
GENERIC = ("f32", "bf16", "nvfp4")  # each kind of walk once: compiling is what takes time


def weights(name: str, columns: int) -> Array:
    """Finite codes and scales of 32 rows, as they lie in a pair of tiles."""
    form, rng = FORMATS[name], np.random.default_rng(columns)
    size = form.pair_bytes(columns)
    if name in ("f32", "bf16"):
        words = rng.normal(size=size // 2).astype(np.float32).view(np.uint32)
        upper = (words >> 16).astype(np.uint16)  # a BF16 is a float32's upper half
        return words[: size // 4].view(np.uint8) if name == "f32" else upper.view(np.uint8)
    data = rng.integers(0, 127, size).astype(np.uint8)  # no code of E4M3 below 127 is NaN
    blocks = data.reshape(-1, form.block_bytes)
    scales = 2 * form.scale_bytes
    if name == "fp8":
        shape = (len(blocks), scales // 4)
        blocks[:, :scales] = rng.normal(size=shape).astype(np.float32).view(np.uint8)
    elif name == "mxfp4":
        blocks[:, :scales] = rng.integers(110, 140, (len(blocks), scales))
    return data


def products(name: str, columns: int, x: Array, narrow: bool = False) -> Array:
    """x (T, K) times 32 rows: (T, 32); narrow: times 16, and zeros."""
    tokens = len(x)
    tiles, sums = aligned(FORMATS[name].pair_bytes(columns), np.uint8), aligned(tokens * 32)
    tiles[:] = weights(name, columns)
    rows = x.ctypes.data + x.strides[0] * np.arange(tokens)
    scratch = aligned(SCRATCH, np.uint8)
    at, out, own = (each.ctypes.data for each in (rows, sums, scratch))
    multiply(name, narrow)(tiles.ctypes.data, columns, at, tokens, out, own)
    return sums.reshape(tokens, 32).copy()


def tokens_of(columns: int) -> Array:
    return np.random.default_rng(1).normal(size=(MOST, columns)).astype(np.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_a_token_s_sums_do_not_depend_on_the_others(name: str) -> None:
    for columns in DEEPS:
        x = tokens_of(columns)
        alone = np.concatenate([products(name, columns, x[t : t + 1]) for t in range(MOST)])
        assert np.isfinite(alone).all()
        for tokens in range(1, MOST + 1):
            together = products(name, columns, x[:tokens])
            assert together.tobytes() == alone[:tokens].tobytes(), (columns, tokens)


@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_one_tile_alone_gives_the_bits_that_it_gives_beside_another(name: str) -> None:
    # a router's logits must not depend on how many experts there are beside these
    x = tokens_of(DEEPS[1])
    both = products(name, DEEPS[1], x)
    for tokens in range(1, MOST + 1):
        alone = products(name, DEEPS[1], x[:tokens], narrow=True)
        assert alone[:, :16].tobytes() == both[:tokens, :16].tobytes(), tokens
        assert not alone[:, 16:].any()


def all_bytes() -> bytes:
    """Every way of the formats that are compiled for the plain CPU, too."""
    return b"".join(
        products(name, DEEPS[1], tokens_of(DEEPS[1])[:tokens]).tobytes()
        for name in GENERIC
        for tokens in (1, 3, MOST)
    )


def test_a_cpu_without_extras_gives_the_same_bits() -> None:
    """There `fma` is a function of the C library, and codes are looked up by comparisons."""
    assert on_a_plain_cpu(__file__, "all_bytes()") == all_bytes()
