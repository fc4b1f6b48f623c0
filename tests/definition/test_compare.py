"""The comparison of traces: a diff tool that is itself wrong hides every other bug."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.oracle.compare import Difference, first_difference

pytestmark = pytest.mark.definition


def traces() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two equal traces whose names are not in alphabetical order."""
    first = {
        "embed": np.arange(6, dtype=np.float32).reshape(2, 3),
        "layers.0.router.ids": np.array([[3, 1], [0, 2]]),
        "final_norm": np.ones(3, np.float32),
    }
    return first, {name: value.copy() for name, value in first.items()}


def test_equal_traces_have_no_difference() -> None:
    assert first_difference(*traces()) is None


def test_the_first_wrong_tensor_in_execution_order_is_named() -> None:
    # Not the largest error and not the first name of the alphabet: later ones are consequences.
    right, wrong = traces()
    wrong["layers.0.router.ids"][1, 0] = 1
    wrong["final_norm"] += 100
    difference = first_difference(right, dict(sorted(wrong.items())))
    assert difference == Difference("layers.0.router.ids", 1.0, (1, 0), 0.0, 1.0)


def test_the_worst_entry_is_given() -> None:
    right, wrong = traces()
    wrong["embed"][0, 1] += 0.25
    wrong["embed"][1, 2] -= 0.5
    assert first_difference(right, wrong) == Difference("embed", 0.5, (1, 2), 5.0, 4.5)


def test_one_last_bit_is_a_difference() -> None:
    # A comparison in float32 would lose the smallest ones to underflow.
    right, wrong = traces()
    tiny = np.float32(2.0**-149)
    right["final_norm"][2], wrong["final_norm"][2] = 0, tiny
    difference = first_difference(right, wrong)
    assert difference is not None
    assert difference.max_abs_error == 2.0**-149


def test_the_bound_is_absolute_and_inclusive() -> None:
    right, wrong = traces()
    wrong["embed"][1, 1] += 0.5
    assert first_difference(right, wrong, bound=0.5) is None
    assert first_difference(right, wrong, bound=0.4999) is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_a_number_never_passes(bad: float) -> None:
    # |NaN - x| > bound is false: the plain comparison lets NaN through.
    right, wrong = traces()
    wrong["embed"][0, 2] = bad
    difference = first_difference(right, wrong, bound=1e9)
    assert difference is not None
    assert (difference.max_abs_error, difference.worst) == (np.inf, (0, 2))


def test_the_same_nan_and_the_same_infinity_are_equal() -> None:
    # Masked logits are -inf in both traces, and a NaN row of the reference is to be reproduced.
    right, wrong = traces()
    for values in (right, wrong):
        values["embed"][0] = [np.nan, np.inf, -np.inf]
    assert first_difference(right, wrong) is None


def test_a_tap_that_one_side_lacks_is_an_error() -> None:
    right, wrong = traces()
    del wrong["final_norm"]
    with pytest.raises(TinymoeError, match=r"only in the reference: .'final_norm'"):
        first_difference(right, wrong)
    with pytest.raises(TinymoeError, match=r"only in the other: .'final_norm'"):
        first_difference(wrong, right)
    with pytest.raises(TinymoeError, match="same taps"):
        first_difference({}, {})


def test_shapes_must_agree() -> None:
    # NumPy would broadcast (1, 3) against (2, 3) without a word.
    right, wrong = traces()
    wrong["embed"] = wrong["embed"][:1]
    with pytest.raises(TinymoeError, match=r"embed: .*\(2, 3\), the other \(1, 3\)"):
        first_difference(right, wrong)


@pytest.mark.parametrize("bound", [-1.0, np.nan, np.inf])
def test_a_bound_that_lets_everything_through_is_refused(bound: float) -> None:
    with pytest.raises(TinymoeError, match="bound"):
        first_difference(*traces(), bound=bound)
