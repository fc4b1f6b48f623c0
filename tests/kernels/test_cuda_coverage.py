"""No kernel is left out: of every one, on every chip, some test reaches every instruction.

Which test that is stands in the modules below: each has a test that runs hard examples on the PTX
machine and fails if an instruction was missed. Here stands that together they are complete.
"""

from __future__ import annotations

import re

import pytest

from tests.kernels import (
    test_cuda_attention,
    test_cuda_fp4,
    test_cuda_fp8,
    test_cuda_model,
    test_cuda_recurrent,
    test_cuda_routing_covered,
    test_cuda_sample,
)
from tests.kernels.model_kernels import ARCHES, missed
from tinymoe.kernels import ptx
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.source import names, source

pytestmark = pytest.mark.kernels
SAME_CODE = {"80": ("80", "90a"), "120a": ("100a", "120a")}  # run on the one, shown for the others
ON_BOTH = (
    *(test_cuda_attention, test_cuda_fp8, test_cuda_model),
    *(test_cuda_recurrent, test_cuda_routing_covered, test_cuda_sample),
)


def covered() -> list[tuple[str, str]]:
    """(file, chip) of which a test asserts that its examples reach every instruction."""
    found = [(name, arch) for module in ON_BOTH for name in module.COVERED for arch in ARCHES]
    for arch, _, files in test_cuda_fp4.RUNGS.values():
        found += [(name, arch) for name in files]
    return found


def test_every_kernel_file_is_covered_on_every_chip_whose_code_differs() -> None:
    # a new file, or one that no test names any more, shows here
    wanted = {
        (name, run)
        for name in names()
        for run, chips in SAME_CODE.items()
        if set(chips) & set(source(name).arches)
    }
    assert sorted(covered()) == sorted(wanted)  # each by one test: no claim hides behind another


def code(text: str) -> list[str]:
    """The lines of PTX that are instructions or declare something: all but the target's name."""
    lines = (line.split("//")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith((".target", ".version"))]


@pytest.mark.parametrize("name", names())
def test_other_chips_run_the_very_same_code(name: str) -> None:
    # so that what is covered on sm_80 is on sm_90a, and what is on sm_120a is on sm_100a
    for run, chips in SAME_CODE.items():
        for arch in set(chips) & set(source(name).arches) - {run}:
            assert code(build(name, arch).ptx) == code(build(name, run).ptx)


@pytest.mark.parametrize("name", names())
def test_what_is_asked_of_a_file_is_asked_of_all_its_kernels(name: str) -> None:
    # `missed`, which those tests ask, names every kernel of a file that nobody ran; and no kernel
    # of the source is hidden from it, under a name of the compiler's own or behind an `#if`
    arch = source(name).arches[0]
    text = build(name, arch).ptx
    kernels = list(ptx.parse(text))
    assert missed(PtxDevice(arch), name) == [f"{name}: {kernel} never ran" for kernel in kernels]
    assert len(kernels) == len(re.findall(r"\.entry\b", text))
    written = re.sub(r"//.*", "", source(name).text)
    assert written.count("__global__") == written.count('extern "C" __global__')
    assert not re.search(r"^\s*#\s*if", written, re.M)
