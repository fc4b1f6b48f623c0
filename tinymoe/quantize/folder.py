"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinymoe.core import TinymoeError


def check_target(model: Path, out: Path, force: bool) -> None:
    """Refuse, before anything is computed, a folder that cannot or may not be written."""
    parent = out.resolve().parent
    if not parent.is_dir():
        raise TinymoeError(f"{out}: there is no folder {parent}; make it first")
    if not os.access(parent, os.W_OK):
        raise TinymoeError(f"{out}: the folder {parent} may not be written to")
    source, target = model.resolve(), out.resolve()
    if source == target or target in source.parents or source in target.parents:
        raise TinymoeError(
            f"{out}: is the model's own folder, or one is in the other: choose another"
        )
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise TinymoeError(f"{out}: expected a folder to write, this is a file or a link")
    if any(out.iterdir()):
        if not force:
            raise TinymoeError(f"{out}: exists already; choose another name, or add --force")
        if not (out / "config.json").is_file():
            raise TinymoeError(
                f"{out}: --force replaces model folders, this one has no config.json; remove it "
                "yourself if it may go"
            )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into; takes its name, and its place, when all went well.

    Left by an exception, Ctrl-C too, it is removed. What `out` held stays until the last moment.
    """
    out = out.resolve()
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        inner, old = work / "new", work / "old"
        inner.mkdir()  # mkdtemp's own is its owner's alone
        yield inner
        if out.exists():
            out.rename(old)
        try:
            inner.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
