"""What a GPU executes in the end: CUBIN to SASS with nvdisasm, from its wheel."""

from __future__ import annotations

import importlib.metadata
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.compile import NEEDED

WHEEL = "nvidia-cuda-nvdisasm"


def sass(cubin: bytes) -> str:
    """The machine code of every kernel in a CUBIN, as text.

    Look for HMMA (f16 tensor cores), OMMA (FP4), and for LDL and STL: local memory, where a
    thread's arrays and spilled registers go, and where no fast kernel wants to see any.
    """
    if not cubin.startswith(b"\x7fELF"):
        raise TinymoeError(
            f"expected a CUBIN (an ELF file), got {len(cubin)} bytes that begin with "
            f"{cubin[:4]!r}; committed PTX has none, it takes NVRTC: {NEEDED}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run(
            [_nvdisasm(), "-c", str(path)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise TinymoeError(f"nvdisasm: {done.stderr.strip()}")
    return done.stdout


@cache
def _nvdisasm() -> str:
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise TinymoeError(f"disassembly needs the package {WHEEL}: {NEEDED}") from error
    found = [f for f in files if f.name in ("nvdisasm", "nvdisasm.exe")]
    if not found:
        raise TinymoeError(f"the package {WHEEL} holds no nvdisasm for this system")
    return str(found[0].locate())
