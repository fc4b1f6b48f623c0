"""transformers itself as a peer: the program inside, on a model of a few thousand numbers."""

from __future__ import annotations

import pytest

from tinymoe.measure.build import Source
from tinymoe.measure.shapes import SHAPES, shape
from tinymoe.measure.steps import lines_of
from tinymoe.measure.transformers_peer import Transformers

pytestmark = pytest.mark.train
pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

TINY = shape(
    hidden=64, layers=2, heads=2, kv_heads=1, experts=6, top_k=2,
    moe_intermediate=64, vocab=128, tied=False, positions=64, head_dim=32,
)  # fmt: skip


def test_transformers_runs_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # a renamed argument of theirs would otherwise be found by a user, an hour into a comparison
    monkeypatch.setitem(SHAPES, "tiny", TINY)  # type: ignore[arg-type]
    peer = Transformers(Source(shape="tiny"), TINY, threads=1)
    try:
        rates = peer.rates(lines_of(16, 8, 3, (1, 4)))
        assert all(rate is not None and rate > 0 for rate in rates)
        assert set(peer.versions) == {"transformers", "torch"}
        assert "eager" in peer._experts
        assert peer.best["prefill 16"] != "batched_mm"
    finally:
        peer.close()
