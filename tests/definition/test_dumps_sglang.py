"""What SGLang itself dumped, read without torch, and held against the definition.

`tests/vectors/dumps/README.md` says which versions made the recordings, and how.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import tinymoe
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.oracle.diff import diff
from tinymoe.oracle.dumps import kind_of, read_dump, read_raw
from tinymoe.oracle.dumps.mapping import Mapped, Rule, apply_mapping

pytestmark = pytest.mark.definition

VECTORS = Path(__file__).parents[1] / "vectors"
LAYERS = range(3)


def counted(first: int) -> np.ndarray:
    """As `record_sglang.py` counts."""
    return ((np.arange(12) + first) / 8).reshape(3, 4)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sglang")
    with tarfile.open(VECTORS / "dumps" / "sglang.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def model():
    return tinymoe.load(VECTORS / "parity" / "qwen3_moe")


def report_of(model, taps: Mapped):
    return diff(model.params, model.config, taps, NUMERICS["fp32"])


# What either kind holds of each layer of Qwen3-MoE; `moe.*` is noted by the dumper alone.
BOTH = ("attn.norm", "attn.mix", "attn.out", "mid", "moe.norm", "router.logits",
        "router.weights", "router.ids")  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "also"),
    [("hooks", ()), ("dumper", ("moe.routed", "moe.out"))],
    ids=["hooks", "dumper"],
)
def test_what_sglang_really_computed_is_what_tinymoe_computes(recorded, model, kind, also):
    """Its engine, on the CPU in float32: all within the bounds of float32, the same experts."""
    taps = read_dump(recorded / kind)  # the folder around that of the run
    each = {f"layers.{layer}.{name}" for layer in LAYERS for name in (*BOTH, *also)}
    outs = {"layers.0.out", "layers.1.out"}  # of the layer before, by the norm after it
    assert set(taps) == each | outs | {"tokens", "embed", "final_norm"}
    assert taps.unknown == ()
    assert taps["tokens"].tolist() == [258, 75, 75, 78, 260, 262]
    report = report_of(model, taps)
    assert report.agrees, report.first
    assert report.flips == ()
    ours = model.trace(taps["tokens"].tolist(), ["layers.*.router.ids"])
    for name, ids in ours.items():
        assert np.array_equal(taps[name], ids), name


def test_an_error_in_the_recording_is_found_where_it_is(recorded, model):
    """The agreement above is no empty one."""
    taps = read_dump(recorded / "dumper")
    taps["layers.1.moe.routed"] = taps["layers.1.moe.routed"] * np.float32(1 + 2**-12)
    report = report_of(model, taps)
    assert report.first is not None
    assert report.first.name == "layers.1.moe.routed"


def test_queries_keys_and_values_with_a_mapping_that_knows_the_heads(recorded, model):
    start = r"non_intrusive__model\.layers\.(\d+)\.self_attn\.attn\.inputs\."
    heads = {"q": 6, "k": 3, "v": 3}
    rules = [
        Rule(match=rf"{start}{i}\[.*\]", tap=f"layers.{{1}}.attn.{name}", heads=count)
        for i, (name, count) in enumerate(heads.items())
    ]
    rules.append(Rule(match="input_ids", tap="tokens"))
    taps = apply_mapping(read_raw(recorded / "dumper"), rules)
    assert len(taps) == 1 + 3 * len(LAYERS)
    report = report_of(model, taps)
    assert report.agrees, report.first
    assert len(report.tensors) == 1 + 3 * len(LAYERS)


def test_the_second_pass_of_the_hooks(recorded, model):
    """One token, at a place after the prompt; its file holds the first pass's logits."""
    raw = read_raw(recorded / "hooks", step=1)
    taps = read_dump(recorded / "hooks", step=1)
    assert "logits_processor" not in read_raw(recorded / "hooks")
    logits = raw["logits_processor"][0]
    assert taps["tokens"].tolist() == [int(logits.argmax())]  # the likeliest, and it was run
    prompt = [258, 75, 75, 78, 260, 262]
    ours = model.trace([*prompt, *taps["tokens"].tolist()])
    # Two float32 engines may differ by 1e-4 (see test_parity.py).
    assert np.abs(logits - ours["logits"][5]).max() <= 1e-4
    assert np.abs(taps["final_norm"][0] - ours["final_norm"][6]).max() <= 1e-4
    for layer in LAYERS:
        name = f"layers.{layer}.router.ids"
        assert np.array_equal(taps[name][0], ours[name][6])


def test_the_dumper_on_two_ranks(recorded):
    first = read_raw(recorded / "ranks")
    assert set(first) == {"moe_out[layer_id=0]", "moe_out[layer_id=1]"}
    assert np.array_equal(first["moe_out[layer_id=1]"], counted(10))
    assert first["moe_out[layer_id=1]"].dtype == np.float32  # dumped as bfloat16
    other = read_raw(recorded / "ranks", rank=1, step=1)
    assert np.array_equal(other["moe_out[layer_id=0]"], counted(101))
    with pytest.raises(TinymoeError, match=r"ranks \[0, 1\] and passes \[0, 1\]"):
        read_raw(recorded / "ranks", rank=2)


def test_the_older_dumper_counted_passes_from_one(recorded):
    first = read_raw(recorded / "older")
    assert np.array_equal(first["moe_out[layer_id=1]"], counted(10))
    assert np.array_equal(read_raw(recorded / "older", step=2)["moe_out[layer_id=0]"], counted(100))


def copied(source: Path, folder: Path, change) -> None:
    """The files under other names."""
    for path in sorted(source.glob("*/*.pt")):
        shutil.copy(path, folder / change(path.name))


def test_names_in_a_folder(recorded, tmp_path):
    """A name that comes again is numbered by `dump_index`, 9 before 10; training recomputes."""
    names = {"=1___": "=9___", "=2___": "=10___"}

    def unlayered(name: str) -> str:
        stem, _, _ = name.partition("___layer_id")
        for old, new in names.items():
            stem = stem.replace(f"dump_index{old}", f"dump_index{new}")
        return f"{stem}.pt"

    copied(recorded / "ranks", tmp_path, unlayered)
    raw = read_raw(tmp_path)
    assert list(raw) == ["moe_out", "moe_out#1"]
    assert np.array_equal(raw["moe_out#1"], counted(10))
    (tmp_path / "again").mkdir()
    copied(
        recorded / "ranks", tmp_path / "again", lambda name: name.replace("disabled", "recompute")
    )
    assert "moe_out[recompute_status=recompute,layer_id=0]" in read_raw(tmp_path / "again")


def test_own_dumps_under_the_names_of_taps(recorded, tmp_path):
    """dumper.dump("layers.3.moe.out", x) needs no mapping."""
    copied(
        recorded / "ranks", tmp_path, lambda name: name.replace("=moe_out_", "=layers.0.moe.out_")
    )
    with pytest.raises(TinymoeError, match="both 'layers.0.moe.out"):
        read_dump(tmp_path)  # two layers under one name
    for path in tmp_path.glob("*layer_id=1.pt"):
        path.unlink()
    assert np.array_equal(read_dump(tmp_path)["layers.0.moe.out"], counted(0))


def test_two_runs_in_a_folder_are_no_dump(recorded, tmp_path):
    for name in ("TP0_PP0_Rank0_pid1", "TP0_PP0_Rank0_pid2"):
        (tmp_path / name).mkdir()
        copied(recorded / "hooks", tmp_path / name, lambda name: name)
    assert kind_of(tmp_path) == "sglang-hooks"
    with pytest.raises(TinymoeError, match="give the folder of one run"):
        read_raw(tmp_path)
    with pytest.raises(TinymoeError, match="found none"):
        read_raw(tmp_path, rank=1)
    (run,) = (recorded / "dumper").iterdir()
    assert read_raw(run).keys() == read_raw(recorded / "dumper").keys()
