"""Numba is imported when something must be compiled, and not before.

It takes longer than the rest of a start; kernels that are on disk need LLVM's loader alone.
"""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest

from tinymoe.kernels.cpu.kernel import helper, inlined, part
from tinymoe.kernels.cpu.lazily import Later, njit
from tinymoe.kernels.cpu.simd import f32_at, i64_at, put_f32, put_i64

pytestmark = pytest.mark.kernels

PROGRAM = """
import sys, tinymoe
model = tinymoe.load(backend="numba")
text = "".join(token.text for token in model.generate("Once upon a time", max_tokens=3))
assert text and model.ops.step.weight_bytes
print(sorted(name for name in sys.modules if name.partition(".")[0] == "numba"))
"""


def test_kernels_that_were_compiled_before_run_without_numba() -> None:
    tinymoe_runs()  # whatever was not compiled yet is now
    assert tinymoe_runs() == "[]"


def tinymoe_runs() -> str:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@part
def doubled(x):
    return 2 * x


@inlined
def tripled(x):
    return 3 * x


@njit(inline="always")
def next_to(x):
    return doubled(x) + 1


@pytest.mark.parametrize("function", [doubled, tripled, next_to])
def test_what_kernels_call_is_python_to_python(function: Later) -> None:
    # sizes are computed by the same source on both sides; nothing may be compiled for them
    assert [function(number) for number in (0, 5)] == [function.py_func(0), function.py_func(5)]
    assert copy.deepcopy(function) is function  # Numba copies code with what it calls


def test_compiled_code_calls_each_kind() -> None:
    factor = 7

    @part
    def of_a_closure(x):  # type: ignore[no-untyped-def]
        return factor * x

    @helper
    def all_of_them(at):  # type: ignore[no-untyped-def]
        x = i64_at(at)
        put_i64(at + 8, doubled(x))
        put_i64(at + 16, tripled(x))
        put_i64(at + 24, next_to(x))
        put_i64(at + 32, of_a_closure(x))
        put_f32(at + 40, f32_at(at + 40) + doubled(f32_at(at + 40)))  # another type of argument

    words = np.array([5, 0, 0, 0, 0, 0], np.int64)
    words[5:].view(np.float32)[0] = 1.5
    all_of_them(words.ctypes.data)
    assert words[:5].tolist() == [5, 10, 15, 11, 35]
    assert words[5:].view(np.float32)[0] == 4.5


def test_numba_s_own_functions_are_left_as_they_are() -> None:
    # kernels are compiled by a target of their own, which puts nothing into memory: a function of
    # the user's that shares Numba's library with them, and our operations, must still get there
    numba = pytest.importorskip("numba")

    @helper
    def larger(at):  # type: ignore[no-untyped-def]
        put_i64(at, max(i64_at(at), 40))

    @numba.njit
    def user_s(at):  # type: ignore[no-untyped-def]
        return max(i64_at(at), 41) + next_to(1)

    words = np.array([5], np.int64)
    larger(words.ctypes.data)
    larger.compile()
    assert words[0] == 40
    assert user_s(words.ctypes.data) == 41 + 3
