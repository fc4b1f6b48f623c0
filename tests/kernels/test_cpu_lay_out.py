"""A whole model laid out as tiles: the same bits on any number of threads, and in memory once.

Prevents: values in float32 that stay beside the tiles, a stack that is read as a whole, a thread's
matrix in another's place, an error that a thread keeps to itself.
"""

from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest

import tinymoe
from tests.stored import ROOT
from tinymoe.core import Array, TinymoeError
from tinymoe.kernels.cpu import lay_out
from tinymoe.kernels.cpu.pack import pack, pack_values
from tinymoe.kernels.cpu.weights import Weights
from tinymoe.model.on_demand import OnDemand

pytestmark = pytest.mark.kernels
RNG = np.random.default_rng(5)


def params_of(case: str | None) -> Any:
    """Of a recorded model, None: of the shipped one; matrices are read when they are packed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints' own oddities: tested elsewhere
        return tinymoe.load(case and ROOT / case, backend="numba").params


def arrays_of(weights: Weights) -> list[Array]:
    found = []
    for packed in weights.matrices:
        found += [packed.data] + ([] if packed.row_scales is None else [packed.row_scales])
    return found


@pytest.mark.parametrize("case", ["gpt_oss-mxfp4", "deepseek_v3", "granitemoeshared"])
def test_any_number_of_threads_makes_the_same_tiles(case: str) -> None:
    """Codes, latent attention's matrices for each head, a shared expert, a tied head."""
    params = params_of(case)
    one = arrays_of(lay_out.weights_of(params))
    for threads in (2, 5):
        more = arrays_of(lay_out.weights_of(params, threads=threads))
        assert all(np.array_equal(a, b) for a, b in zip(one, more, strict=True))


@pytest.mark.parametrize("threads", [1, 3])
def test_weights_are_in_memory_once(threads: int) -> None:
    """Of all bytes that are held: 1.0 of the tiles. Values in float32 beside them would be 3.0.

    On the way a thread holds at most one matrix besides: as float32, and in two copies of 16 bits
    while it is brought into order; the largest is the embedding, 4096 x 256.
    """
    params = params_of(None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        weights = lay_out.weights_of(params, threads=threads)
        now, most = (bytes_ - before for bytes_ in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    tiles = sum(matrix.nbytes for matrix in weights.matrices)
    assert tiles > 30e6
    # the rest: norms, and what Python itself keeps of 8 layers
    assert tiles <= now < 1.02 * tiles
    assert most < now + threads * (4 + 2 * 2 + 1) * 4096 * 256


@pytest.mark.parametrize("form", ["f32", "bf16"])
def test_a_matrix_is_read_a_few_rows_at_a_time(form: str) -> None:
    """In whole pairs of tiles, though 40 rows were offered at once; the last pair has 11 rows."""
    values = RNG.standard_normal((331, 20)).astype(np.float32)
    if form == "bf16":
        values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    asked = []

    def read(rows: slice) -> Array:
        asked.append(rows)
        return values[rows]

    packed = pack_values(OnDemand(values.shape, read, block=40))
    assert np.array_equal(packed.data, pack(values).data)
    assert packed.form.name == form
    assert [rows for rows in asked if rows.start] == [slice(n, n + 32) for n in range(32, 331, 32)]


def test_progress_is_told_of_every_part_in_order() -> None:
    params, told = params_of("gpt_oss-mxfp4"), []
    lay_out.weights_of(params, lambda done, of: told.append((done, of)), threads=2)
    parts = 2 + 2 * len(params.layers)  # the embedding, the head, each layer's halves
    assert told == [(number, parts) for number in range(1, parts + 1)]


def test_what_fails_in_a_thread_is_the_caller_s_error() -> None:
    def packer(weight: Any, *, gate_up: bool = False) -> Any:
        raise TinymoeError("block scale 127 is no number")

    with pytest.raises(TinymoeError, match="block scale 127"):
        lay_out.weights_of(params_of(None), packer=packer, threads=2)
