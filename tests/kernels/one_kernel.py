"""A kernel around a few lines of PTX, with what they need declared, and its launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.kernels.ptx import Report, launch, parse

HEAD = """.reg .b32 %r<9>, %t; .reg .b64 %a<9>, %o, %u; .reg .b16 %h<9>; .reg .pred %p<4>;
    mov.u32 %t, %tid.x; mul.wide.u32 %u, %t, 4;"""


def run(body: str, out: np.ndarray[Any, Any], *more: Any, **options: Any) -> Report:
    """Run `body` in a kernel whose first argument is `out` (%o: the thread's word of it)."""
    block = options.pop("block", 32)
    params = "".join(f", .param .u{8 * _size(x)} p{k}" for k, x in enumerate(more))
    text = f"""{options.pop("module", "")} .entry k(.param .u64 out{params}) {{ {HEAD}
        ld.param.u64 %o, [out]; add.s64 %o, %o, %u; {body}; ret; }}"""
    return launch(parse(text)["k"], options.pop("grid", 1), block, [out, *more], **options)


def _size(x: Any) -> int:
    return 8 if isinstance(x, np.ndarray) else x.nbytes
