"""What `ptx` prints: the finding with its line of CUDA C, or the counts of a clean run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.kernels.ptx import DefectError, Report
from tinymoe.kernels.ptx.counters import Traffic
from tinymoe.kernels.ptx.kernel import Instruction

HEAD = 8  # values shown of each array
COMPILED = "kernel.cu"  # what the compiler calls text that it was given without a name


class Page:
    """Writes about the run of one file, whose text is `source`."""

    def __init__(self, file: Path, source: str, coverage: bool) -> None:
        self.file, self.coverage = file, coverage
        self.lines = {file.name: source.splitlines()}
        beside = file.with_suffix(".cu")
        if file.suffix != ".cu" and beside.is_file():
            self.lines[beside.name] = beside.read_text("utf-8").splitlines()

    def text(self, finding: DefectError | None, done: Report | None, args: list[Any]) -> str:
        """For people."""
        if done is None:
            assert finding is not None
            return "\n".join([f"found: {finding}", *self._pointed(finding.instruction)])
        rows = [
            f"clean: {done.executed} of {done.instructions} instructions reached, "
            f"{done.thread_instructions:,} run by all threads together"
        ]
        for number, arg in enumerate(args):
            rows.append(f"argument {number}: {_short(arg)}")
        rows += _table("shared memory, passes over the banks", done, done.shared)
        rows += _table("global memory, sectors of 32 bytes", done, done.memory)
        if self.coverage:
            rows += self._missed(done)
        return "\n".join(rows)

    def as_json(
        self, finding: DefectError | None, done: Report | None, args: list[Any]
    ) -> dict[str, Any]:
        """For programs."""
        page: dict[str, Any] = {"finding": None, "ran": None}
        if finding:
            page["finding"] = {"message": str(finding), "block": finding.block}
            page["finding"] |= {"thread": finding.thread} | self._place(finding.instruction)
        if done:
            page["ran"] = {
                "executed": done.executed,
                "instructions": done.instructions,
                "thread_instructions": done.thread_instructions,
                "kinds": done.kinds,
                "missed": [self._place(i) for i in done.missed],
                "shared": {str(line): vars(t) for line, t in done.shared.items()},
                "global": {str(line): vars(t) for line, t in done.memory.items()},
            }
        heads = [np.ravel(a)[:HEAD].tolist() for a in args]
        # JSON has no NaN and no infinity
        page["arguments"] = [[x if np.isfinite(x) else str(x) for x in head] for head in heads]
        return page

    def _place(self, i: Instruction | None) -> dict[str, Any]:
        if i is None:
            return {}
        place: dict[str, Any] = {"ptx_line": i.line, "ptx": i.text}
        if i.source:
            place |= {"file": self._file(i), "line": i.source, "column": i.column}
        return place

    def _file(self, i: Instruction) -> str:
        return self.file.name if i.file == COMPILED else i.file

    def _pointed(self, i: Instruction | None) -> list[str]:
        """The line of CUDA C, with a caret, where the file is at hand."""
        if i is None or not i.source:
            return []
        at = f"{self._file(i)}:{i.source}: "
        lines = self.lines.get(self._file(i), [])
        if i.source > len(lines):
            return [at.rstrip(" :")]
        text = lines[i.source - 1].replace("\t", " ")
        return [at + text, " " * (len(at) + max(i.column - 1, 0)) + "^"]

    def _missed(self, done: Report) -> list[str]:
        if not done.missed:
            return ["", "every instruction was reached"]
        rows = ["", f"not reached ({len(done.missed)}):"]
        last = ("", 0)
        for i in done.missed:
            where = (self._file(i), i.source)
            if i.source and where != last:
                last = where
                text = self.lines.get(where[0], [])
                known = text[i.source - 1].strip() if i.source <= len(text) else ""
                rows.append(f"  {where[0]}:{i.source}: {known}")
            rows.append(f"    PTX line {i.line}: {i.text}")
        return rows


def _short(arg: Any) -> str:
    if not isinstance(arg, np.ndarray):
        return str(arg)
    head = ", ".join(str(x) for x in arg.ravel()[:HEAD])
    more = ", ..." if arg.size > HEAD else ""
    return f"{arg.dtype}{list(arg.shape)} {head}{more}"


def _table(title: str, done: Report, lines: dict[int, Traffic]) -> list[str]:
    """Each line that touches a memory: what it took, and the least it could."""
    if not lines:
        return []
    text = {i.line: i for i in done.code}
    rows = ["", f"{title}:", f"  {'used':>8} {'needed':>8}  PTX line"]
    for line, t in lines.items():
        source = f" (source line {text[line].source})" if text[line].source else ""
        rows.append(f"  {t.used:8} {t.needed:8}  {line}{source}: {text[line].text}")
    whole = sum(lines.values(), Traffic())
    return [*rows, f"  {whole.used:8} {whole.needed:8}  all: {whole.efficiency:.0%} efficient"]
