"""How many bytes one decode step must read, at least: what memory bandwidth allows follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from tinymoe.core import Array
from tinymoe.formats.inputs import InputFormat
from tinymoe.measure.runs import Case, Subject
from tinymoe.measure.shapes import kv_values
from tinymoe.measure.stored import BYTES, MATRICES
from tinymoe.model.params import MoeParams, Params, SharedParams
from tinymoe.model.weights import plain


def step_bytes(
    subject: Subject, case: Case, touched: Sequence[float], form: str = "fp32"
) -> dict[str, float]:
    """Bytes of one decode step of B tokens, as weights and cache are held, each thing read once.

    `form`: of the matrices, where a backend holds them in another format than the params have.

    `touched`: of each layer with experts, how many a step meets on average. Left out:
    activations, which stay in the caches. An implementation may read more: the definition reads
    a matrix once for every token.
    """
    params, item = subject.params, subject.numerics.dtype.itemsize
    experts, shared, layers = 0.0, 0.0, iter(touched)
    for layer in params.layers:
        shared += _bytes(layer.attention, form)
        if isinstance(layer.ffn, MoeParams):
            stacks = (plain(layer.ffn.gate_up), plain(layer.ffn.down))
            one = sum(_held("down", stack, form) / len(stack) for stack in stacks)
            experts += next(layers) * one
            shared += _bytes(layer.ffn, form) - sum(_held("down", s, form) for s in stacks)
        else:
            shared += _bytes(layer.ffn, form)
    shared += params.final_norm.nbytes + _held("head", plain(params.head), form)
    if params.embed is not params.head:  # a tied embedding has been read, as the head
        shared += case.batch * params.embed.shape[1] * item  # one row a token
    cache = case.batch * case.mean_context * kv_values(subject.config) * item
    return {
        "shared_weights": float(shared),
        "experts": experts,
        "cache": cache,
        "total": shared + experts + cache,
    }


def weight_bytes(params: Params, form: str = "fp32") -> int:
    """Bytes of all weights as held; a tied head counts once."""
    total = sum(_bytes(layer.attention, form) + _bytes(layer.ffn, form) for layer in params.layers)
    total += params.embed.nbytes + params.final_norm.nbytes
    if params.head is not params.embed:
        total += _held("head", plain(params.head), form)
    return int(total)


def _bytes(part: Any, form: str) -> float:
    """Of a layer's half, a shared expert's among them."""
    total = 0.0
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, SharedParams):
            total += _bytes(value, form)
        elif value is not None and not isinstance(value, InputFormat):
            total += _held(field.name, plain(value), form)
    return total


def _held(name: str, array: Array, form: str) -> float:
    """A matrix as the format has it; all else as it is."""
    if form == "fp32" or name not in MATRICES:
        return float(array.nbytes)
    return array.size * BYTES[form]
