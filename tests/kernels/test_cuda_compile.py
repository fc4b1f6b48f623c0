"""CUDA C to PTX and CUBIN without a GPU: right places in errors, nothing stale, no spills."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda import committed, refresh
from tinymoe.kernels.cuda import compile as compiler
from tinymoe.kernels.cuda.compile import Compiled, CompileError, build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.disassemble import sass
from tinymoe.kernels.cuda.launch import launch
from tinymoe.kernels.cuda.source import names, source

pytestmark = pytest.mark.kernels
TWICE = """// uses: prims.cuh
extern "C" __global__ void twice(float* out, const float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = 2 * x[i];
}
"""
GREEDY = """
extern "C" __global__ void __launch_bounds__(1024) greedy(float* x) {
  float held[200];
#pragma unroll
  for (int i = 0; i < 200; ++i) held[i] = x[i * blockDim.x + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 200; ++i) x[i * blockDim.x + threadIdx.x] = held[199 - i];
}
"""


def test_an_error_points_into_the_file_and_not_below_the_pasted_parts() -> None:
    with pytest.raises(CompileError, match=r'kernel.cu\(3\): error: identifier "foo"'):
        build(TWICE.replace("int i =", "int i = foo;\n  int j ="), "80")


def test_line_tables_name_files_without_folders() -> None:
    text = TWICE.replace("2 * x[i]", "warp_sum(x[i])")
    files = re.findall(r'\.file\s+\d+ "(.*)"', build(text, "80").ptx)
    assert sorted(files) == ["kernel.cu", "prims.cuh"]


def test_inline_instructions_of_another_chip_are_refused() -> None:
    # NVRTC's way to PTX does not look inside asm: only the CUBIN finds this
    asm = 'extern "C" __global__ void k() {\n  asm volatile("this.is.nonsense;");\n}\n'
    with pytest.raises(CompileError, match=r"this\.is|ptxas|Unknown|nonsense"):
        build(asm, "80")


def test_spills_are_reported() -> None:
    # so that "no spills", below, means something
    greedy = build(GREEDY, "80")
    assert greedy.spills["greedy"] > 0
    assert greedy.stack["greedy"] > 0
    assert re.search(r"\bSTL\b", sass(greedy.cubin))


EVERY = [(name, arch) for name in names() for arch in source(name).arches]


@pytest.fixture(scope="module")
def everywhere() -> dict[tuple[str, str], Compiled]:
    """Every kernel for every chip; the compiler runs in as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(EVERY, threads.map(lambda each: build(*each), EVERY), strict=True))


@pytest.mark.parametrize(("name", "arch"), EVERY)
def test_every_kernel_compiles_for_every_chip_and_keeps_to_registers(
    everywhere: dict[tuple[str, str], Compiled], name: str, arch: str
) -> None:
    made = everywhere[name, arch]
    assert made.registers  # the file has kernels, and ptxas reported on them
    assert not any(made.spills.values()), made.spills
    assert not any(made.stack.values()), made.stack  # an indexed array lies in memory as well


def opcodes(ptx: str) -> list[str]:
    return re.findall(r"^\s+(?:@!?%\w+\s+)?([a-z]\w*(?:\.\w+)*)\s", ptx, re.M)


@pytest.mark.parametrize("name", names())
def test_committed_ptx_is_of_this_source(name: str) -> None:
    unit = source(name)
    path = committed.path_of(unit)
    assert not refresh.stale(unit), f"{path.name}: run {committed.REFRESH}"
    assert opcodes(path.read_text("utf-8")) == opcodes(build(name, committed.base_arch(unit)).ptx)


@pytest.fixture
def without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise committed.NoCompilerError("CUDA C is compiled by NVRTC, and it is missing")

    monkeypatch.setattr(compiler, "nvrtc_compile", none)
    compiler._build.cache_clear()
    monkeypatch.delenv("TINYMOE_KERNEL_CACHE", raising=False)


@pytest.mark.usefixtures("without_nvrtc")
def test_without_the_compiler_committed_ptx_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, ptx = source(TWICE), "made before"
    monkeypatch.setattr(committed, "COMPILED", tmp_path)
    with pytest.raises(TinymoeError, match=r"it is missing\n\(there is no committed PTX of kernel"):
        build(TWICE, "80")
    committed.path_of(unit).write_text(committed.head(unit, "12.9") + ptx)
    made = build(TWICE, "120a")  # PTX of sm_80 runs on later chips
    assert (made.ptx, made.arch, made.cubin) == (ptx, "80", b"")
    with pytest.raises(TinymoeError, match=r"made of another kernel.cu than the one here"):
        build(TWICE + "// changed\n", "80")
    with pytest.raises(TinymoeError, match=r"no committed PTX of kernel.cu with SIZE=2"):
        build(TWICE, "80", ("SIZE=2",))


def test_results_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYMOE_KERNEL_CACHE", str(tmp_path))
    text = TWICE.replace("twice", "kept")
    first = build(text, "80")
    compiler._build.cache_clear()
    monkeypatch.setattr(compiler, "nvrtc_compile", None)  # would fail if called
    assert build(text, "80") == first


def test_a_name_that_is_no_file_is_refused_with_those_that_are() -> None:
    with pytest.raises(TinymoeError, match=r"there is no kernel file nosuch.cu: expected one of"):
        build("nosuch", "80")
    with pytest.raises(TinymoeError, match=r"uses nosuch.cuh, which is not in cuda/: have .*prims"):
        build("// uses: nosuch.cuh\n", "80")
    with pytest.raises(TinymoeError, match="expected a chip's number"):
        build(TWICE, "sm_80")


def test_a_launch_gives_the_machine_what_the_kernel_reads() -> None:
    device = PtxDevice()
    x = device.asarray(np.arange(40, dtype="f4"))
    out = device.empty((40,), np.float32)
    assert np.isnan(out).all()
    launch(device.kernel(TWICE, "twice"), 2, 32, [out, x, np.int32(40)])
    assert np.array_equal(out, 2 * x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: 40}, r"argument 2 \(u32 in PTX\): expected np.int32 or np.uint32, got int 40"),
        ({2: np.float32(4)}, "expected np.int32 or np.uint32, got float32"),
        ({2: np.zeros(1, "i4")}, "expected a number, got an array of int32"),
        ({1: np.zeros((4, 4), "f4").T}, "not C-contiguous"),
        ({1: np.int32(3)}, "or an array on the PTX machine"),
    ],
)
def test_a_launch_refuses_what_a_gpu_would_misread(change: dict[int, object], message: str) -> None:
    # CuPy turns a Python number into 8 bytes, and every argument behind it slips
    args: list[object] = [np.zeros(4, "f4"), np.zeros(4, "f4"), np.int32(4)]
    for place, value in change.items():
        args[place] = value
    with pytest.raises(TinymoeError, match=message):
        launch(PtxDevice().kernel(TWICE, "twice"), 1, 32, args)


def test_a_launch_refuses_wrong_shapes_of_grid_and_block() -> None:
    kernel = PtxDevice().kernel(TWICE, "twice")
    x = np.zeros(4, "f4")
    with pytest.raises(TinymoeError, match="a block has at most 1024"):
        launch(kernel, 1, (32, 33), [x, x, np.int32(4)])
    with pytest.raises(TinymoeError, match="expected one to three whole numbers of at least 1"):
        launch(kernel, 0, 32, [x, x, np.int32(4)])
    with pytest.raises(TinymoeError, match="has 3 parameters"):
        launch(kernel, 1, 32, [x, x])
    with pytest.raises(TinymoeError, match="the source has no kernel 'thrice'; it has twice"):
        PtxDevice().kernel(TWICE, "thrice")
