"""Write the committed PTX again: `python -m tinymoe.kernels.cuda.refresh [NAME ...]`.

Needs NVRTC. Without names, every kernel file whose committed PTX is missing or of another source.
"""

from __future__ import annotations

import re
import sys

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda import committed
from tinymoe.kernels.cuda.compile import nvrtc_compile, nvrtc_version
from tinymoe.kernels.cuda.source import Source, names, source


def stale(unit: Source) -> bool:
    """Whether the committed PTX is missing or made of another source."""
    path = committed.path_of(unit)
    return not path.is_file() or f"// source {unit.digest()}," not in path.read_text("utf-8")


def without_lines(ptx: str) -> str:
    """Without line tables, which are 40 % of the text: a defect then names the PTX line alone."""
    ptx = re.sub(r"^[ \t]*\.(?:loc|file)[ \t].*\n", "", ptx, flags=re.M)
    return re.sub(r"\n[ \t]*\.section[ \t]+\.debug_str.*", "\n", ptx, flags=re.S)


def refresh(unit: Source) -> str:
    """Compile one source and write its PTX; the file's name."""
    ptx, _, _ = nvrtc_compile(unit, committed.base_arch(unit), ())
    path = committed.path_of(unit)
    path.parent.mkdir(exist_ok=True)
    path.write_text(committed.head(unit, nvrtc_version()) + without_lines(ptx), "utf-8")
    return path.name


def main(arguments: list[str]) -> int:
    """Refresh what is named or stale, and remove what has no source any more."""
    units = [source(name) for name in arguments or names()]
    for unit in units:
        if arguments or stale(unit):
            print("wrote", refresh(unit))
    known = {committed.path_of(source(name)) for name in names()}
    for path in sorted(set(committed.COMPILED.glob("*.ptx")) - known):
        path.unlink()
        print("removed", path.name, "(no source)")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TinymoeError as error:
        sys.exit(f"refresh: {error}")
