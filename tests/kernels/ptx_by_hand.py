"""Kernels of a few lines of PTX, for tests of single instructions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.kernels.ptx import launch, parse

Array = np.ndarray[Any, Any]


def by_hand(body: str, threads: int = 32) -> Array:
    """Run a body that starts with %t, its thread, and may store to [%q], four bytes a thread."""
    text = f""".version 8.8
    .visible .entry k(.param .u64 out) {{
        .reg .b32 %r<9>; .reg .b32 %t; .reg .b64 %q; .reg .b64 %o; .reg .b64 %w;
        .reg .f32 %f<4>; .reg .pred %p; .reg .b16 %h<4>; .shared .align 16 .b8 tiles[512];
        mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 4; ld.param.u64 %q, [out]; add.s64 %q, %q, %o;
        mov.u32 %r0, 0; mov.u32 %r1, 0; mov.u32 %r2, 0;
        mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
        {body}
        ret; }}"""
    out = np.zeros(threads, np.uint32)
    launch(parse(text)["k"], 1, threads, [out])
    return out
