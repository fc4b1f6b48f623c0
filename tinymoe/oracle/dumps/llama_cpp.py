"""The text of llama.cpp's eval-callback: of each tensor the corners, in four decimals.

    common_debug_cb_eval:  ffn_moe_logits-0 = (f32) MUL_MAT(...) = {16, 5, 1, 1}
        [
            [
                [      0.1234,      -0.5000,       1.0000,    ..., ...],
                ...,
            ],
        ]
        sum = 12.345678

Sizes are listed innermost first: {16, 5, 1, 1} is (5, 16) here. Of an axis longer than six the
first three and the last three entries are printed; where entries were left out the array is
masked, so a comparison looks at what was printed and nowhere else. Queries of a prompt of one token
cannot be told from a matrix: dump at least two. Source of the format:
ggml-org/llama.cpp, `common/debug.cpp` (older: `examples/eval-callback`, which says `ggml_debug:`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError

_HEAD = re.compile(
    r"^\s*(?:ggml_debug|common_debug_cb_eval):\s+(\S.*?) = \((\w+)\)\s+\w+\(.*\) = "
    r"\{(\d+), (\d+), (\d+), (\d+)\}\s*$"
)
ma: Any = np.ma  # typed in some versions of NumPy and not in others
_PRINTED = 3  # entries at each end of an axis
DECIMALS = 4  # so a printed value is off by up to half of 1e-4


def read_eval_callback(path: Path) -> dict[str, Array]:
    """Name -> masked float64 array; the last of several tensors with one name.

    So of `Qcur`, which is projected, cut into heads, normed and turned, what was turned. Whole
    numbers (i32, i64) come as int64. The last layer goes on with the last token alone: its tensors
    come with as many rows as the embedding has, the others masked.
    """
    text = path.read_text("utf-8", errors="replace").splitlines()
    result: dict[str, Array] = {}
    for name, dtype, shape, lines in _tensors(text):
        numbers = [n for line in lines for n in re.findall(r"-?(?:\d+\.\d+|nan|inf)", line)]
        values = _place(name, shape, [float(number) for number in numbers])
        result[name] = _whole(values) if dtype.startswith("i") else values
    if not result:
        raise TinymoeError(
            f"{path}: expected the output of llama-eval-callback, lines as "
            "'common_debug_cb_eval: NAME = (f32) OP(...) = {4, 3, 2, 1}'; found none"
        )
    tokens = next((len(result[name]) for name in ("embd", "inp_embd") if name in result), 1)
    return {name: _widened(value, tokens) for name, value in result.items()}


def _whole(values: Array) -> Array:
    """Masked whole numbers."""
    mask = ma.getmaskarray(values)
    numbers = np.where(mask, 0, ma.getdata(values)).astype(np.int64)
    return ma.array(numbers, mask=mask)


def _widened(value: Array, tokens: int) -> Array:
    """A single row of a prompt's last token in its place below masked ones."""
    if value.ndim < 2 or len(value) != 1 or tokens == 1:
        return value
    shape = (tokens, *value.shape[1:])
    whole: Array = ma.masked_all(shape, value.dtype)
    whole[-1] = value[0]
    return whole


def _tensors(
    lines: Iterable[str],
) -> Iterator[tuple[str, str, tuple[int, ...], list[str]]]:
    """Head lines, each with the lines of numbers that follow it up to `sum =`."""
    head: re.Match[str] | None = None
    body: list[str] = []
    for line in lines:
        found = _HEAD.match(line)
        if found:
            head, body = found, []
        elif head and line.strip().startswith("sum ="):
            sizes = tuple(int(size) for size in head.groups()[2:])
            yield head[1], head[2], sizes[::-1], body
            head = None
        elif head:
            body.append(line)


def _place(name: str, shape: tuple[int, ...], numbers: list[float]) -> Array:
    """Printed numbers to where they belong; leading axes of length 1 are taken off, down to two."""
    # The outermost axis of the four is printed whole.
    printed = [list(range(shape[0]))] + [_ends(size) for size in shape[1:]]
    places = list(itertools.product(*printed))
    if len(places) != len(numbers):
        raise TinymoeError(
            f"{name!r} of shape {shape}: expected {len(places)} printed numbers, found "
            f"{len(numbers)}: the text is cut, or another program printed it"
        )
    whole: Array = ma.masked_all(shape, np.float64)
    for place, number in zip(places, numbers, strict=True):
        whole[place] = number
    while whole.ndim > 2 and whole.shape[0] == 1:
        whole = whole[0]
    return whole


def _ends(size: int) -> list[int]:
    if size <= 2 * _PRINTED:
        return list(range(size))
    return [*range(_PRINTED), *range(size - _PRINTED, size)]
