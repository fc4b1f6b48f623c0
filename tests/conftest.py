"""What holds for all tests: commands compute with NumPy unless a test says otherwise.

`auto` would start to compile in the background, and change backends in the middle of a run.

A run may be spread over processes (`pytest -n auto`). CUDA C is compiled once for all of them, and
so are the CPU's kernels, whose cache lasts longer than a run.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

os.environ["TINYMOE_BACKEND"] = "numpy"

KERNEL_CACHE = "TINYMOE_KERNEL_CACHE"
_ours: str | None = None  # a folder of this run, if no one has named another
if not os.environ.get(KERNEL_CACHE):  # a process of `-n` is told of its parent's
    _ours = os.environ[KERNEL_CACHE] = tempfile.mkdtemp(prefix="tinymoe-kernels-")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Keep neighbours together: what one test has compiled and loaded serves the next.

    Each process begins with a piece of the list as long as the others', and one that is done takes
    from the end of another's. What `--dist` says goes first.
    """
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_unconfigure() -> None:
    if _ours is not None:
        shutil.rmtree(_ours, ignore_errors=True)
