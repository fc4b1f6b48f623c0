"""Machine code of kernels on disk: one file for each, found again without Numba.

To compile all kernels takes some ten seconds, once. What comes out is small (200 KB in all) and
stands alone, so it is kept, and a later process puts it into memory in milliseconds. Which files
are its own it knows by a key of all that the code depends on. A folder that is missing is made; one
that cannot be read or written is no error: then the next one is taken, or kernels are compiled
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from llvmlite import binding

SOURCES = Path(__file__).parent
_DIGEST = 32  # bytes of SHA-256 before the code: half a file must never be run


@cache
def _fixed() -> bytes:
    """Of sources, versions and this machine's CPU: what no process changes."""
    digest = hashlib.sha256()
    for file in sorted(SOURCES.glob("*.py")):
        digest.update(file.read_bytes())
    digest.update(_cpu().encode())
    digest.update(sys.version.encode())
    for name in ("numba", "llvmlite"):
        digest.update(metadata.version(name).encode())
    return digest.digest()


def _cpu() -> str:
    """What LLVM compiles for here: a model, and of all features whether this machine has them.

    Of two machines of one model one may have fewer: a hypervisor hides them. A folder that came
    from the other, with a home on a network or in a container's image, would stop the process.
    """
    try:
        features = binding.get_host_cpu_features().flatten()
    except RuntimeError:  # it cannot tell on every system, nor does Numba then ask for any
        features = ""
    return f"{sys.platform} {platform.machine()} {binding.get_host_cpu_name()} {features}"


def key() -> str:
    """Of everything that compiled code depends on, Numba's settings in the environment included."""
    asked = {k: v for k, v in os.environ.items() if k.startswith("NUMBA_")}
    asked.pop("NUMBA_CACHE_DIR", None)
    return hashlib.sha256(_fixed() + str(sorted(asked.items())).encode()).hexdigest()[:24]


def folders() -> tuple[Path, ...]:
    """Where files may be, the best first: as `NUMBA_CACHE_DIR` says or beside the sources; home."""
    asked = os.environ.get("NUMBA_CACHE_DIR")
    found = [Path(asked) if asked else SOURCES / "__pycache__"]
    with contextlib.suppress(RuntimeError):  # nobody's home
        found.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinymoe")
    return tuple(folder / f"kernels-{key()}" for folder in found)


def load(name: str) -> bytes | None:
    """What was stored under this name; None: nothing, or nothing whole."""
    for folder in folders():
        try:
            whole = (folder / f"{name}.o").read_bytes()
        except OSError:
            continue
        digest, code = whole[:_DIGEST], whole[_DIGEST:]
        if hashlib.sha256(code).digest() == digest:
            return code
    return None


def has(name: str) -> bool:
    """Something is stored under this name."""
    return any((folder / f"{name}.o").exists() for folder in folders())


def store(name: str, code: bytes) -> bool:
    """Keep it, in the first folder that can be written to; False: there is none.

    It is written aside, then renamed: whoever reads meanwhile finds all of it or nothing.
    """
    for folder in folders():
        aside = folder / f"{name}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(hashlib.sha256(code).digest() + code)
            aside.replace(folder / f"{name}.o")
            return True
        except OSError:  # read-only, or full
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
    return False


def writable() -> Path | None:
    """The folder that `store` writes to, made if it is missing; None: nowhere."""
    for folder in folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return None
