"""What a wrong tensor looks like: each kind is planted, found, and found in nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.oracle.diagnose.signatures import Hints, signatures

pytestmark = pytest.mark.definition

T, N, LIMIT = 24, 64, 1e-6  # float32's own error is below
RNG = np.random.default_rng(0)
RIGHT = RNG.normal(size=(T, N)).astype(np.float32)
SHARED = RNG.normal(size=(T, N)).astype(np.float32)
HINTS = Hints({"2 ranks": 2.0, "448 x 6": 2688.0}, {"moe.shared": SHARED})


def changed(places: object, factor: float = 1.5) -> np.ndarray:
    wrong = RIGHT.copy()
    wrong[places] *= factor  # type: ignore[index]
    return wrong


def scaled(width: int) -> np.ndarray:
    scales = np.random.default_rng(1).uniform(0.5, 2, (T, N // width))
    return (RIGHT * scales.repeat(width, 1)).astype(np.float32)


PLANTED: dict[str, tuple[Callable[[], np.ndarray], str, str]] = {
    "ranks": (lambda: RIGHT * 2, "ratio", "which is 2 ranks"),
    "inverse": (lambda: RIGHT / 2688, "ratio", "which is 1 / 448 x 6"),
    "any factor": (lambda: RIGHT * np.float32(1.7), "ratio", "it is 1.7 times the reference"),
    "shared thrice": (lambda: RIGHT + 2 * SHARED, "added", "moe.shared is in it 3 times"),
    "shared lost": (lambda: RIGHT - SHARED, "added", "moe.shared is missing"),
    "halves": (lambda: np.roll(RIGHT, N // 2, axis=1), "halves", "two halves are exchanged"),
    "interleaved": (
        lambda: np.concatenate([RIGHT[:, ::2], RIGHT[:, 1::2]], 1),
        "interleaved",
        "halves are read as even and odd",
    ),
    "nibbles": (
        lambda: RIGHT.reshape(T, -1, 2)[:, :, ::-1].reshape(T, N),
        "neighbours",
        "neighbours are exchanged",
    ),
    "columns": (lambda: np.roll(RIGHT, 3, axis=1), "columns-moved", "moved on by 3 of 64"),
    "tokens": (lambda: RIGHT[::-1], "rows-moved", "reversed"),
    "shift": (lambda: np.concatenate([SHARED[:1], RIGHT[:-1]]), "shifted", "the token before"),
    "transposed": (lambda: RIGHT.T.reshape(T, N), "transposed", "exchanged in memory"),
    "blocks of 16": (lambda: scaled(16), "blocks-16", "every 16 columns"),
    "blocks of 32": (lambda: scaled(32), "blocks-32", "every 32 columns"),
    "period 16": (lambda: changed(np.s_[:, 3::16]), "columns", "columns 3 of every 16 are wrong"),
    "period 32": (lambda: changed(np.s_[:, 5::32]), "columns", "columns 5 of every 32 are wrong"),
    "one row in four": (lambda: changed(np.s_[1::4]), "rows", "tokens 1 of every 4 are wrong"),
    "one row": (lambda: changed(5), "rows", "token 5 alone is wrong"),
    "bf16": (lambda: round_to_bf16(RIGHT), "bf16", "rounded to bf16"),
    "zero": (lambda: np.zeros_like(RIGHT), "zero", "all entries are 0"),
    "nan": (lambda: changed(np.s_[2:4, 16:32], np.nan), "nan", "within [2 to 3, 16 to 31]"),
    "sign": (lambda: np.abs(RIGHT), "absolute", "the sign is lost"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_it_is_found(kind: str) -> None:
    make, name, says = PLANTED[kind]
    found = [mark for mark in signatures(RIGHT, make(), LIMIT, HINTS) if mark.fits]
    assert (found[0].name, says in found[0].says) == (name, True), found


@pytest.mark.parametrize("seed", range(1, 21))
def test_it_is_not_found_in_noise(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(T, N))
    for size in (1e-3, 1.0, 30.0):
        wrong = (RIGHT + size * noise).astype(np.float32)
        assert not [mark for mark in signatures(RIGHT, wrong, LIMIT, HINTS) if mark.fits]


def test_heads_in_another_layout() -> None:
    heads = RNG.normal(size=(T, 4, 16)).astype(np.float32)
    turned = np.concatenate([heads[..., ::2], heads[..., 1::2]], -1)  # as rope's two layouts do
    mark = signatures(heads, turned, LIMIT, HINTS)[0]
    assert (mark.name, mark.fits) == ("interleaved", True)
    assert mark.says.startswith("each head's")


def test_masked_entries_say_nothing() -> None:
    wrong = np.ma.masked_array(RIGHT * 2, mask=np.zeros(RIGHT.shape, bool))
    wrong[3, 3:9] = np.ma.masked
    wrong.data[3, 3:9] = 1e9
    assert not any(mark.error > 1e3 for mark in signatures(RIGHT, wrong, LIMIT, HINTS))
