"""Of which model, and in which layout, packed weights are: two hashes, and when they are taken.

    source   SHA-256 of the content of every weight file, and of the JSON files that say what is
             in them. A file of gigabytes is not hashed each time: `sha256.json`, beside the packed
             weights, remembers its hash together with its size, its inode, and its times of last
             content and status change, in nanoseconds. If one of them differs, it is hashed anew.
    layout   SHA-256 of our own sources that decide which byte lies where: readers, formats, tiles.

A time of status change cannot be set back (`touch` and `cp -p` set the other one), so what we take
for unchanged has not been written to. A file that was written less than two seconds before it was
hashed is not remembered: clocks of file systems are coarse (git calls such files racy).
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from tinymoe.checkpoint import INDEX, Checkpoint
from tinymoe.families.quantised import MODELOPT_FILE

MEMO = "sha256.json"
SETTLED = 2.0  # seconds that a file must be left alone before its hash is remembered
VERSION = "1"  # of the cache's file
_CHUNK = 2**24  # bytes hashed at a time
_KERNELS = ("lay_out", "latent", "pack", "pack_codes", "packed", "simd", "tiles", "weights")
_PACKAGE = ("families/*", "formats/*", "checkpoint", "safetensors_file", "model/on_demand")

Progress = Callable[[int, int], None]  # how much of how much


def layout_digest() -> str:
    """Of the sources that make tiles of a checkpoint."""
    package, own = Path(inspect.getfile(Checkpoint)).parent, Path(__file__).parent
    files = [own / f"{name}.py" for name in _KERNELS]
    files += [file for name in _PACKAGE for file in sorted(package.glob(f"{name}.py"))]
    digest = hashlib.sha256(f"{VERSION} {sys.byteorder}".encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def source_digest(checkpoint: Checkpoint, folder: Path, progress: Progress | None = None) -> str:
    """Of everything that decides the values; `folder` is where hashes are remembered."""
    path = checkpoint.path
    digest = hashlib.sha256()
    for name in ("config.json", MODELOPT_FILE, INDEX):
        if (path / name).is_file():
            digest.update(name.encode() + hashlib.sha256((path / name).read_bytes()).digest())
    for name, found in _hashes([file.path for file in checkpoint.files], folder, progress).items():
        digest.update(name.encode() + bytes.fromhex(found))
    return digest.hexdigest()


def remembered(checkpoint: Checkpoint, folder: Path) -> bool:
    """Every weight file's hash is, so that the source's costs nothing."""
    memo = _read(folder / MEMO)
    return all(_known(memo, file.path) for file in checkpoint.files)


def _hashes(files: list[Path], folder: Path, progress: Progress | None) -> dict[str, str]:
    """By name, from memory or by reading all of a file."""
    memo = _read(folder / MEMO)
    found = {file.name: _known(memo, file) for file in files}
    new = [file for file in files if found[file.name] is None]
    size, done = sum(file.stat().st_size for file in new), 0
    settled: dict[str, Any] = {n: memo[n] for n, known in found.items() if known is not None}
    for file in new:
        stamp, digest = _stamp(file), hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, size)
        found[file.name] = digest.hexdigest()
        changed = max(stamp[1:3]) / 1e9
        if _stamp(file) == stamp and time.time() - changed > SETTLED:
            settled[file.name] = [*stamp, digest.hexdigest()]
    if new:
        _write(folder / MEMO, settled)
    return {name: known for name, known in found.items() if known is not None}


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _known(memo: dict[str, Any], file: Path) -> str | None:
    """A file's hash, if it is as it was when it was hashed."""
    said = memo.get(file.name)
    if not isinstance(said, list) or len(said) != 5 or said[:4] != _stamp(file):
        return None
    return said[4] if isinstance(said[4], str) and len(said[4]) == 64 else None


def _read(memo: Path) -> dict[str, Any]:
    """What is remembered; a file that is damaged remembers nothing."""
    try:
        said = json.loads(memo.read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _write(memo: Path, hashes: dict[str, Any]) -> None:
    """At once or not at all; where there is no folder to write to, the next time hashes again."""
    with contextlib.suppress(OSError):
        memo.parent.mkdir(exist_ok=True)
        part = memo.with_name(f"{memo.name}.{uuid4().hex}.part")
        try:
            part.write_text(json.dumps(hashes, indent=1), "utf-8")
            part.replace(memo)
        finally:
            part.unlink(missing_ok=True)
