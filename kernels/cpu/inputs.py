"""What a product's input becomes on its way in: codes, as the checkpoint says, or fixed point.

Codes: the definition multiplies values (`model/weights.py`); kernels multiply the codes that these
values were made of, as the engines do for which such checkpoints are made. The codes are the same,
bit for bit, for the same x. The product is exact within a block, where the definition's has a
rounding in each value and each sum; both are within `emulation_bound` of what codes and scales
stand for.

Fixed point (`fixed.py`): where activations are kept in BF16 and weights in four bits. Products of
float32 activations, and of any other weights, take x as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.formats.e2m1 import RULES
from tinymoe.formats.inputs import InputFormat
from tinymoe.kernels.cpu import fixed_rows
from tinymoe.kernels.cpu.batch import TOKENS
from tinymoe.kernels.cpu.coded_rows import quantised_rows, row_bytes
from tinymoe.kernels.cpu.codes import rounding_of
from tinymoe.kernels.cpu.fixed import FOUR_BITS, multiply_fixed
from tinymoe.kernels.cpu.linear import FIXED, tiles_of
from tinymoe.kernels.cpu.packed import Inputs, Packed
from tinymoe.kernels.cpu.w4a4 import multiply_codes
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.params import AttentionParams, LatentParams, Params
from tinymoe.model.weights import QuantisedInput

if TYPE_CHECKING:
    from tinymoe.kernels.cpu.plan import Plan

KERNELS = {"nvfp4": "kernel", "mxfp4": "vllm"}  # whose arithmetic on the way in
ONE = np.float32(1)


def uncovered_inputs(params: Params) -> str | None:
    """Which of a model's quantised inputs there are no kernels for; None: they compute all."""
    for number in range(len(params.layers)):
        layer = params.layers[number]
        mixer = layer.attention
        if isinstance(mixer, AttentionParams) and (mixer.key_format or mixer.value_format):
            return "a quantised cache of keys and values"
        for weight in _quantised(layer):
            form = weight.inputs[0]
            if isinstance(mixer, LatentParams):
                return "quantised inputs of latent attention"
            if KERNELS.get(form.kind) != form.convention:
                return f"inputs in {form.kind} as {form.convention!r} makes it"
            values = weight.values
            stored = isinstance(values, OnDemand) and values.codes and values.stored
            if stored != form.kind:
                return f"inputs in {form.kind} for weights that are stored otherwise"
    return None


def _quantised(part: Any) -> Iterator[QuantisedInput]:
    if isinstance(part, QuantisedInput):
        yield part
    elif is_dataclass(part):
        for field in fields(part):
            yield from _quantised(getattr(part, field.name))


def with_inputs(packed: Packed, formats: tuple[InputFormat, ...]) -> Packed:
    """The tiles of a matrix or stack for inputs in these formats, one or one for each expert.

    NVFP4: alpha = input scale * weight scale, one float32 product, in place of the weight's scale;
    a divisor by its rounded reciprocal (`formats.gemm.alpha`).
    """
    kind = formats[0].kind
    if packed.form.name != kind:
        raise TinymoeError(
            f"a weight whose input is {kind} was laid out as {packed.form.name}: its scales are "
            "none that kernels multiply codes with; use the backend 'numpy'"
        )
    if kind == "mxfp4":
        return replace(packed, inputs=Inputs(np.ones(1, np.float32)))
    given = np.array([form.scale for form in formats], np.float32)
    inverse = ONE / given
    divides = formats[0].scale_is == "divisor"
    divisors, multipliers = (given, inverse) if divides else (inverse, given)
    assert packed.row_scales is not None  # NVFP4 has a tensor scale
    alphas = packed.row_scales * multipliers[:, None]
    return replace(packed, row_scales=np.ascontiguousarray(alphas), inputs=Inputs(divisors))


def in_fixed_point(form: str, numerics: Numerics) -> bool:
    """Products of inputs that are not quantised, and weights in this format, are whole numbers."""
    return numerics.storage == "bfloat16" and form in FOUR_BITS


def given(
    plan: Plan,
    x: Array,
    weight: Packed,
    *,
    count: int = TOKENS,
    rows: int = 0,
    per_token: int = 1,
    shared: int = 1,
    ids: Array | None = None,
    ready: bool = False,
) -> dict[str, Any]:
    """x and a weight as the arguments of `linear` and `experts`; before it, what x must become.

    count, rows: as `linear` has them, of x with `per_token` rows a token. Codes alone: `shared`
    rows of the result are made of one of x, so that each has its expert's scale; ids: the expert of
    each row. ready: x is in fixed point as it comes, see `between`.
    """
    if weight.inputs is not None:
        x = _quantised_rows(plan, x, weight, per_token * shared, shared, ids)
        multiply_it = multiply_codes(weight.form.name)
    elif in_fixed_point(weight.form.name, plan.numerics):
        if not ready:
            x = _fixed_rows(plan, x, weight, count, rows, per_token)
        multiply_it = multiply_fixed(weight.form.name)
    else:
        return {"x": x, "x_stride": x.shape[1], **tiles_of(weight)}
    return {"x": x, "x_stride": x.shape[1], **tiles_of(weight), "multiply": multiply_it}


def between(
    plan: Plan, gate_up: Packed, down: Packed, per_token: int = 1
) -> tuple[Array, int, bool]:
    """Rows for what lies between two products, a flag for the kind of the first, and `ready`.

    What the second takes in fixed point the first leaves so: a pair of its rows makes a block.
    """
    fixed = down.inputs is None and in_fixed_point(down.form.name, plan.numerics)
    if fixed and down.padded // fixed_rows.BLOCK == gate_up.pairs:
        size = fixed_rows.row_bytes(down.padded)
        return plan.buffers.rows("hidden_fixed", size // 4, per_token), FIXED, True
    return plan.buffers.rows("hidden", down.columns, per_token), 0, False


def _quantised_rows(
    plan: Plan, x: Array, weight: Packed, per_token: int, shared: int, ids: Array | None
) -> Array:
    assert weight.inputs is not None
    block = weight.form.block
    size = row_bytes(weight.columns, block)
    coded = plan.buffers.rows(f"{weight.form.name}_codes", size // 4, per_token)
    plan.program.add(
        quantised_rows,
        x=x,
        x_stride=x.shape[1],
        columns=weight.columns,
        block=block,
        per_token=per_token,
        shared=shared,
        ids=ids if len(weight.inputs.divisors) > 1 else None,
        divisors=weight.inputs.divisors,
        **rounding_of(RULES["cuda"])._asdict(),
        out=coded,
        out_bytes=4 * coded.shape[1],
    )
    return coded


def _fixed_rows(
    plan: Plan, x: Array, weight: Packed, count: int, rows: int, per_token: int
) -> Array:
    size = fixed_rows.row_bytes(weight.padded)
    coded = plan.buffers.rows("fixed", size // 4, per_token)
    goes_on = plan.program.by_token and count == TOKENS  # with rows that the same thread wrote
    plan.program.add(
        fixed_rows.fixed_rows_by_token if goes_on else fixed_rows.fixed_rows,
        x=x,
        x_stride=x.shape[1],
        count=count,
        rows=rows,
        per_token=per_token,
        columns=weight.columns,
        blocks=weight.padded // fixed_rows.BLOCK,
        out=coded,
        out_bytes=4 * coded.shape[1],
    )
    return coded


def codes_of(weight: Packed) -> dict[str, Any]:
    """`linear.tiles_of`, for rows that are coded."""
    return tiles_of(weight) | {"multiply": multiply_codes(weight.form.name)}
