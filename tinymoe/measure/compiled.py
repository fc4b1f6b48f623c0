"""The backend numba under test: weights packed into tiles of one format, a whole step in a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.formats import bf16
from tinymoe.measure.counts import Counts
from tinymoe.measure.runs import Subject
from tinymoe.measure.stored import quantised


def compiled(subject: Subject, counts: Counts, form: str, threads: int) -> Any:
    """`build` for this backend: (subject whose ops hold the packed weights, and how it is timed).

    The float32 weights are dropped: what is timed reads tiles alone.
    """
    from tinymoe.kernels.cpu.backend import CompiledStep

    step = CompiledStep(threads, packer_of(form))
    params = subject.params
    if form != "fp32":
        rounded = bf16.round_to_bf16(params.embed)
        params = replace(params, embed=rounded)  # no longer the head's array, if it was
    step.prepare(params, subject.config, subject.numerics)
    ops = replace(step.members, step=step)
    made = subject._replace(params=params, ops=ops)

    def by_kernel(call: Callable[[Subject], Any]) -> dict[str, float]:
        with step.profiled() as spent:
            call(made)
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    return made, by_kernel


def packer_of(form: str) -> Callable[..., Any]:
    """How a matrix (N, K), or a stack of them, becomes tiles of a format."""
    from tinymoe.kernels.cpu.pack import pack, pack_quantised

    def packed(values: Array, *, gate_up: bool = False) -> Any:
        stack = np.asarray(values if values.ndim == 3 else values[None], np.float32)
        if form == "fp32":
            return pack(stack, gate_up=gate_up, form="f32")
        if form == "bf16":
            return pack(bf16.round_to_bf16(stack), gate_up=gate_up, form="bf16")
        parts = [quantised(matrix, form) for matrix in stack]  # a tensor scale for each expert
        scales = [part.tensor_scale for part in parts]
        each: Any = None if scales[0] is None else np.array(scales, np.float32)
        whole = replace(
            parts[0],
            codes=np.stack([part.codes for part in parts]),
            scales=np.stack([part.scales for part in parts]),
            tensor_scale=each,
        )
        return pack_quantised(whole, gate_up=gate_up)

    return packed
