"""PTX text to kernels.

One pass over the statements. `{` and `}` where a statement could start open and close a scope,
in which register and label names are local (headers' inline assembly relies on that); inside
a statement braces are vectors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import count

from tinymoe.kernels.ptx.declarations import Layout, declare, is_variable, parameters, registers
from tinymoe.kernels.ptx.kernel import DefectError, Instruction, Kernel, PtxError, Variable

__all__ = ["DefectError", "Instruction", "Kernel", "PtxError", "Variable", "parse"]

NAME = re.compile(r"[%$_A-Za-z][\w$]*")
STATEMENT = re.compile(r"(?:@(!?[%\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
OPERANDS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,\s{}\[\]()]+")
ENTRY = re.compile(r"\.(entry|func)\b")


def parse(text: str) -> dict[str, Kernel]:
    """Every `.entry` of a PTX module, by name."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    files = {int(n): name for n, name in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
    module, entries = _split(text)
    outer = Layout()
    for line, statement in module:
        if is_variable(statement):
            declare(statement, line, outer)
    kernels = {}
    for line, head, body_at, body in entries:
        kernel = _kernel(head, line)
        _Body(kernel, files).read(body, text.count("\n", 0, body_at) + 1)
        _link(kernel, outer)
        kernels[kernel.name] = kernel
    if not kernels:
        raise PtxError("no .entry in this text: expected the PTX of at least one __global__ kernel")
    return kernels


def _split(text: str) -> tuple[list[tuple[int, str]], list[tuple[int, str, int, str]]]:
    """A module's own statements with their lines, and its entries: line, head, place, body."""
    module, entries, at = [], [], 0
    plain = re.compile(r"\s*(?:\.(?:version|target|address_size|file|loc)\b[^\n]*\n)")
    while at < len(text):
        if skipped := plain.match(text, at):
            at = skipped.end()
            continue
        end = re.compile(r"[;{]").search(text, at)
        if not end:
            break
        head = text[at : end.start()]
        line = text.count("\n", 0, at + len(head) - len(head.lstrip())) + 1
        at = end.end()
        if end[0] == ";":
            module.append((line, head.strip()))
        elif "=" in head:  # an initialiser's braces belong to the declaration
            at = text.index(";", end.start()) + 1
            module.append((line, head.strip() + text[end.start() : at - 1]))
        else:
            closed = _closed(text, end.start())
            kind = ENTRY.search(head)
            if kind and kind[1] == "entry":
                entries.append((line, head, end.end(), text[end.end() : closed]))
            at = closed + 1
    return module, entries


def _closed(text: str, opened: int) -> int:
    depth = 0
    for brace in re.compile(r"[{}]").finditer(text, opened):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise PtxError("a kernel's closing brace is missing: the PTX text is cut off")


def _kernel(head: str, line: int) -> Kernel:
    found = re.search(r"\.entry\s+([\w$]+)\s*(?:\(([^)]*)\))?(.*)$", head, re.S)
    if not found:
        raise PtxError(f"PTX line {line}: not a kernel's head: {' '.join(head.split())!r}")
    kernel = Kernel(found[1], {})
    kernel.params = parameters(found[2] or "", line)
    for name, numbers in re.findall(r"\.(maxntid|reqntid)\s+([\d,\s]+)", found[3]):
        sizes = tuple(int(n) for n in numbers.split(","))
        if name == "maxntid":
            kernel.max_threads = sizes
        else:
            kernel.required_threads = sizes
    return kernel


@dataclass
class _Scope:
    parent: _Scope | None
    number: int
    names: set[str]

    def resolve(self, name: str) -> str:
        """The one name of a register or label, wherever it is used."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return f"{name}#{scope.number}" if scope.number else name
            scope = scope.parent
        return name


class _Body:
    """Reads the statements between a kernel's braces."""

    def __init__(self, kernel: Kernel, files: dict[int, str]) -> None:
        self.kernel, self.files = kernel, files
        self.scopes = count()
        self.scope = _Scope(None, next(self.scopes), set())
        self.at = (0, "", 0)  # line, file and column of the CUDA C
        self.layout = Layout()
        self.found: list[tuple[Instruction, _Scope]] = []

    def read(self, body: str, line: int) -> None:
        """All statements of `body`, which starts on `line`."""
        start = re.compile(r"[\s;]*(?:([{}])|(\.loc\b[^\n]*)|([\w$]+)\s*:(?!:)|([^\s;{}]))")
        at, lines = 0, _Lines(body, line)
        while at < len(body) and (found := start.match(body, at)):
            brace, loc, label, _ = found.groups()
            if brace or loc or label:
                at = found.end()
                self._mark(brace, loc, label)
                continue
            began = found.start(4)
            at = body.find(";", began)
            if at < 0:
                cut = " ".join(body[began:].split())
                raise PtxError(f"PTX line {lines.of(began)}: statement without its ;: {cut!r}")
            self._statement(body[began:at].strip(), lines.of(began))
            at += 1
        self.kernel.code = [_resolved(i, scope) for i, scope in self.found]
        self.kernel.variables.update(self.layout.variables)

    def _mark(self, brace: str | None, loc: str | None, label: str | None) -> None:
        if brace == "{":
            self.scope = _Scope(self.scope, next(self.scopes), set())
        elif brace and self.scope.parent:
            self.scope = self.scope.parent
        elif loc:
            number, row, column = map(int, re.findall(r"\d+", loc)[:3])
            self.at = (row, self.files.get(number, ""), column)
        elif label:
            self.scope.names.add(label)
            self.kernel.labels[self.scope.resolve(label)] = len(self.found)

    def _statement(self, text: str, line: int) -> None:
        kernel = self.kernel
        if text.startswith(".reg"):
            for name, bits in registers(text, line):
                self.scope.names.add(name)
                kernel.registers[self.scope.resolve(name)] = bits
        elif text.startswith(".branchtargets"):
            label = next(k for k, v in reversed(kernel.labels.items()) if v == len(self.found))
            kernel.tables[label] = tuple(t.strip() for t in text.split(None, 1)[1].split(","))
        elif is_variable(text):
            declare(text, line, self.layout)
        elif text and not text.startswith((".pragma", ".file", ".callprototype")):
            found = STATEMENT.fullmatch(text)
            if not found:
                raise PtxError(f"PTX line {line}: not supported: {text!r}")
            instruction = Instruction(
                tuple(found[2].split(".")),
                tuple(OPERANDS.findall(found[3])),
                found[1] or "",
                line,
                self.at[0],
                " ".join(text.split()),
                *self.at[1:],
            )
            self.found.append((instruction, self.scope))


class _Lines:
    """Line numbers of places in a text, asked in ascending order."""

    def __init__(self, text: str, first: int) -> None:
        self.text, self.at, self.line = text, 0, first

    def of(self, place: int) -> int:
        self.line += self.text.count("\n", self.at, place)
        self.at = place
        return self.line


def _resolved(i: Instruction, scope: _Scope) -> Instruction:
    """`i` with the names of its inner scope made unique."""
    if scope.parent is None:
        return i

    def resolve(text: str) -> str:
        return NAME.sub(lambda m: scope.resolve(m[0]), text)

    return replace(i, operands=tuple(map(resolve, i.operands)), guard=resolve(i.guard))


def _link(kernel: Kernel, outer: Layout) -> None:
    """Give the kernel the module's variables: constants and globals all, shared where used."""
    used = {name for i in kernel.code for operand in i.operands for name in NAME.findall(operand)}
    layout = Layout(dict(kernel.variables))
    late = []
    for name, variable in outer.variables.items():
        if variable.space != "shared":
            layout.variables[name] = variable
        elif name in used and not variable.dynamic:
            layout.place(name, variable, outer.aligned[name])
        elif name in used:
            late.append(name)
    for name in late:  # dynamic shared memory begins where the static ends
        layout.place(name, outer.variables[name], max(16, outer.aligned[name]))
    kernel.variables = layout.variables
