"""The longest sequence wanted, said when a model is loaded: longrope must know it beforehand.

Phi-3.5-MoE has two sets of angles, for sequences up to 4,096 tokens and for longer ones. An engine
that changes over in the middle of a sequence has keys of both in its cache.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.stored import ROOT, config_of
from tinymoe.api import load
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import load_params, read_config
from tinymoe.oracle.trace import forward_alone

pytestmark = pytest.mark.definition
PHI = ROOT / "phimoe"  # 32 positions by the short factors, 128 by the long ones
LONG = list(range(40))


def test_a_model_that_is_loaded_for_long_sequences_takes_them() -> None:
    short, long = load(PHI), load(PHI, positions=40)
    assert (short.config.max_positions, long.config.max_positions) == (32, 128)
    assert (short.config.more_positions, long.config.more_positions) == (128, None)
    got = long(LONG)
    config, numerics = read_config(config_of("phimoe"), 128), NUMERICS["fp32"]
    params = load_params(long.checkpoint, config, numerics)
    np.testing.assert_array_equal(got, forward_alone(params, config, LONG, numerics))
    # all of it by the long factors, its beginning too: they are not those of a short sequence
    assert (got[1:32] != short(LONG[:32])[1:]).any()
    # and token by token, over the place where the short ones end, it is the same
    tokens = list(long.generate(LONG[:30], max_tokens=8, temperature=0, ignore_eos=True))
    alone = long(LONG[:30] + [token.id for token in tokens[:-1]])
    assert [token.id for token in tokens] == alone[29:].argmax(axis=1).tolist()


def test_the_message_says_how_to_have_more() -> None:
    says = r"32 positions \(128 when it is loaded for longer sequences: --positions N, or load"
    model = load(PHI)
    with pytest.raises(TinymoeError, match=f"40 tokens, the model has {says}"):
        model(LONG)
    with pytest.raises(TinymoeError, match=f"40 tokens, the model has {says}"):
        list(model.generate(LONG, max_tokens=1))
    # where there are no more, none are promised
    with pytest.raises(TinymoeError, match=r"129 tokens, the model has 128 positions$"):
        load(PHI, positions=128)([0] * 129)


@pytest.mark.parametrize("case", ["phimoe", "qwen3_moe"])
def test_more_than_there_are_is_refused(case: str) -> None:
    most = config_of(case)["max_position_embeddings"]
    assert load(ROOT / case, positions=most).config.max_positions == most
    for positions in (most + 1, 0, -1):
        with pytest.raises(TinymoeError, match=f"from 1 to the model's .*got {positions}"):
            load(ROOT / case, positions=positions)


def test_it_is_the_same_number_for_other_models() -> None:
    folder = ROOT / "qwen3_moe"
    np.testing.assert_array_equal(load(folder)([1, 2, 3]), load(folder, positions=3)([1, 2, 3]))
