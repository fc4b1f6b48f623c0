"""Random C expressions: NVRTC and the PTX machine against the host's C compiler, bit for bit."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.c_expressions import programs
from tinymoe.kernels.cuda.compile import NoCompilerError, build
from tinymoe.kernels.ptx import launch, parse

pytestmark = pytest.mark.kernels
DTYPES = {"u32": "u4", "s32": "i4", "u64": "u8", "s64": "i8", "f32": "f4", "f64": "f8"}
N = 256
SEED = int(os.environ.get("TINYMOE_FUZZ_SEED", "0"))  # another one: other expressions
COUNT = int(os.environ.get("TINYMOE_FUZZ_COUNT", "60"))


def inputs() -> list[np.ndarray[Any, Any]]:
    """a, b, c, x, y, w: any bits, with the edges of every type at the front."""
    rng = np.random.default_rng(SEED)
    whole = rng.integers(0, 2**32, (2, N), np.uint32)
    whole[:, ::2] >>= rng.integers(0, 32, (2, N // 2), np.uint32)
    whole[0, :6] = whole[1, 2:8] = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 31]
    long = rng.integers(0, 2**64, N, np.uint64) >> rng.integers(0, 64, N, np.uint64)
    long[:4] = [0, 1, 2**63, 2**64 - 1]
    single = np.ldexp(rng.uniform(-2, 2, (2, N)), rng.integers(-149, 128, (2, N))).astype("f4")
    single[:, N // 2 :] = rng.uniform(-9, 9, (2, N // 2))
    single[0, :6] = single[1, 3:9] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]
    double = np.ldexp(rng.uniform(-2, 2, N), rng.integers(-1074, 1023, N))
    double[N // 2 :] = rng.uniform(-9, 9, N // 2)
    double[:5] = [0.0, -0.0, np.inf, np.nan, 1.0]
    return [whole[0].copy(), whole[1].copy(), long, single[0].copy(), single[1].copy(), double]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, list[str]]:
    """CUDA C, and the loaded library of the same functions in C."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    device, host, kinds = programs(SEED, COUNT)
    folder: Path = tmp_path_factory.mktemp("fuzz")
    (folder / "f.c").write_text(host, "utf-8")
    # no fused multiply-add of the compiler's own, and signed overflow wraps as on the GPU
    flags = ["-O1", "-ffp-contract=off", "-fwrapv", "-w", "-shared", "-fPIC"]
    command = [compiler, *flags, "f.c", "-o", "f.so", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    return device, ctypes.CDLL(str(folder / "f.so")), kinds


@pytest.mark.parametrize("arch", ["80", "120a"])
def test_the_machine_agrees_with_the_hosts_compiler(
    both: tuple[str, Any, list[str]], arch: str
) -> None:
    # wrong results of single instructions: signed zeros in min, INT_MIN, 16-bit mul.hi, ...
    device, library, kinds = both
    try:
        kernels = parse(build(device, arch).ptx)
    except NoCompilerError:
        pytest.skip("no NVRTC here")
    given = inputs()
    for k, kind in enumerate(kinds):
        want, got = np.zeros((2, N), DTYPES[kind])
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (want, *given)]
        getattr(library, f"f{k}")(*pointers, N)
        launch(kernels[f"f{k}"], 1, N, [got, *given])
        same = want.view(f"u{want.itemsize}") == got.view(f"u{want.itemsize}")
        if kind[0] == "f":
            same |= np.isnan(want) & np.isnan(got)  # which NaN differs between x86 and a GPU
        bad = int(np.argmin(same))
        assert same.all(), (
            f"f{k} ({kind}) at input {bad}, {[x[bad] for x in given]}: C gives {want[bad]!r}, "
            f"the machine {got[bad]!r}:\n{device[device.index(f'body{k}(') :].split('extern')[0]}"
        )
