"""Machine code kept on disk: each kernel finds its own, whoever else writes at the same time.

Numba numbers the files of all functions that one `def` makes. Two processes that compiled the
products of two formats at once could both take number 1: then one format ran the other's code.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from numba import types

from tinymoe.kernels.cpu import kernel
from tinymoe.kernels.cpu.every import every_kernel
from tinymoe.kernels.cpu.multiply import multiply

pytestmark = pytest.mark.kernels
KEY: tuple[Any, ...] = (types.void(types.int64), ("x86_64", "znver3", "+avx2"), "f", "0a1b")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def test_no_two_kernels_share_a_file(folder: Path) -> None:
    kernels = list(every_kernel())
    for each in kernels:
        cache = kernel._Cache(each.function)
        signature = types.void(*[types.int64] * each.arity)
        codegen = type("", (), {"magic_tuple": lambda self: KEY[1]})()
        cache._cache_file.save(cache._index_key(signature, codegen), each.name)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) == len(kernels), Counter(k.name for k in kernels).most_common(3)


def test_what_was_kept_is_found_by_its_key_alone(folder: Path) -> None:
    one, same = (kernel._Cache(multiply("f32").function)._cache_file for _ in range(2))
    one.save(KEY, "code")
    assert same.load(KEY) == "code"
    for changed in ((types.void(types.int32), *KEY[1:]), (*KEY[:3], "0a1c")):
        assert same.load(changed) is None
