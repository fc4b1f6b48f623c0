"""The backend "numba": a whole step in one call where kernels cover a model, else op by op."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tinymoe.core import Array, Batch, ModelConfig, Numerics, PagedKeysValues, Tap
from tinymoe.kernels.cpu import disk
from tinymoe.kernels.cpu.inputs import uncovered_inputs
from tinymoe.kernels.cpu.lay_out import Packer, weights_of
from tinymoe.kernels.cpu.ops import CpuOps
from tinymoe.kernels.cpu.pack import pack
from tinymoe.kernels.cpu.pages import TILE
from tinymoe.kernels.cpu.ready import compile_all
from tinymoe.kernels.cpu.repack_cache import RepackCache
from tinymoe.kernels.cpu.step import Step, uncovered
from tinymoe.kernels.cpu.team import Team
from tinymoe.kernels.cpu.weights import Weights
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import Params
from tinymoe.model.transformer import forward, no_tap

Report = Callable[[str, int, int], None]  # what is being done, and how much of how much


class CompiledStep:
    """`Ops.step`: packs a model's weights when it first meets them, then runs compiled kernels.

    What the whole step has no kernels for (`uncovered` says what) runs op by op, in the compiled
    ops that there are and the definition's for the others.
    """

    def __init__(
        self,
        threads: int | None = None,
        packer: Packer = pack,
        repack_cache: RepackCache | None = None,
    ) -> None:
        """`threads`: None is the physical cores that this process may use.

        `repack_cache`: where weights that `pack` has packed are kept; None: nowhere.
        """
        self.team, self.packer, self.repack_cache = Team(threads), packer, repack_cache
        cpu = CpuOps(self.team)
        self.members = replace(
            DEFINITION,
            rmsnorm=cpu.rmsnorm,
            rope=cpu.rope,
            attention_prefill=cpu.attention_prefill,
            attention_decode=cpu.attention_decode,
        )
        self._params: Params | None = None
        self._judged: tuple[Params, bool] | None = None  # whether kernels have its inputs
        self._ready: tuple[Params, ModelConfig, Numerics] | None = None  # asked for last, covered
        self._step: Step | None = None

    def covers(self, config: ModelConfig, numerics: Numerics, params: Params | None = None) -> bool:
        """Every part of the model has its kernels, quantised inputs of its products, too."""
        if uncovered(config, numerics) is not None:
            return False
        if params is None or numerics.activations == "storage":
            return True
        if self._judged is None or self._judged[0] is not params:
            self._judged = params, uncovered_inputs(params) is None
        return self._judged[1]

    def prepare(
        self,
        params: Params,
        config: ModelConfig,
        numerics: Numerics,
        report: Report | None = None,
    ) -> None:
        """Pack the weights and compile the kernels now, and say how far it is."""
        if self._params is params or not self.covers(config, numerics, params):
            return

        kept = ", once" if disk.writable() else " (there is no folder to keep them in)"

        def compiled(done: int, kernels: int) -> None:
            if report is not None:
                report(f"compiling kernels{kept}", done, kernels)

        self._step = Step(self._weights(params, report), self.team)
        compile_all(self._step.kernels(config, numerics), compiled)
        self._params = params

    def _weights(self, params: Params, report: Report | None) -> Weights:
        if self.repack_cache is not None:
            return self.repack_cache.weights(params, self.team.threads, report)

        def packed(done: int, parts: int) -> None:
            if report is not None:
                report("laying out weights", done, parts)

        return weights_of(params, packed, self.packer, threads=self.team.threads)

    @contextmanager
    def profiled(self) -> Iterator[dict[str, float]]:
        """While it lasts, seconds by kernel, waiting for the slowest thread included."""
        assert self._step is not None
        self._step.spent = {}
        try:
            yield self._step.spent
        finally:
            self._step.spent = None

    @property
    def weight_bytes(self) -> int | None:
        """Of the packed weights in memory; None before there are any."""
        if self._step is None:
            return None
        return sum(matrix.nbytes for matrix in self._step.weights.matrices)

    def __call__(
        self,
        params: Params,
        config: ModelConfig,
        batch: Batch,
        cache: PagedKeysValues,
        numerics: Numerics,
        tap: Tap = no_tap,
    ) -> Array:
        """As `forward`."""
        step = self._step_of(params, config, numerics, cache)
        if step is None:
            return forward(params, config, batch, cache, numerics, self.members, tap)
        return step(config, batch, cache, numerics, tap)

    def greedy(
        self,
        params: Params,
        config: ModelConfig,
        batch: Batch,
        cache: PagedKeysValues,
        numerics: Numerics,
    ) -> Array | None:
        """As `model.ops.Step.greedy`; None of a model that is not covered."""
        step = self._step_of(params, config, numerics, cache)
        return None if step is None else step.greedy(config, batch, cache, numerics)

    def _step_of(
        self, params: Params, config: ModelConfig, numerics: Numerics, cache: PagedKeysValues
    ) -> Step | None:
        """Its step, ready to be run; None: kernels do not cover it. The last answer is known.

        Pages of which tiles of 16 positions are no part are for the definition's layout as well.
        """
        if cache.page_size % TILE:
            return None
        ready = self._ready
        if (
            ready is None
            or ready[0] is not params
            or ready[1] is not config
            or ready[2] is not numerics
        ):
            if not self.covers(config, numerics, params):
                return None
            self.prepare(params, config, numerics)
            self._ready = params, config, numerics
        return self._step


def numba_ops(
    threads: int | None = None, packer: Packer = pack, repack_cache: RepackCache | None = None
) -> Ops:
    """The ops of this backend, for one model: `step` holds its weights."""
    step = CompiledStep(threads, packer, repack_cache)
    return replace(step.members, step=step)
