"""Turns, ratios, limits and sweeps, on peers and clocks made by hand: nothing depends on speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinymoe.core import TinymoeError
from tinymoe.measure import contest, picture, sweep
from tinymoe.measure.build import Source
from tinymoe.measure.contest import compare
from tinymoe.measure.contest_report import ratios
from tinymoe.measure.peers import Asked
from tinymoe.measure.shapes import SHAPES
from tinymoe.measure.steps import Line
from tinymoe.measure.sweep import Sweep, run_sweep, setting

from .tiny_contest import LINES, TINY, Probe, Ticks, plan_of

pytestmark = pytest.mark.definition


class Peer:
    """Gives the rates it was told, round by round, and says when it was asked."""

    form, counts, warms = "q4_0", "what it likes", True

    def __init__(self, name: str, rounds: Sequence[Sequence[float | None]], log: list[str]) -> None:
        self.name, self._rounds, self._log = name, list(rounds), log
        self.versions = {name: "1"}

    def rates(self, lines: Sequence[Line]) -> list[float | None]:
        self._log.append(self.name)
        return list(self._rounds.pop(0))

    def close(self) -> None:
        self._log.append(f"{self.name} closed")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)  # type: ignore[arg-type]
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def with_peers(monkeypatch: pytest.MonkeyPatch, *peers: Peer) -> tuple[Asked, ...]:
    waiting = list(peers)
    monkeypatch.setattr(contest, "open_peer", lambda asked, plan: waiting.pop(0))
    return tuple(Asked("llama.cpp", "x", Path("y")) for _ in peers)


def test_rates_limits_and_ratios_of_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    a = Peer("a", [[9, 9, 9], [4.0, 1.0, 8.0], [2.0, 0.5, None]], log)
    b = Peer("b", [[9, 9, None], [16.0, 1.0, None], [16.0, 1.0, None]], log)
    asked = with_peers(monkeypatch, a, b)
    report = compare(plan_of(peers=asked), clock=Ticks(), probe=Probe())
    # every second round goes the other way, and the first is no part of the result
    assert log == ["a", "b", "b", "a", "a", "b", "a closed", "b closed"]
    ours, first, second = report["contestants"]
    # by this clock every forward takes a second
    assert [line["tokens_per_s"]["samples"] for line in ours["lines"]] == [[8, 8], [1, 1], [4, 4]]
    assert first["lines"][2]["tokens_per_s"]["samples"] == [8.0]
    assert second["lines"][2]["tokens_per_s"] is None
    by_pair = {(r["peer"], r["line"]): r["ratio"]["samples"] for r in report["ratios"]}
    assert by_pair["a", "prefill 8"] == [2.0, 4.0]
    assert by_pair["a", "decode, batch 4"] == [0.5]  # of the round that has both
    assert ("b", "decode, batch 4") not in by_pair
    row = ours["lines"][1]
    assert row["bytes_per_s"] == row["bytes_per_token"]  # a token a second
    assert row["limit_tokens_per_s"] == pytest.approx(1e6 / row["bytes_per_token"], rel=1e-12)
    assert row["of_limit"] == pytest.approx(row["bytes_per_token"] / 1e6, rel=1e-12)
    assert row["bound"] == "reading"
    four_bit = first["lines"][1]["bytes_per_token"]
    assert four_bit < row["bytes_per_token"] / 4  # 4.5 bits of 32, keys and values alike
    assert report["experts_met"][1] == TINY.router.top_k
    assert set(report["time_by_op"]["tinymoe numpy fp32"]) == {line.name for line in LINES}


def test_who_starts_anew_each_round_is_not_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # a fresh process warms itself up: a round before the rounds would only cost minutes
    log: list[str] = []
    peer = Peer("a", [[1, 1, 1]] * 2, log)
    peer.warms = False
    report = compare(plan_of(peers=with_peers(monkeypatch, peer)), clock=Ticks(), probe=Probe())
    assert log == ["a", "a", "a closed"]
    assert report["contestants"][1]["lines"][0]["tokens_per_s"]["samples"] == [1, 1]


def test_a_share_of_the_limits_is_also_of_those_right_beside_it() -> None:
    # a step of a slow minute looked bad beside the bandwidth of another minute
    class Changing(Probe):
        given = iter([9e6, 1e6, 4e6, 2e6, 6e6])  # at first, after warming up, after each round

        def bandwidth(self, clock: Any) -> float:
            return next(self.given)

    (ours,) = compare(plan_of(rounds=3), clock=Ticks(), probe=Changing())["contestants"]
    row = ours["lines"][1]  # a token a second
    shares = [row["bytes_per_token"] / better for better in (4e6, 4e6, 6e6)]
    assert row["of_limit_by_round"]["samples"] == pytest.approx(shares, rel=1e-12)
    assert row["of_limit"] == pytest.approx(row["bytes_per_token"] / 6e6, rel=1e-12)


def test_a_ratio_is_of_one_round_and_not_of_medians() -> None:
    # a neighbour that slows one round down slows both: medians of rates would mix rounds
    samples = {"ours": [[10.0], [2.0], [30.0]], "peer": [[5.0], [1.0], [10.0]]}
    (row,) = ratios(LINES[:1], ["ours"], ["peer"], samples)
    assert row["ratio"]["samples"] == [2.0, 2.0, 3.0]
    assert row["ratio"]["median"] == 2.0


def test_peers_are_ended_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # or a process of transformers would stay with gigabytes of memory
    log: list[str] = []

    class Failing(Peer):
        def rates(self, lines: Sequence[Line]) -> list[float | None]:
            raise TinymoeError("it broke")

    asked = with_peers(monkeypatch, Peer("a", [[1, 1, 1]] * 9, log), Failing("b", [], log))
    with pytest.raises(TinymoeError, match="it broke"):
        compare(plan_of(peers=asked), clock=Ticks(), probe=Probe())
    assert log[-2:] == ["a closed", "b closed"]


def test_two_contestants_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_peers(monkeypatch, *(Peer("a", [[1, 1, 1]] * 9, []) for _ in range(2)))
    with pytest.raises(TinymoeError, match="two contestants of one name"):
        compare(plan_of(peers=asked), clock=Ticks(), probe=Probe())


def test_no_rounds_is_refused() -> None:
    with pytest.raises(TinymoeError, match="at least 1"):
        compare(plan_of(rounds=0))


# ------------------------------------------------------------------------------- sweeps


def sweep_of(kind: str, **changes: Any) -> Sweep:
    base = Sweep(
        kind=kind, source=Source(shape="tiny"), forms=("fp32",), values=(2, 4), context=8, steps=2,
        rounds=1, threads=plan_of().threads,
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.parametrize("kind", ["batch", "context", "experts", "top-k"])
def test_a_sweep_changes_one_quantity(kind: str) -> None:
    first, second = (setting(sweep_of(kind), value) for value in (2, 4))
    configs = [source.config for source, _, _ in (first, second)]
    lines = [line for _, line, _ in (first, second)]
    found = {
        "batch": [line.batch for line in lines],
        "context": [line.context for line in lines],
        "experts": [config.router.experts for config in configs],
        "top-k": [config.router.top_k for config in configs],
    }
    same = {"batch": [1, 1], "context": [8, 8], "experts": [6, 6], "top-k": [2, 2]}
    assert found == {**same, kind: [2, 4]}


def test_a_long_context_needs_positions_that_the_shape_lacks() -> None:
    # one model for all points: other positions would be another model each time
    long = sweep_of("context", values=(8, 4096))
    assert {setting(long, value)[0].config.max_positions for value in long.points} == {4098}


def test_points_are_predicted_by_one_line() -> None:
    bandwidths = iter([1e6, 4e6])

    class Noisy(Probe):
        def bandwidth(self, clock: Any) -> float:
            return next(bandwidths, 2e6)

    report = run_sweep(sweep_of("batch"), clock=Ticks(), probe=lambda threads: Noisy(peak=1e12))
    points = report["points"]
    assert [p["value"] for p in points] == [2, 4]
    for point in points:
        assert point["step_s"]["median"] == 1.0
        assert point["predicted_step_s"] == point["bytes_per_step"] / 4e6  # the best of all
        assert point["times_predicted"] == 1 / point["predicted_step_s"]
        assert point["bound"] == "reading"
    assert points[0]["tokens_per_s"] == 2
    assert points[1]["bytes_per_step"] > points[0]["bytes_per_step"]


def test_a_round_is_held_to_the_limits_right_beside_it() -> None:
    # on a machine whose speed halves for a minute, a step of that minute is no worse code
    bandwidths = [4e6, 4e6, 1e6, 1e6, 2e6]
    left = iter(bandwidths)

    class Slowing(Probe):
        def bandwidth(self, clock: Any) -> float:
            return next(left)

    asked = sweep_of("batch", values=(2,), rounds=4)
    report = run_sweep(asked, clock=Ticks(), probe=lambda threads: Slowing(peak=1e12))
    (point,) = report["points"]
    assert point["read_bytes_per_s_beside"] == bandwidths  # before, between and after the rounds
    step, read = 1.0, point["bytes_per_step"]  # Ticks: a second
    better = [4e6, 4e6, 1e6, 2e6]  # of the two beside each
    rounds = point["times_by_round"]
    assert rounds["samples"] == [step / (read / bandwidth) for bandwidth in better]
    assert (rounds["min"], rounds["max"]) == (1e6 / read, 4e6 / read)
    assert rounds["median"] == 3e6 / read
    assert point["times_predicted"] == pytest.approx(4e6 / read, rel=1e-15)  # of the best


def test_usual_points_end_where_the_model_or_the_machine_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "usable_cores", lambda: 3)
    assert sweep_of("threads", values=()).points == (1, 2)
    assert sweep_of("top-k", values=()).points == (1, 2, 4)
    assert max(sweep_of("context", values=()).points) == 32_768


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (
            "bytes",
            {},
            "--sweep must be one of batch, .*, threads; got 'bytes'",
        ),
        ("batch", {"values": (0, 1)}, "different numbers of at least 1"),
        ("batch", {"values": (2, 2)}, "different numbers"),
        ("batch", {"rounds": 0}, "at least 1"),
        ("top-k", {"values": (1, 8)}, "beyond the model's 6 experts"),
        ("experts", {"values": (1, 8)}, "fewer experts than its top-k, 2"),
        ("threads", {"values": (1, 4096)}, "this process may use"),
        ("experts", {"source": Source(folder=Path("x"))}, "give a --shape"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(
    kind: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(TinymoeError, match=says):
        run_sweep(sweep_of(kind, **changes))


# ------------------------------------------------------------------------------- pictures


def test_pictures_are_drawn_of_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = with_peers(monkeypatch, Peer("a", [[9, 9, None]] * 3, []))
    roof = compare(plan_of(peers=asked), clock=Ticks(), probe=Probe())
    grown = run_sweep(sweep_of("batch"), clock=Ticks(), probe=lambda threads: Probe())
    for name, report in (("roof.svg", roof), ("sweep.svg", grown)):
        picture.draw(report, tmp_path / name)
        text = (tmp_path / name).read_text()
        assert len(text) > 10_000
        assert ("operations per byte" in text) == (name == "roof.svg")
        assert ("fp32, predicted" in text) == (name == "sweep.svg")


@pytest.mark.parametrize(
    ("path", "says"), [("x.jpeg2", "ending in .png"), ("no/folder/x.png", "no such folder")]
)
def test_a_picture_that_cannot_be_is_refused_before_anything_runs(path: str, says: str) -> None:
    with pytest.raises(TinymoeError, match=says):
        picture.check_picture(Path(path))
