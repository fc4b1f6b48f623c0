"""PTX text to kernels: parameters, shared arrays, labels and instructions with their lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tinymoe.core import TinymoeError

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


class PtxError(TinymoeError):
    """PTX that cannot be read or run."""


class DefectError(PtxError):
    """A defect of the kernel, found by running it."""


@dataclass(frozen=True)
class Instruction:
    """One statement; `line` counts in the PTX file, `source` in the CUDA C file (0: unknown)."""

    opcode: tuple[str, ...]  # base and modifiers: ("add", "s32")
    operands: tuple[str, ...]  # a vector keeps its braces, an address its brackets
    guard: str  # "", "%p1" or "!%p1"
    line: int
    source: int
    text: str


@dataclass
class Kernel:
    """An entry of a module; `labels` are indices into `code`."""

    name: str
    params: dict[str, tuple[int, int]]  # name -> offset and size in bytes
    shared: dict[str, int]  # name -> offset in bytes
    shared_bytes: int
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[str, Kernel]:
    """Every `.entry` of a PTX module, by name."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    shared, size = _shared(text)
    kernels = {}
    for entry in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)", text):
        opened = text.index("{", entry.end())
        kernel = Kernel(entry[1], _params(entry[2]), shared, size)
        _body(kernel, text[opened + 1 : _closed(text, opened)], text.count("\n", 0, opened) + 1)
        kernels[kernel.name] = kernel
    if not kernels:
        raise PtxError("no .entry in this text: expected the PTX of at least one __global__ kernel")
    return kernels


def _closed(text: str, opened: int) -> int:
    depth = 0
    for brace in re.finditer(r"[{}]", text[opened:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return opened + brace.start()
    raise PtxError("a kernel's closing brace is missing: the PTX text is cut off")


def _shared(text: str) -> tuple[dict[str, int], int]:
    places, end = {}, 0
    pattern = r"\.shared\s+\.align\s+(\d+)\s+\.[bsuf](\d+)\s+([\w$]+)(?:\[(\d+)\])?\s*;"
    for align, bits, name, count in re.findall(pattern, text):
        end = -(-end // int(align)) * int(align)
        places[name] = end
        end += BYTES[bits] * int(count or 1)
    return places, end


def _params(text: str) -> dict[str, tuple[int, int]]:
    places, end = {}, 0
    for declared in filter(None, map(str.strip, text.split(","))):
        found = re.fullmatch(r"\.param\s+\.[bsuf](\d+)(?:\s+\.ptr[\s.\w]*?)?\s+([\w$]+)", declared)
        if not found:
            raise PtxError(f"parameter not supported: {declared!r}; expected a number or a pointer")
        size = BYTES[found[1]]
        end = -(-end // size) * size
        places[found[2]] = (end, size)
        end += size
    return places


def _body(kernel: Kernel, body: str, line: int) -> None:
    source, pending, began = 0, "", line
    for number, raw in enumerate(body.split("\n"), line):
        row = raw.strip()
        if row.startswith(".loc"):
            source = int(row.split()[2])
            continue
        label = re.match(r"([$\w]+):\s*", row)
        if label and not pending:
            kernel.labels[label[1]] = len(kernel.code)
            row = row[label.end() :]
        while row:
            began = began if pending else number
            part, end, row = row.partition(";")
            pending = f"{pending} {part}".strip()
            row = row.strip()
            if end:
                _statement(kernel, pending, began, source)
                pending = ""
    if pending:
        raise PtxError(f"PTX line {began}: statement without its semicolon: {pending!r}")


def _statement(kernel: Kernel, text: str, line: int, source: int) -> None:
    if text.startswith((".reg", ".shared", ".pragma")):
        return
    found = re.fullmatch(r"(?:@(!?%[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)", text, re.S)
    if not found:
        raise PtxError(f"PTX line {line}: not supported: {text!r}")
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{}\[\]]+", found[3])
    opcode = tuple(found[2].split("."))
    kernel.code.append(
        Instruction(opcode, tuple(operands), found[1] or "", line, source, " ".join(text.split()))
    )
