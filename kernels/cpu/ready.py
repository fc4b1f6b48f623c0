"""Are the kernels compiled? If not, they can be while the definition already answers.

Compiling all kernels takes a while, once; then Numba's cache has them, and a note says so. Nothing
here imports Numba, so that asking takes no time.

    python -m tinymoe.kernels.cpu.ready        compile everything now
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

STALE = 600.0  # seconds after which somebody who said that they compile is believed no longer
_FOLDER = Path(__file__).parent


def key() -> str:
    """Of everything that compiled code depends on: sources, versions, this machine's CPU."""
    digest = hashlib.sha256()
    for file in sorted(_FOLDER.glob("*.py")):
        digest.update(file.read_bytes())
    digest.update(_cpu().encode())
    digest.update(sys.version.encode())
    for name in ("numba", "llvmlite"):
        digest.update(metadata.version(name).encode())
    digest.update(str({k: v for k, v in os.environ.items() if k.startswith("NUMBA_")}).encode())
    return digest.hexdigest()[:24]


def _cpu() -> str:
    """What the system says of the CPU's model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    names = ("model name", "model\t", "cpu family", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(names))


def note() -> Path | None:
    """The file that says that all is compiled, there or not; None: no folder can be written."""
    asked = os.environ.get("NUMBA_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (Path(asked) if asked else _FOLDER / "__pycache__", home / "tinymoe"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder / f"tinymoe-{key()}.compiled"
    return None


def is_ready() -> bool:
    """All kernels are in the cache."""
    place = note()
    return place is not None and place.exists()


def start_compiling() -> bool:
    """Compile everything in a process of its own, which goes on by itself; False: it cannot.

    There is one at a time. It is polite: it takes what others leave of the CPU.
    """
    place = note()
    if place is None:
        return False
    busy = place.with_suffix(".busy")
    try:
        if time.time() - busy.stat().st_mtime < STALE:
            return True
    except OSError:
        pass
    command = [sys.executable, "-m", "tinymoe.kernels.cpu.ready"]
    try:
        busy.touch()
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True


def compile_all() -> None:
    """Every kernel, whatever a model needs; then leave the note."""
    from tinymoe.kernels.cpu.every import every_kernel

    for kernel in every_kernel():
        assert kernel.address
    place = note()
    if place is not None:
        place.touch()
        place.with_suffix(".busy").unlink(missing_ok=True)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)
    compile_all()
