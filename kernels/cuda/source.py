"""CUDA C sources as text: parts pasted in, lines still counted in the file they stand in.

A kernel file has no `#include`. It names the parts it needs in its first comment,

    // uses: prims.cuh fp4.cuh
    // arch: 120a

and they are pasted above it, each under a `#line` directive, so that an error of the compiler and
the line tables in the result point into the right file. `arch` lists the chips the file is for;
without that line it is for all of `ARCHES`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from tinymoe.core import TinymoeError

FOLDER = Path(__file__).parent
ARCHES = ("80", "90a", "100a", "120a")  # Ampere, Hopper, Blackwell (data centre, desktop)


@dataclass(frozen=True, slots=True)
class Source:
    """A translation unit: `text` is what the compiler sees, `name` what people call it."""

    name: str  # "topk" of topk.cu
    text: str
    only: tuple[str, ...]  # the chips it is for; empty: all

    @property
    def arches(self) -> tuple[str, ...]:
        """The chips it is compiled for when all are tried."""
        return self.only or ARCHES

    def digest(self, *more: str) -> str:
        """16 hex digits that change when the text, or anything else given, does."""
        return hashlib.sha256("\0".join((self.text, *more)).encode()).hexdigest()[:16]


def names() -> list[str]:
    """Every kernel file of this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.cu"))


def source(name_or_text: str) -> Source:
    """Read a file of this folder by name ("topk" or "topk.cu"), or take CUDA C text as it is.

    Text is told by its line breaks; it may use the same parts as the files do.
    """
    if "\n" in name_or_text:
        return _assemble("kernel", name_or_text)
    name = name_or_text.removesuffix(".cu")
    path = FOLDER / f"{name}.cu"
    if not path.is_file():
        raise TinymoeError(
            f"there is no kernel file {name}.cu: expected one of {', '.join(names())}, or CUDA C "
            "text of more than one line"
        )
    return _assemble(name, path.read_text("utf-8"))


def _assemble(name: str, text: str) -> Source:
    parts: dict[str, str] = {}  # in the order they are pasted
    _collect(text, f"{name}.cu", parts, ())
    parts[f"{name}.cu"] = text
    pasted = "".join(f'#line 1 "{file}"\n{part}\n' for file, part in parts.items())
    return Source(name, pasted, tuple(_listed(text, "arch")))


def _collect(text: str, file: str, parts: dict[str, str], above: tuple[str, ...]) -> None:
    """Add the parts that `text` uses, those that they use before them, each once."""
    for part in _listed(text, "uses"):
        if part in above:
            raise TinymoeError(f"{file} uses {part}, which uses {file}: parts may not go in a ring")
        if part in parts:
            continue
        path = FOLDER / part
        if not path.is_file():
            have = ", ".join(sorted(p.name for p in FOLDER.glob("*.cuh"))) or "none"
            raise TinymoeError(f"{file} uses {part}, which is not in {FOLDER.name}/: have {have}")
        below = path.read_text("utf-8")
        _collect(below, part, parts, (*above, part))
        parts[part] = below


def _listed(text: str, key: str) -> list[str]:
    """The words after `// key:` in the comment that a file begins with."""
    words: list[str] = []
    for line in text.lstrip().splitlines():
        if not line.startswith("//"):
            break
        if found := re.fullmatch(rf"//\s*{key}:\s*(.*)", line):
            words += found[1].split()
    return words
