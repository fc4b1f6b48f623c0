"""The draw of the next token, as launches of kernels. The masks before it stay with the sampler."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe import sampler
from tinymoe.core import Array, Sampling
from tinymoe.kernels.check_sample import Drawn
from tinymoe.kernels.cuda.arguments import blocks_for, floats
from tinymoe.kernels.cuda.launch import Device, launch

THREADS = 32  # of a block of `draw`: a row each
MOST_WARPS = 8  # of a block of `gumbel`


@dataclass(frozen=True)
class SampleOps:
    """Kernels for drawing tokens on one device. sample.cu."""

    device: Device

    def sample(
        self,
        logits: Array,
        sampling: Sampling,
        prompt_ids: Sequence[int] = (),
        output_ids: Sequence[int] = (),
        end_ids: Collection[int] = (),
    ) -> Drawn:
        """The op `sample`: penalties and masks by the sampler, on the CPU, then `draw`."""
        given = self.device.to_numpy(logits) if self.device.is_array(logits) else logits
        p = sampler.masked_probabilities(given, sampling, prompt_ids, output_ids, end_ids)
        token = self.draw(p[None], [sampling.seed], [len(output_ids)])
        return Drawn(p, int(self.device.to_numpy(token)[0]))

    def draw(self, probabilities: Any, seeds: Any, steps: Any) -> Any:
        """Probabilities (R, V) float64 to tokens (R,), row r with number steps[r] of seeds[r].

        Exactly `random_draw.draw`: the same random number, the same sum in the same order.
        """
        device, (rows, vocabulary) = self.device, probabilities.shape
        tokens = device.empty((rows,), np.int64)
        launch(
            device.kernel("sample", "draw"),
            blocks_for(rows, THREADS),
            THREADS,
            [
                *(tokens, device.asarray(probabilities), self._words(seeds), self._words(steps)),
                *(np.int32(rows), np.int32(vocabulary)),
            ],
        )
        return tokens

    def gumbel(self, logits: Any, seeds: Any, steps: Any) -> Any:
        """Logits (R, V) float32, divided by the temperature, masked ones -inf, to tokens (R,).

        `kernels/gumbel.py` in float32. A row with NaN, or without a finite logit, gives -1.
        """
        device, (rows, vocabulary) = self.device, logits.shape
        tokens = device.empty((rows,), np.int64)
        launch(
            device.kernel("sample", "gumbel"),
            rows,
            32 * min(MOST_WARPS, -(-vocabulary // 32)),
            [
                *(tokens, floats(device, logits, "gumbel: logits")),
                *(self._words(seeds), self._words(steps), np.int32(vocabulary)),
            ],
        )
        return tokens

    def _words(self, values: Any) -> Any:
        """Seeds or steps (R,) as the kernels read them."""
        if self.device.is_array(values) and values.dtype == np.uint64:
            return self.device.asarray(values)
        return self.device.asarray(np.asarray(values, np.uint64))
