"""PTX declarations: registers, parameters, and variables with their places and first values."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

from tinymoe.kernels.ptx.kernel import PtxError, Variable

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
SPACES = ("shared", "global", "const", "local")
VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak|common)\s+)*\.(shared|global|const|local)\s+"
    r"(?:\.align\s+(\d+)\s+)?(?:\.v([24])\s+)?\.([bsuf])(\d+)\s+"
    r"([\w$]+)((?:\s*\[\s*\d*\s*\])*)\s*(?:=\s*(.*))?",
    re.S,
)
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.[bsuf](\d+)(?:\s+\.ptr[\s.\w]*?)?\s+([\w$]+)"
    r"(?:\[(\d+)\])?"
)


@dataclass
class Layout:
    """Variables with places: in each space one after the other, aligned."""

    variables: dict[str, Variable] = field(default_factory=dict)
    aligned: dict[str, int] = field(default_factory=dict)

    def place(self, name: str, variable: Variable, align: int) -> None:
        """Add a variable behind those of its space."""
        mine = [v for v in self.variables.values() if v.space == variable.space and not v.dynamic]
        end = max((v.offset + v.size for v in mine), default=0)
        self.variables[name] = replace(variable, offset=-(-end // align) * align)
        self.aligned[name] = align


def is_variable(text: str) -> bool:
    """Whether a statement declares a variable."""
    words = re.findall(r"\.(\w+)", text.split("=", 1)[0])
    return text.startswith(".") and bool(set(words) & set(SPACES))


def declare(text: str, line: int, layout: Layout) -> None:
    """Place the variable that `text` declares; raises PtxError for one we cannot."""
    found = VARIABLE.fullmatch(text)
    if not found:
        raise PtxError(f"PTX line {line}: declaration not supported: {' '.join(text.split())!r}")
    space, align, vector, kind, bits, name, dims, value = found.groups()
    if bits not in BYTES:
        raise PtxError(f"PTX line {line}: a variable of {bits} bits is not supported: {text!r}")
    item = BYTES[bits] * int(vector or 1)
    counts = re.findall(r"\[\s*(\d*)\s*\]", dims)
    data = _initial(value, kind, BYTES[bits], line) if value else b""
    if counts and not counts[0] and data:
        size = len(data)
    else:
        size = item * prod(int(n) for n in counts if n) if all(counts) else 0
    dynamic = space == "shared" and bool(counts) and not all(counts)
    layout.place(name, Variable(space, 0, size, data, dynamic), int(align or item))


def _initial(value: str, kind: str, size: int, line: int) -> bytes:
    numbers = re.sub(r"[{}]", " ", value).split(",")
    raw = bytearray()
    for number in map(str.strip, numbers):
        try:
            if number[:2] in ("0f", "0F"):
                raw += struct.pack("<I", int(number[2:], 16))
            elif number[:2] in ("0d", "0D"):
                raw += struct.pack("<Q", int(number[2:], 16))
            elif kind == "f":
                raw += struct.pack("<f" if size == 4 else "<d", float(number))
            else:
                raw += (int(number.rstrip("U"), 0) & (1 << 8 * size) - 1).to_bytes(size, "little")
        except (ValueError, struct.error) as error:
            raise PtxError(f"PTX line {line}: initial value not supported: {number!r}") from error
    return bytes(raw)


def registers(text: str, line: int) -> Iterator[tuple[str, int]]:
    """The names that a `.reg` statement declares, with their bits; a predicate has 1."""
    found = re.fullmatch(r"\.reg\s+\.(pred|[bsuf](\d+)|f16x2)\s+(.*)", text, re.S)
    if not found or (found[2] or "32") not in BYTES:
        raise PtxError(f"PTX line {line}: declaration not supported: {text!r}")
    bits = 1 if found[1] == "pred" else 32 if found[1] == "f16x2" else int(found[2])
    for declared in map(str.strip, found[3].split(",")):
        many = re.fullmatch(r"([\w%$]+)<(\d+)>", declared)
        names = [f"{many[1]}{k}" for k in range(int(many[2]))] if many else [declared]
        yield from ((name, bits) for name in names)


def parameters(text: str, line: int) -> dict[str, tuple[int, int]]:
    """A kernel's parameters in order: offset and size of each in the parameter space."""
    places, end = {}, 0
    for declared in filter(None, map(str.strip, text.split(","))):
        found = PARAMETER.fullmatch(declared)
        if not found or found[2] not in BYTES:
            raise PtxError(f"PTX line {line}: parameter not supported: {declared!r}")
        item = BYTES[found[2]]
        size, align = item * int(found[4] or 1), int(found[1] or item)
        end = -(-end // align) * align
        places[found[3]] = (end, size)
        end += size
    return places
