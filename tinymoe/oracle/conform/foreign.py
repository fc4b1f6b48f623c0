"""Somebody else's function: found by its name, given its kind of arrays, its answer read back.

Arrays pass without a copy where the two sides allow it: by NumPy's own protocol, by DLPack (torch,
JAX, CuPy, ...), or by `__cuda_array_interface__`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, Permutation, Routing, TinymoeError
from tinymoe.kernels.check_sample import Drawn
from tinymoe.kernels.contracts import Contract
from tinymoe.kernels.formats_ops import Packed
from tinymoe.model.linear_attention import Carried

Kind = Literal["numpy", "torch", "cupy"]
KINDS: tuple[Kind, ...] = ("numpy", "torch", "cupy")

# Ops that answer with several things: the type, and what a caller must give at least. What is not
# given is filled in from the definition and so not judged.
PARTS: Mapping[str, tuple[type, tuple[str, ...]]] = {
    "route": (Routing, ("ids", "weights")),
    "permute": (Permutation, ("order", "offsets")),
    "sample": (Drawn, ("probabilities",)),
    "causal_conv": (Carried, ("out", "state")),
    "gated_delta": (Carried, ("out", "state")),
    "lightning": (Carried, ("out", "state")),
    "quantize_nvfp4": (Packed, ("codes", "scales")),
    "quantize_mxfp4": (Packed, ("codes", "scales")),
    "quantize_fp8": (Packed, ("codes", "scales")),
}


def resolve(spec: str) -> Callable[..., Any]:
    """The function that "module:function" names; the working folder's modules are found too."""
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise TinymoeError(f"expected MODULE:FUNCTION, as mykernels.router:route; got {spec!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise TinymoeError(f"{module!r} cannot be imported from {here}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise TinymoeError(f"{module!r} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise TinymoeError(f"{spec!r} is no function but a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


class Foreign:
    """A function under test, as an implementation of an op."""

    def __init__(self, function: Callable[..., Any], row: Contract, kind: Kind = "numpy") -> None:
        self._function, self._row = function, row
        self._give = _giver(kind)

    def __call__(self, **case: Any) -> Any:
        """Call it, by keyword, and read its answer as the op's type."""
        answer = self._function(**{name: _walk(value, self._give) for name, value in case.items()})
        parts = PARTS.get(self._row.name)
        return to_numpy(answer) if parts is None else self._assemble(answer, case, *parts)

    def _assemble(
        self, answer: Any, case: Mapping[str, Any], kind: type, needed: tuple[str, ...]
    ) -> Any:
        """A dictionary, an object or a tuple: all fields, or those that are needed in order."""
        names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
        if isinstance(answer, Mapping):
            given = dict(answer)
        elif all(hasattr(answer, name) for name in needed):
            given = {name: getattr(answer, name) for name in names if hasattr(answer, name)}
        elif isinstance(answer, tuple | list) and len(answer) in (len(names), len(needed)):
            given = dict(zip(names if len(answer) == len(names) else needed, answer, strict=True))
        elif len(needed) == 1 and not isinstance(answer, tuple | list):
            given = {needed[0]: answer}
        else:
            raise AssertionError(
                f"{self._row.name}: expected ({', '.join(names)}) or ({', '.join(needed)}), got "
                f"{type(answer).__name__}"
            )
        missing = [name for name in needed if name not in given]
        if missing:
            raise AssertionError(f"{self._row.name}: the answer lacks {', '.join(missing)}")
        filled = {}
        if len(given) < len(names):
            filled = self._row.definition(**case)._asdict()
        return kind(
            **{**filled, **{name: to_numpy(given[name]) for name in names if name in given}}
        )


def to_numpy(value: Any) -> Any:
    """An array on the CPU; numbers as they are."""
    if isinstance(value, np.ndarray | int | float | np.generic):
        return value
    if hasattr(value, "__cuda_array_interface__"):
        return importlib.import_module("cupy").asnumpy(value)
    if hasattr(value, "detach"):  # torch: out of the graph, and to where NumPy can see it
        value = value.detach().cpu()
    if hasattr(value, "__dlpack__"):
        try:
            array: Array = np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise AssertionError(
                f"an answer of {getattr(value, 'dtype', type(value))} does not pass to NumPy "
                f"({error}): give float32, which holds every bfloat16 exactly"
            ) from error
        return array
    raise AssertionError(f"expected an array, got {type(value).__name__}")


def _giver(kind: Kind) -> Callable[[Array], Any]:
    """What turns a NumPy array into the caller's."""
    if kind == "numpy":
        return lambda array: array
    try:
        module = importlib.import_module(kind)
    except ModuleNotFoundError as error:
        raise TinymoeError(f"--arrays {kind} needs {kind}: pip install {kind}") from error
    give: Callable[[Array], Any] = module.from_numpy if kind == "torch" else module.asarray
    return give


def _walk(value: Any, give: Callable[[Array], Any]) -> Any:
    """Arrays inside tuples and lists too; cards and numbers as they are."""
    if isinstance(value, np.ndarray):
        return give(np.ascontiguousarray(value).reshape(value.shape))
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_walk(item, give) for item in value)
    if isinstance(value, list):
        return [_walk(item, give) for item in value]
    return value
