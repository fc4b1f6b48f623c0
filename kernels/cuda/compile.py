"""CUDA C to PTX and CUBIN with NVRTC, a compiler that comes as a wheel: no GPU, no toolkit.

    build("topk", "80").ptx          what the PTX machine runs
    build("topk", "120a").cubin      what a GPU loads; ptxas has checked every inline instruction

Where NVRTC is missing, `build` gives the PTX in `compiled/`, if it was made of this very source
(`refresh.py` writes it). The environment variable TINYMOE_KERNEL_CACHE names a folder in which
results are kept between runs.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.committed import NoCompilerError, committed
from tinymoe.kernels.cuda.source import Source, source

NEEDED = "pip install 'tinymoe[compile]'"
FLAGS = (
    "--std=c++17",
    "-ftz=true",  # with the next one: what CuPy passes, so that what is tested is what is shipped
    "--device-as-default-execution-space",
    "--ptxas-options=-v",  # registers, spills and shared memory into the log
    "-lineinfo",
)


class CompileError(TinymoeError):
    """CUDA C that the compiler refuses; the message holds its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One translation unit for one chip. The dictionaries have an entry for each kernel."""

    name: str
    arch: str
    ptx: str
    cubin: bytes  # empty if the PTX is the committed one
    log: str
    registers: dict[str, int]  # of a thread
    spills: dict[str, int]  # bytes stored to or loaded from memory for want of registers
    stack: dict[str, int]  # bytes of local memory of a thread: arrays that got no registers
    shared: dict[str, int]  # bytes of static shared memory of a block


def build(name_or_text: str, arch: str, defines: tuple[str, ...] = ()) -> Compiled:
    """Compile a file of this folder, or CUDA C text, for a chip: "80", "90a", "100a", "120a".

    The `a` gives access to the instructions of that one chip; FP4 tensor cores need it.
    `defines`: NAME or NAME=VALUE each. The same call again costs nothing.
    """
    if not re.fullmatch(r"\d{2,3}[af]?", arch):
        raise TinymoeError(f"arch {arch!r}: expected a chip's number such as '80' or '120a'")
    unit = source(name_or_text)
    if unit.only and arch not in unit.only:
        raise TinymoeError(f"{unit.name}.cu is for sm_{', sm_'.join(unit.only)}, not sm_{arch}")
    return _build(unit, arch, tuple(defines))


@cache
def _build(unit: Source, arch: str, defines: tuple[str, ...]) -> Compiled:
    stored = _disk(unit, arch, defines)
    if stored is not None and stored.with_suffix(".log").is_file():
        ptx, log = (stored.with_suffix(s).read_bytes().decode() for s in (".ptx", ".log"))
        return _compiled(unit, arch, ptx, stored.with_suffix(".cubin").read_bytes(), log)
    try:
        ptx, cubin, log = nvrtc_compile(unit, arch, defines)
    except NoCompilerError as missing:
        return _compiled(unit, *committed(unit, arch, defines, missing), b"", "")
    if stored is not None:
        _keep(stored.with_suffix(".ptx"), ptx.encode())
        _keep(stored.with_suffix(".cubin"), cubin)
        _keep(stored.with_suffix(".log"), log.encode())  # last: its presence says "complete"
    return _compiled(unit, arch, ptx, cubin, log)


def _disk(unit: Source, arch: str, defines: tuple[str, ...]) -> Path | None:
    folder = os.environ.get("TINYMOE_KERNEL_CACHE")
    if not folder:
        return None
    try:
        digest = unit.digest(arch, *defines, *FLAGS, nvrtc_version())
    except NoCompilerError:  # whose results would these be?
        return None
    return Path(folder) / f"{unit.name}_{digest}.ptx"


def _keep(path: Path, content: bytes) -> None:
    """Written aside, then renamed: another process finds all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as aside:
        aside.write(content)
    Path(aside.name).replace(path)


def nvrtc_compile(unit: Source, arch: str, defines: tuple[str, ...]) -> tuple[str, bytes, str]:
    """One compilation: PTX, CUBIN, and the log with what ptxas reports."""
    nvrtc = _nvrtc()

    def ask(function: str, *args: Any) -> Any:
        status, *values = getattr(nvrtc, function)(*args)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"{function}: {status.name}")
        return values[0] if values else None

    def text(what: str, program: Any) -> bytes:
        buffer = b" " * ask(f"nvrtcGet{what}Size", program)
        ask(f"nvrtcGet{what}", program, buffer)  # fills the bytes in place
        return buffer

    options = [f"-arch=sm_{arch}", *FLAGS, *(f"-D{d}" for d in defines)]
    program = ask("nvrtcCreateProgram", unit.text.encode(), f"{unit.name}.cu".encode(), 0, [], [])
    try:
        try:
            ask("nvrtcCompileProgram", program, len(options), [o.encode() for o in options])
        except CompileError as error:
            log = _readable(text("ProgramLog", program))
            raise CompileError(f"{unit.name}.cu for sm_{arch}: {error}\n{log}") from None
        ptx, log = (_readable(text(what, program)) for what in ("PTX", "ProgramLog"))
        return _without_folders(ptx), text("CUBIN", program), log
    finally:
        ask("nvrtcDestroyProgram", program)


def _readable(raw: bytes) -> str:
    return raw.rstrip(b" \0").decode()


def _without_folders(ptx: str) -> str:
    """`.file` entries by name alone: the working folder's path is nobody's business."""
    return re.sub(r'(\.file\s+\d+ ")[^"]*/', r"\1", ptx)


@cache
def _nvrtc() -> Any:
    """The compiler's Python binding, once it has answered."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise NoCompilerError(
            f"CUDA C is compiled by NVRTC, and the package cuda-bindings is missing: {NEEDED}"
        ) from error
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # the binding is there, the library is not
        raise NoCompilerError(
            "CUDA C is compiled by NVRTC, and its library libnvrtc.so.12 (package "
            f"nvidia-cuda-nvrtc-cu12) is missing: {NEEDED}"
        ) from error
    return nvrtc


@cache
def nvrtc_version() -> str:
    """As "12.9"."""
    return ".".join(map(str, _nvrtc().nvrtcVersion()[1:]))


def _compiled(unit: Source, arch: str, ptx: str, cubin: bytes, log: str) -> Compiled:
    """Sort what ptxas reports by kernel."""
    frames: dict[str, dict[str, int]] = {}
    now: dict[str, int] = {}
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\S+)'", line):
            now = frames.setdefault(entry[1], {})
        for count, what in re.findall(
            r"(\d+) bytes (stack frame|spill stores|spill loads|smem)", line
        ):
            now[what] = now.get(what, 0) + int(count)
        if used := re.search(r"Used (\d+) registers", line):
            now["registers"] = int(used[1])

    def pick(*keys: str) -> dict[str, int]:
        return {kernel: sum(f.get(key, 0) for key in keys) for kernel, f in frames.items()}

    return Compiled(
        name=unit.name,
        arch=arch,
        ptx=ptx,
        cubin=cubin,
        log=log,
        registers=pick("registers"),
        spills=pick("spill stores", "spill loads"),
        stack=pick("stack frame"),
        shared=pick("smem"),
    )
