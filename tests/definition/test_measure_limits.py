"""What a machine can do at most: the probes do what they count, and who multiplies in what."""

from __future__ import annotations

import pytest

from tinymoe.measure.contest import compare
from tinymoe.measure.limits import CHAINS, ROUNDS, Limits
from tinymoe.measure.shapes import SHAPES
from tinymoe.measure.whole_peak import WHOLE_CHAINS

from .tiny_contest import TINY, Probe, Ticks, plan_of

pytestmark = pytest.mark.definition


def test_the_probes_do_the_work_that_they_count() -> None:
    limits = Limits(2, size=2**16)
    try:
        assert limits.array_bytes == 2**16
        assert limits.bandwidth(Ticks()) == 2**16  # the clock says one second
        # of ones, as unwritten zeros are one page, from cache: their sum is how many were read
        assert limits._sinks[:, :16].sum() == 2**16 / 4
        most = max(CHAINS.values())  # operations; a multiply-add of a chain is two
        assert limits.peak(Ticks()) == 2 * ROUNDS * most * 16
        assert limits.peak_alone(Ticks()) == ROUNDS * most * 16
        # x -> x / 2 + 1 / 2 from any x ends at 1, in each chain
        assert (limits._sinks[:, :16] == most / 2).all()
        assert limits.peak_whole(Ticks()) == 2 * ROUNDS * max(WHOLE_CHAINS.values()) * 16
    finally:
        limits.close()


@pytest.mark.parametrize(
    ("form", "numerics", "whole"),
    [("nvfp4", "bf16", True), ("mxfp4", "bf16", True), ("nvfp4", "fp32", False),
     ("bf16", "bf16", False)],
)  # fmt: skip
def test_products_in_fixed_point_have_the_roof_of_whole_numbers(
    monkeypatch: pytest.MonkeyPatch, form: str, numerics: str, whole: bool
) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)  # type: ignore[arg-type]
    # beside float32's peak the medium model's prompt was "96 % of the limit", with room above
    monkeypatch.setattr("tinymoe.measure.build.compiled", lambda subject, *given: (subject, None))
    probe = Probe(bandwidth=1e15)  # so that computing is the limit
    plan = plan_of(forms=(form,), backend="numba", numerics=numerics, threads=1)
    (ours,) = compare(plan, clock=Ticks(), probe=probe)["contestants"]
    assert ours["whole_numbers"] == whole
    row = ours["lines"][0]
    peak = probe.computed * (2 if whole else 1)
    assert row["limit_tokens_per_s"] == pytest.approx(peak / row["flops_per_token"], rel=1e-12)
