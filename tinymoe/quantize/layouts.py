"""The layouts there are, by number format, convention, and what has a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping

from tinymoe.core import TinymoeError
from tinymoe.quantize.writers import (
    Encode,
    FormatName,
    Fused,
    Layout,
    Parts,
    fp8_maker,
    grid,
    mxfp4_ct,
    mxfp4_ct_parts,
    mxfp4_gpt_oss,
    mxfp4_gpt_oss_parts,
    nvfp4_ct,
    nvfp4_ct_parts,
    nvfp4_modelopt,
    nvfp4_modelopt_parts,
)

_TITLES = {"nvfp4": "NVFP4", "mxfp4": "MXFP4", "fp8": "FP8"}
_CT, _NV = "compressed-tensors", "modelopt"


def _layout(
    format_: FormatName,
    convention: str,
    scales: str,
    functions: tuple[Parts, Encode],
    *,
    block: int = 1,
    static: bool = False,
    fused: Fused = "none",
    stacks: bool = False,
    experts_only: bool = False,
) -> Layout:
    return Layout(
        format=format_,
        convention=convention,
        scales=scales,
        title=f"{_TITLES[format_]} of {convention}",
        parts=functions[0],
        encode=functions[1],
        block=block,
        static=static,
        fused=fused,
        stacks=stacks,
        experts_only=experts_only,
    )


_NVFP4_NV = (nvfp4_modelopt_parts, nvfp4_modelopt)
_NVFP4_CT = (nvfp4_ct_parts, nvfp4_ct)
_MXFP4_CT = (mxfp4_ct_parts, mxfp4_ct)
_MXFP4_GPT = (mxfp4_gpt_oss_parts, mxfp4_gpt_oss)
_DEEPSEEK = fp8_maker("div32", "block", "weight_scale_inv", grid, "F32")
_CT_TENSOR = fp8_maker("ct", "tensor", "weight_scale", lambda n, k: (1,), "source")
_CT_CHANNEL = fp8_maker("ct", "channel", "weight_scale", lambda n, k: (n, 1), "source")
_CT_BLOCK = fp8_maker("ct", "block", "weight_scale", grid, "source")
_NV_TENSOR = fp8_maker("modelopt_tensor", "tensor", "weight_scale", lambda n, k: (), "F32")
_NV_CHANNEL = fp8_maker("modelopt_channel", "channel", "weight_scale", lambda n, k: (n,), "F32")

# The first of a format is its default
LAYOUTS: tuple[Layout, ...] = (
    _layout("nvfp4", _NV, "block", _NVFP4_NV, block=16, static=True, fused="all", stacks=True),
    _layout("nvfp4", _CT, "block", _NVFP4_CT, block=16, static=True, fused="all"),
    _layout("mxfp4", _CT, "block", _MXFP4_CT, block=32),
    _layout("mxfp4", "gpt-oss", "block", _MXFP4_GPT, block=32, stacks=True, experts_only=True),
    _layout("fp8", "deepseek", "block", _DEEPSEEK),
    _layout("fp8", _CT, "tensor", _CT_TENSOR, static=True),
    _layout("fp8", _CT, "channel", _CT_CHANNEL),
    _layout("fp8", _CT, "block", _CT_BLOCK),
    # ModelOpt's FP8 does not share one scale over q, k and v; over experts' gate and up it does
    _layout("fp8", _NV, "tensor", _NV_TENSOR, static=True, fused="experts"),
    _layout("fp8", _NV, "channel", _NV_CHANNEL),
)


def pick_layout(
    format_: str, convention: str | None, scales: str | None, family: str = ""
) -> Layout:
    """The layout of those names; None is the first there is, gpt-oss's own for its models."""
    of_format = [layout for layout in LAYOUTS if layout.format == format_]
    if not of_format:
        raise TinymoeError(f"--format must be nvfp4, mxfp4 or fp8; got {format_!r}")
    if convention is None and format_ == "mxfp4" and family == "gpt_oss":
        convention = "gpt-oss"
    if convention == "gpt-oss" and family != "gpt_oss":
        raise TinymoeError(
            f"--convention gpt-oss is for models of the family gpt_oss, this one is of {family!r}"
        )
    found = [
        layout
        for layout in of_format
        if convention in (None, layout.convention) and scales in (None, layout.scales)
    ]
    if not found:
        known = ", ".join(f"{one.convention} ({one.scales})" for one in of_format)
        raise TinymoeError(
            f"--format {format_} has no --convention {convention or 'of any name'} with --scales "
            f"{scales or 'of any kind'}; it has: {known}"
        )
    return found[0]


def by_name() -> Mapping[str, Layout]:
    """Every layout by "format convention scales"."""
    return {f"{one.format} {one.convention} {one.scales}": one for one in LAYOUTS}
