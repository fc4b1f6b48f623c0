"""The tutorial pages, run as a reader runs them: a page that has rotted fails here."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

mpl.use("Agg")  # no window

FOLDER = Path(__file__).parents[1] / "tutorials"
PAGES = sorted(FOLDER.glob("plot_*.py"))

# What "check yourself" invites a reader to spoil: page, right code, wrong code.
DAMAGE = (
    ("plot_01_router", "power / sum(powers.values())", "power"),
    ("plot_01_router", "key=lambda e: -logits[e]", "key=lambda e: logits[e]"),
    (
        "plot_02_experts",
        "mine = order[offsets[e] : offsets[e + 1]] // K",
        "mine = order[offsets[e] : offsets[e + 1]]",
    ),
    (
        "plot_03_attention_and_cache",
        "page, place = TABLE[i // P], i % P",
        "page, place = TABLE[i // P], i // P",
    ),
    ("plot_04_logits_to_text", "np.sort(logits)[-k]", "np.sort(logits)[-k - 1]"),
    ("plot_04_logits_to_text", "return powers / powers.sum()", "return powers"),
    ("plot_05_router_cards", "    selection_bias=True,", "    selection_bias=False,"),
    ("plot_05_router_cards", '    weight_from="score",', '    weight_from="softmax_of_chosen",'),
    ("plot_06_fp4_from_scratch", "low + 16 * high", "high + 16 * low"),
    ("plot_06_fp4_from_scratch", "above + (above % 2 == 1 and size in MIDPOINTS)", "above"),
    ("plot_06_fp4_from_scratch", "e4m3.decode(scale) * tensor_scale", "wanted * tensor_scale"),
    (
        "plot_07_a_broken_engine",
        "    return min(tried, key=lambda name: tried[name])",
        "    return max(tried, key=lambda name: tried[name])",
    ),
    ("plot_08_decoding_speed", "for k in range(len(x))", "for k in reversed(range(len(x)))"),
    ("plot_09_first_kernel", '"%ctaid.x": thread // block', '"%ctaid.x": 0 * thread'),
    ("plot_09_first_kernel", "a >= b", "a > b"),
    (
        "plot_10_tensor_core",
        "return lane // 4 + 8 * (r % 2), 2 * (lane % 4) + e + 8 * (r // 2)",
        "return lane // 4 + 8 * (r // 2), 2 * (lane % 4) + e + 8 * (r % 2)",
    ),
    (
        "plot_11_topk",
        "place = order_of(choice) << 32 | (0xFFFFFFFF - index)",
        "place = order_of(choice) << 32 | index",
    ),
    ("plot_11_topk", "np.where(other > seen[-1], other", "np.where(other < seen[-1], other"),
    ("plot_12_grouped_gemm", "range(-(-count // rows))", "range(count // rows)"),
    ("plot_12_grouped_gemm", "slots // rows + min(E, slots)", "slots // rows + min(E, slots) // 2"),
    ("plot_13_graphs", "list(args)", "[np.copy(a) for a in args]"),
)


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch):
    """How many figures a page has shown; none is left open and no setting leaks to the next."""
    shown: list[int] = []

    def show() -> None:
        shown.extend(plt.get_fignums())
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    with mpl.rc_context():
        yield shown
    plt.close("all")


def test_there_are_pages() -> None:
    # A glob that finds nothing would make every other test here pass.
    assert [page.name[:8] for page in PAGES[:7]] == [f"plot_0{n}_" for n in range(1, 8)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page: Path, pictures: list[int]) -> None:
    # Every assert of the page holds, also for retrained weights.
    runpy.run_path(str(page))
    assert len(pictures) >= 2  # one picture of the right thing, one of the broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_has_its_parts(page: Path) -> None:
    # A page is short enough to read, has a check to fail and something to break.
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    assert text.index("# Check yourself\n") < text.index("# Break it\n")


@pytest.mark.parametrize(("name", "good", "bad"), DAMAGE)
def test_the_check_can_be_failed(name: str, good: str, bad: str, tmp_path: Path) -> None:
    # A check that passes whatever the reader writes teaches nothing.
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert text.count(good) == 1
    spoiled = tmp_path / f"{name}.py"
    spoiled.write_text(text.replace(good, bad), encoding="utf-8")
    with pytest.raises(AssertionError):
        runpy.run_path(str(spoiled))


def test_the_gallery_builds_without_a_warning(tmp_path: Path) -> None:
    # Broken headings and links, without running the pages again.
    pytest.importorskip("sphinx_gallery", reason="the gallery needs the extra `docs`")
    source, site = tmp_path / "tutorials", tmp_path / "html"
    source.mkdir()
    for file in (*FOLDER.glob("*.py"), *FOLDER.glob("*.rst")):
        shutil.copy(file, source)
    shutil.copytree(FOLDER / "bugs", source / "bugs", ignore=shutil.ignore_patterns("__*"))
    (tmp_path / "tests").symlink_to(FOLDER.parent / "tests")  # pages show files of the tests
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-D", "plot_gallery=0"]
    done = subprocess.run([*command, str(source), str(site)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site / "gallery" / f"{PAGES[0].stem}.html").is_file()
    assert (site / "gallery" / "bugs" / "plot_router.html").is_file()
