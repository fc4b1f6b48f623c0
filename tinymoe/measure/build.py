"""The model under test, made by one function: which weights, in which format, by which backend.

`build` is where a backend joins the benchmark. What comes back is a `Built`: a `Subject` whose
`forward` is timed, and the counts of its weights, taken before the backend lays them out anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tinymoe.api import load, pick_numerics
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import ModelConfig, Numerics, TinymoeError
from tinymoe.families import read_config
from tinymoe.kernels import ops
from tinymoe.measure.by_op import by_op
from tinymoe.measure.compiled import compiled
from tinymoe.measure.counts import Counts
from tinymoe.measure.machine import free_memory, usable_cores
from tinymoe.measure.random_model import random_params
from tinymoe.measure.runs import Subject
from tinymoe.measure.shapes import parameters, pick_shape
from tinymoe.measure.stored import check_form, round_params

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the weights come from: a folder, or a shape's random ones, with its sizes changed."""

    shape: str | None = None
    folder: Path | None = None
    seed: int = 0
    experts: int | None = None  # instead of the shape's
    top_k: int | None = None
    positions: int | None = None

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        if self.shape is None:
            assert self.folder is not None  # one of the two
            return read_config(Checkpoint.open(self.folder).config)
        config = pick_shape(self.shape)
        router = replace(
            config.router,
            experts=self.experts or config.router.experts,
            top_k=self.top_k or config.router.top_k,
        )
        if router.experts % router.groups:
            raise TinymoeError(
                f"--shape {self.shape} has its experts in {router.groups} groups: expected a "
                f"multiple of {router.groups} experts, got {router.experts}"
            )
        most = router.experts // router.groups * router.groups_kept
        if router.top_k > most:
            raise TinymoeError(
                f"--shape {self.shape}: a token may choose among {most} experts, top-k is "
                f"{router.top_k}: take fewer"
            )
        positions = self.positions or config.max_positions
        return replace(config, router=router, max_positions=positions)

    @property
    def name(self) -> str:
        """For a reader."""
        return str(self.folder) if self.shape is None else f"random, shape {self.shape}"

    def subject(self, numerics: Numerics) -> Subject:
        """Its weights, drawn or read, not yet in a format."""
        if self.shape is not None:
            config = self.config
            return Subject(random_params(config, self.seed, numerics), config, numerics)
        model = load(self.folder, numerics=numerics)
        if model.params.reads is not None:
            raise TinymoeError(
                f"{self.folder} does not fit in memory: a benchmark would measure the disk"
            )
        return Subject(model.params, model.generating, model.numerics)


class Built(NamedTuple):
    """A model ready to be timed."""

    subject: Subject
    counts: Counts
    form: str
    backend: str
    threads: int
    # seconds by op of one call, where the backend can say: (call) -> {op: seconds}
    by_op: Callable[[Callable[[Subject], Any]], dict[str, float]] | None = None
    whole: bool = False  # multiplies whole numbers rather than float32


def build(
    source: Source, form: str, backend: str = "numpy", threads: int | None = None,
    numerics: str = "fp32",
) -> Built:  # fmt: skip
    """The model of `source` with its matrices in `form`, computed by `backend` on `threads`."""
    check_form(form)
    computed_by = ops(backend)  # refuses a name that is none
    check_memory(source, form)
    subject = source.subject(pick_numerics(numerics))
    counts, count = Counts.of(subject.params), threads or default_threads(backend)
    if backend == "numba":  # lays out the weights of a whole model for itself, in the format
        # here, for every start imports this file: LLVM would make it 0.05 s longer
        from tinymoe.kernels.cpu.inputs import in_fixed_point

        made, by_kernel = compiled(subject, counts, form, count)
        whole = in_fixed_point(form, subject.numerics)
        return Built(made, counts, form, backend, count, by_kernel, whole)
    if backend == "numpy":
        check_blas_threads(count)
    # op by op: float32 is held whatever the format; the numbers are the format's, not the bytes
    made = subject._replace(params=round_params(subject.params, form), ops=computed_by)
    return Built(made, counts, form, backend, count, lambda call: by_op(made, call))


def check_memory(source: Source, form: str) -> None:
    """Refuse what would make the machine swap: float32 weights, twice while they are rounded."""
    total = parameters(source.config)[0]
    needed, free = total * 4 * (1 if form == "fp32" else 2), free_memory()
    if free is not None and needed > free:
        raise TinymoeError(
            f"{source.name}: {total / 1e9:.2f} G parameters take {needed / 1e9:.1f} GB while they "
            f"are laid out, {free / 1e9:.1f} GB are free: take --shape small, smaller --points, or "
            "close other programs"
        )


def default_threads(backend: str) -> int:
    """What a run takes when nobody says: NumPy its library's threads, others the cores."""
    return blas_threads() if backend == "numpy" else usable_cores()


def blas_threads() -> int:
    """Threads that NumPy's linear algebra takes, by the variables it reads when it is loaded."""
    asked = [int(os.environ[n]) for n in BLAS_VARIABLES if os.environ.get(n, "").isdigit()]
    return min(asked[0], usable_cores()) if asked else usable_cores()


def check_blas_threads(threads: int) -> None:
    """NumPy's threads are its linear-algebra library's, which are set before it is loaded."""
    taken = blas_threads()
    if threads != taken:
        raise TinymoeError(
            f"--threads {threads}: with --backend numpy the threads are those of its linear "
            f"algebra, now {taken}; call it as OPENBLAS_NUM_THREADS={threads} python -m tinymoe "
            "bench ... (or the variable of your NumPy's library), or leave --threads out"
        )
