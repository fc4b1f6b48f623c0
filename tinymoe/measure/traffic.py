"""How many bytes one decode step must read, at least: what memory bandwidth allows follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from tinymoe.core import Array
from tinymoe.formats.inputs import InputFormat
from tinymoe.measure.runs import Case, Subject
from tinymoe.measure.shapes import kv_values
from tinymoe.model.params import MoeParams, Params, SharedParams
from tinymoe.model.weights import plain


def step_bytes(subject: Subject, case: Case, touched: Sequence[float]) -> dict[str, float]:
    """Bytes of one decode step of B tokens, as weights and cache are held, each thing read once.

    `touched`: of each layer with experts, how many a step meets on average. Left out:
    activations, which stay in the caches. An implementation may read more: the definition reads
    a matrix once for every token.
    """
    params, item = subject.params, subject.numerics.dtype.itemsize
    experts, shared, layers = 0.0, 0, iter(touched)
    for layer in params.layers:
        shared += sum(array.nbytes for array in _arrays(layer.attention))
        if isinstance(layer.ffn, MoeParams):
            stacks = (plain(layer.ffn.gate_up), plain(layer.ffn.down))
            one = sum(stack.nbytes // len(stack) for stack in stacks)
            experts += next(layers) * one
            shared += sum(a.nbytes for a in _arrays(layer.ffn)) - sum(s.nbytes for s in stacks)
        else:
            shared += sum(array.nbytes for array in _arrays(layer.ffn))
    shared += params.final_norm.nbytes + plain(params.head).nbytes
    if params.embed is not params.head:  # a tied embedding has been read, as the head
        shared += case.batch * params.embed.shape[1] * item  # one row a token
    cache = case.batch * case.mean_context * kv_values(subject.config) * item
    return {
        "shared_weights": float(shared),
        "experts": experts,
        "cache": cache,
        "total": shared + experts + cache,
    }


def weight_bytes(params: Params) -> int:
    """Bytes of all weights as held; a tied head counts once."""
    arrays = [array for layer in params.layers for array in _arrays(layer.attention)]
    arrays += [array for layer in params.layers for array in _arrays(layer.ffn)]
    arrays += [params.embed, params.final_norm]
    arrays += [] if params.head is params.embed else [plain(params.head)]
    return sum(array.nbytes for array in arrays)


def _arrays(part: Any) -> Iterator[Array]:
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, SharedParams):
            yield from _arrays(value)
        elif value is not None and not isinstance(value, InputFormat):
            yield plain(value)
