"""The PTX kept beside the sources, for a machine without the compiler.

A file `compiled/NAME.sm_80.ptx` begins with a digest of the source it was made of. Another source,
even by a comment, and it is refused: a kernel that is not the one you read is worse than none.
PTX for sm_80 runs on every later chip, so one file serves all, but for sources that name theirs.
"""

from __future__ import annotations

import re
from pathlib import Path

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.source import FOLDER, Source

COMPILED = FOLDER / "compiled"
REFRESH = "python -m tinymoe.kernels.cuda.refresh"


class NoCompilerError(TinymoeError):
    """NVRTC is not installed, and there is no committed PTX in its place."""


def base_arch(unit: Source) -> str:
    """The chip that the committed PTX of a source is made for."""
    return unit.only[0] if unit.only else "80"


def path_of(unit: Source) -> Path:
    """Where the committed PTX of a source lies."""
    return COMPILED / f"{unit.name}.sm_{base_arch(unit)}.ptx"


def head(unit: Source, version: str) -> str:
    """The first line of a committed file."""
    return f"// source {unit.digest()}, NVRTC {version}; written by {REFRESH}\n"


def committed(
    unit: Source, arch: str, defines: tuple[str, ...], missing: NoCompilerError
) -> tuple[str, str]:
    """The arch and text of the PTX that stands for `unit` on `arch`; `missing` is why we ask."""
    path, made_for = path_of(unit), base_arch(unit)
    if defines or not path.is_file() or _number(arch) < _number(made_for):
        what = f"{unit.name}.cu with {', '.join(defines)}" if defines else f"{unit.name}.cu"
        raise NoCompilerError(f"{missing}\n(there is no committed PTX of {what} for sm_{arch})")
    first, _, ptx = path.read_text("utf-8").partition("\n")
    found = re.match(r"// source (\w+),", first)
    if not found or found[1] != unit.digest():
        raise NoCompilerError(
            f"{missing}\n(the committed {path.name} was made of another {unit.name}.cu than the "
            f"one here: {found[1] if found else 'no digest'}, not {unit.digest()}. Where NVRTC "
            f"is, `{REFRESH}` makes it again)"
        )
    return made_for, ptx


def _number(arch: str) -> int:
    return int(arch.rstrip("af"))
