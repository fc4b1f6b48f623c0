"""One PTX instruction on arrays: what the tables of expected values are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.kernels.ptx import launch, parse

Array = np.ndarray[Any, Any]


def one(instruction: str, size: int, *inputs: Array, block: int | None = None) -> Array:
    """Run `instruction` on %x, %y, %z, %w of every element; the result %d as raw bits.

    `size` is that of %d in bytes. Predicates %p, %q, registers %t (the thread) and %e (32 bits) are
    there to use.
    """
    n, names = len(inputs[0]), "xyzw"[: len(inputs)]
    loads = "".join(
        f"ld.param.u64 %p{k}, [p{k}]; add.s64 %p{k}, %p{k}, %o{x.itemsize};"
        f"ld.global.b{8 * x.itemsize} %{k}, [%p{k}];"
        for k, x in zip(names, inputs, strict=True)
    )
    registers = "".join(
        f".reg .b{8 * x.itemsize} %{k};" for k, x in zip(names, inputs, strict=True)
    )
    params = ", ".join(f".param .u64 p{k}" for k in names)
    text = f""".entry k(.param .u64 out, {params}) {{
        .reg .b64 %a, %px, %py, %pz, %pw, %o<9>; .reg .b32 %t, %e; .reg .pred %p, %q;
        .reg .b{8 * size} %d; {registers}
        mov.u32 %t, %tid.x; mul.wide.u32 %o1, %t, 1; mul.wide.u32 %o2, %t, 2;
        mul.wide.u32 %o4, %t, 4; mul.wide.u32 %o8, %t, 8; {loads} {instruction};
        ld.param.u64 %a, [out]; add.s64 %a, %a, %o{size}; st.global.b{8 * size} [%a], %d; ret; }}"""
    out = np.zeros(n, f"u{size}")
    launch(parse(text)["k"], 1, block or n, [out, *map(np.ascontiguousarray, inputs)])
    return out


def pairs(values: list[int], bits: int) -> tuple[Array, Array]:
    """Every pair of `values`, as raw bits."""
    raw = np.array([v % (1 << bits) for v in values], f"u{bits // 8}")
    a, b = np.meshgrid(raw, raw)
    return a.ravel().copy(), b.ravel().copy()


def signed(x: Any, bits: int) -> int:
    """Raw bits as a signed number."""
    value = int(x)
    return value - (1 << bits) if value >> (bits - 1) else value
