"""Every family in every low-precision layout: the decoder's values, and run as an engine would.

A family that names its matrices otherwise, fuses them otherwise, or has a matrix that the others
have not, must read all scales of it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.definition.test_quantised import CASES, MATRICES
from tests.low_precision import LAYOUTS, WEIGHT_ONLY, Made, made
from tests.quantised_runs import run
from tests.quantising import WIDE
from tests.stored import config_of, load, write
from tinymoe.core import NUMERICS

pytestmark = pytest.mark.definition


def family(layout: str, case: str) -> Made:
    """A recorded case's model, made anew in the layout, wide enough for blocks of 32."""
    config: dict[str, Any] = config_of(case) | WIDE.get(case, {})
    return made(layout, config, matrices=MATRICES)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_every_family_in_every_layout(case: str, layout: str, tmp_path: Path) -> None:
    low = family(layout, case)
    assert low.modules
    plain = {n: v for n, v in low.config.items() if n != "quantization_config"}
    got = load(write(tmp_path / "low", low.low, low.config))
    wanted = load(write(tmp_path / "plain", low.plain, plain))
    assert len(got) == len(wanted) > 10
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    engine = run(tmp_path / "engine", low.low, low.config)
    assert np.isfinite(engine).all()
    bf16 = run(tmp_path / "bf16", low.low, low.config, NUMERICS["bf16"])
    assert (engine != bf16).any() == (layout not in WEIGHT_ONLY)
