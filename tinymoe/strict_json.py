"""JSON from strangers: one object, no key twice, finite numbers, nothing deep, nothing huge.

Python's own reader keeps the last of two equal keys and accepts NaN: two readers of one file
would then see two models.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from tinymoe.core import TinymoeError

MAX_DEPTH = 64  # objects and lists inside each other; a real config has 3 or 4
MAX_BYTES = 256 * 2**20  # of one file; the index of a 1,000-shard checkpoint has about 10 MB


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`. Errors name the file."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise TinymoeError(f"{path}: cannot be read: {error.strerror}") from None
    if size > MAX_BYTES:
        raise TinymoeError(f"{path}: expected at most {MAX_BYTES:,} bytes of JSON, found {size:,}")
    return parse_object(data, str(path))


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`; `where` names its source in errors.

    Raises `TinymoeError` for bytes that are not UTF-8, text that is not JSON, a value that is
    not an object, a repeated key, NaN, an infinity (1e999 too), and nesting past MAX_DEPTH.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise TinymoeError(f"{where}: expected UTF-8 text: {error}") from None
    except RecursionError:
        raise TinymoeError(f"{where}: expected at most {MAX_DEPTH} nested levels") from None
    except ValueError as error:  # not JSON, or one of the hooks below
        raise TinymoeError(f"{where}: expected plain JSON: {error}") from None
    if not isinstance(value, dict):
        raise TinymoeError(f"{where}: expected a JSON object, found {type(value).__name__}")
    _check_depth(value, where)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} appears twice in one object")
    return table


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a float64")
    return value


def _check_depth(value: object, where: str) -> None:
    """Level by level and not by recursion, which depth itself could break."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    raise TinymoeError(f"{where}: expected at most {MAX_DEPTH} nested levels")
