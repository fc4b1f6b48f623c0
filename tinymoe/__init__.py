"""tinymoe: the Mixture-of-Experts engine to read, to run anywhere, and to check others against.

>>> import tinymoe
>>> model = tinymoe.load()                      # the shipped model; or a folder
>>> logits = model([5, 6, 7])                   # (T, V)
>>> taps = model.trace([5, 6, 7])               # every activation, by name
>>> text = "".join(token.text for token in model.generate("Once upon a time", max_tokens=8))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinymoe.core import NUMERICS, Numerics, Sampling, TinymoeError

if TYPE_CHECKING:
    from tinymoe.api import Model, Token, load

__version__ = "0.1.0"
__all__ = ["NUMERICS", "Model", "Numerics", "Sampling", "TinymoeError", "Token", "load"]


def __getattr__(name: str) -> Any:
    """`load`, `Model` and `Token` on first use: the oracle imports without a tokenizer."""
    if name in ("load", "Model", "Token"):
        from tinymoe import api

        return getattr(api, name)
    raise AttributeError(f"module 'tinymoe' has no attribute {name!r}")
