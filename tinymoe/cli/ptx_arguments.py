"""What the user of `ptx` writes for a kernel's arguments and sizes, as NumPy values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.core import TinymoeError

DTYPES = {
    **{"f16": "f2", "f32": "f4", "f64": "f8", "bool": "?"},
    **{f"{k}{b}": f"{'i' if k == 's' else 'u'}{b // 8}" for k in "su" for b in (8, 16, 32, 64)},
}
SPEC = re.compile(r"(\w+?)(?:\[(\d+(?:,\d+)*)\])?=(arange|random(?::\d+)?|-?[\w.+-]+)")


def shape(text: str, option: str) -> tuple[int, ...]:
    """`4`, `4,2` or `4,2,1`."""
    if not re.fullmatch(r"\d+(,\d+){0,2}", text):
        raise TinymoeError(f"{option} {text!r}: expected X, X,Y or X,Y,Z, such as 4,2")
    return tuple(int(n) for n in text.split(","))


def value(spec: str) -> Any:
    """One argument: an array (a pointer for the kernel) or a number."""
    if spec.endswith(".npy"):
        try:
            return np.ascontiguousarray(np.load(spec, allow_pickle=False))
        except ValueError as error:
            raise TinymoeError(f"--arg {spec!r}: {error}") from error
    found = SPEC.fullmatch(spec)
    if not found or found[1] not in DTYPES or (found[3][:1] in "ar" and not found[2]):
        raise TinymoeError(
            f"--arg {spec!r}: expected TYPE[N]=arange, TYPE[N]=random, TYPE[N]=random:SEED, "
            f"TYPE[N]=VALUE, TYPE=VALUE or FILE.npy, TYPE one of {', '.join(DTYPES)}"
        )
    dtype = np.dtype(DTYPES[found[1]])
    sizes = tuple(int(n) for n in found[2].split(",")) if found[2] else ()
    try:
        return _filled(dtype, sizes, found[3])
    except (ValueError, OverflowError, MemoryError) as error:
        raise TinymoeError(f"--arg {spec!r}: {error}") from error


def _filled(dtype: np.dtype[Any], sizes: tuple[int, ...], how: str) -> Any:
    if how == "arange":
        return np.arange(int(np.prod(sizes))).astype(dtype).reshape(sizes)
    if how.startswith("random"):
        rng = np.random.default_rng(int(how.partition(":")[2] or 0))
        if dtype.kind == "f":
            return rng.standard_normal(sizes).astype(dtype)
        if dtype.kind == "b":
            return rng.random(sizes) < 0.5
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, sizes, dtype, endpoint=True)
    number = float(how) if dtype.kind == "f" else int(how, 0)
    filled = np.full(sizes, number, dtype)
    return filled if sizes else filled[()]


def keep(specs: list[str], args: list[Any]) -> None:
    """`N=FILE.npy`: write argument N to a file."""
    for spec in specs:
        number, _, path = spec.partition("=")
        if not number.isdigit() or not path or int(number) >= len(args):
            raise TinymoeError(f"--save {spec!r}: expected N=FILE.npy, N from 0 to {len(args) - 1}")
        np.save(Path(path), args[int(number)], allow_pickle=False)
