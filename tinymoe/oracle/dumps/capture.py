"""Activations of a live transformers model, under the names of a trace.

    from tinymoe.oracle.dumps.capture import capture
    taps = capture(model, ids)                     # as `Model.trace` gives them
    write_trace(Path("theirs.safetensors"), taps, {})

torch is imported here and nowhere else in the oracle, and only when the function runs.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.oracle.dumps.mapping import Mapped, Rule, apply_mapping
from tinymoe.oracle.dumps.presets import preset


def capture(model: Any, ids: Sequence[int], rules: Sequence[Rule] | None = None) -> Mapped:
    """Run ids (T,) through a causal language model of transformers and keep what rules name.

    A module's output is called by the module's name, a list's parts NAME[0], NAME[1], ..., its
    first input NAME.input; queries, keys and values, as they enter the attention function, are
    NAME.q, NAME.k, NAME.v of the attention module, (T, heads, D). `rules`: None is the preset
    "transformers". The model is left as it was; gradients are off. Sum order and kernels are
    those that the model was going to use.
    """
    torch = _import("torch")
    chosen = preset("transformers") if rules is None else rules
    patterns = [re.compile(rule.match) for rule in chosen]
    kept: dict[str, Array] = {}

    def keep(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and any(p.fullmatch(name) for p in patterns):
            kept[name] = _without_batch(_to_numpy(value), len(ids))
        elif isinstance(value, list | tuple):
            for index, part in enumerate(value):
                keep(f"{name}[{index}]", part)
        elif hasattr(value, "logits"):  # the model's own output
            keep(f"{name}.logits".lstrip("."), value.logits)

    handles = []
    undo = _listen_to_attention(model, keep)
    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(_hook(name, keep), with_kwargs=True))
        with torch.no_grad():
            model(torch.tensor([list(ids)], device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
        undo()
    return apply_mapping({"tokens": np.asarray(ids, np.int64), **kept}, chosen)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise TinymoeError(f"capture needs {name}: pip install torch transformers") from error


def _hook(name: str, keep: Callable[[str, Any], None]) -> Callable[..., None]:
    def hook(_: Any, inputs: Any, named: dict[str, Any], output: Any) -> None:
        first = inputs[0] if inputs else named.get("hidden_states")
        keep(f"{name}.input", first)
        keep(name, output)

    return hook


def _listen_to_attention(model: Any, keep: Callable[[str, Any], None]) -> Callable[[], None]:
    """Stand in front of the attention function, which all families call with q, k, v after rope.

    Returns what takes the listener away again.
    """
    functions = _import("transformers.modeling_utils").ALL_ATTENTION_FUNCTIONS
    kind = model.config._attn_implementation
    names = {id(module): name for name, module in model.named_modules()}
    before = functions.get(kind)

    def listen(module: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> Any:
        for letter, tensor in (("q", query), ("k", key), ("v", value)):
            keep(f"{names[id(module)]}.{letter}", tensor.transpose(1, 2))  # (1, T, heads, D)
        real = before or sys.modules[type(module).__module__].eager_attention_forward
        return real(module, query, key, value, *rest, **named)

    def undo() -> None:
        del functions[kind]
        if before is not None and kind not in functions:
            functions[kind] = before

    functions[kind] = listen
    return undo


def _to_numpy(tensor: Any) -> Array:
    """A copy on the CPU; bfloat16 and the float8 types widened to float32, exactly."""
    torch = _import("torch")
    tensor = tensor.detach().to("cpu", copy=True)
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32)
    result: Array = tensor.numpy()
    return result


def _without_batch(value: Array, tokens: int) -> Array:
    """(1, T, ...) to (T, ...)."""
    return value[0] if value.ndim > 1 and value.shape[:2] == (1, tokens) else value
