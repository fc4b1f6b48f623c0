"""Other engines in a comparison: their programs' real words, and what goes wrong.

The programs are small fakes that say what llama.cpp 0.5.0-dev (build 1, commit 0c1e570) said.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.measure import peer_model, peers
from tinymoe.measure.build import Source
from tinymoe.measure.llama_cpp import LlamaCpp, batched_answer, find_programs, one_answer
from tinymoe.measure.peers import Asked, parse
from tinymoe.measure.random_model import random_params
from tinymoe.measure.shapes import shape
from tinymoe.measure.steps import Line, lines_of
from tinymoe.measure.transformers_peer import Transformers, huggingface

pytestmark = pytest.mark.definition
gguf = pytest.importorskip("gguf")

FP32 = NUMERICS["fp32"]
TINY = shape(
    hidden=64, layers=2, heads=2, kv_heads=1, experts=6, top_k=2,
    moe_intermediate=64, vocab=128, tied=False, positions=64, head_dim=32,
)  # fmt: skip
LINES = lines_of(32, 32, 16, (1, 8))
VERSION = "version: 0.5.0-dev (build 1, commit 0c1e570)\nbuilt with GNU 12.2.0 for Linux x86_64"
BATCHED = """
{"n_kv_max": 2048, "n_batch": 2048, "n_ubatch": 512, "flash_attn": -1, "is_pp_shared": 0, \
"n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, "pp": 32, "tg": 16, "pl": 8, \
"n_kv": 384, "t_pp": 0.970143, "speed_pp": 263.878632, "t_tg": 1.092078, "speed_tg": 117.207748, \
"t": 2.062221, "speed": 186.207001}
{"n_kv_max": 2048, "n_batch": 2048, "n_ubatch": 512, "flash_attn": -1, "is_pp_shared": 0, \
"n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, "pp": 32, "tg": 16, "pl": 8, \
"n_kv": 384, "t_pp": 1.679897, "speed_pp": 152.390305, "t_tg": 1.036986, "speed_tg": 123.434647, \
"t": 2.716883, "speed": 141.338440}
{"n_kv_max": 2048, "n_batch": 2048, "n_ubatch": 512, "flash_attn": -1, "is_pp_shared": 0, \
"n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, "pp": 32, "tg": 16, "pl": 8, \
"n_kv": 384, "t_pp": 1.276073, "speed_pp": 200.615479, "t_tg": 4.834622, "speed_tg": 26.475700, \
"t": 6.110695, "speed": 62.840645}

"""
ONE = """[
  {
    "build_commit": "0c1e570",
    "build_number": 1,
    "cpu_info": "AMD EPYC",
    "backends": "CPU",
    "model_type": "qwen3moe ?B NVFP4",
    "model_n_params": 22582945,
    "n_threads": 2,
    "n_prompt": 0,
    "n_gen": 16,
    "n_depth": 32,
    "avg_ns": 404035723,
    "avg_ts": 53.947688,
    "samples_ns": [ 240561254, 215742736, 755803181 ],
    "samples_ts": [ 66.5111, 74.1624, 21.1695 ]
  }
]
"""


def program(path: Path, body: str) -> Path:
    """An executable Python script."""
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(0o755)
    return path


def speaker(path: Path, says: str) -> Path:
    """A fake llama.cpp program: its version when asked, else `says`; it keeps its arguments."""
    return program(
        path,
        f"open({str(path) + '.log'!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"if '--version' in sys.argv:\n    sys.exit(print({VERSION!r}, file=sys.stderr))\n"
        f"print({says!r})",
    )


def calls(path: Path) -> list[str]:
    return Path(f"{path}.log").read_text().splitlines()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    peer_model.write(path, random_params(TINY, 0, FP32), TINY, "nvfp4")
    return path


# ------------------------------------------------------------------------------- llama.cpp


def test_the_programs_own_words_are_understood() -> None:
    assert [run["speed_tg"] for run in batched_answer(BATCHED)] == [117.207748, 123.434647, 26.4757]
    assert one_answer(ONE)["samples_ts"] == [66.5111, 74.1624, 21.1695]
    with pytest.raises(TinymoeError, match="speed_pp and speed_tg"):
        batched_answer("|  PP |  TG |\n")
    with pytest.raises(TinymoeError, match="samples_ts"):
        one_answer("build: 1")


def test_a_line_is_the_median_of_the_runs_after_the_first(tmp_path: Path, model: Path) -> None:
    # the first run of a process was half as fast as the next ones on an idle machine
    bench = speaker(tmp_path / "llama-batched-bench", BATCHED)
    peer = LlamaCpp(str(bench), model, TINY, threads=2)
    assert (peer.name, peer.form) == ("llama.cpp nvfp4", "nvfp4")
    assert peer.versions == {"llama-batched-bench": "0.5.0-dev (build 1, commit 0c1e570)"}
    decode = (123.434647 + 26.4757) / 2
    assert peer.rates(LINES) == [(152.390305 + 200.615479) / 2, decode, decode]
    _, prefill, one, eight = calls(bench)
    assert f"-m {model} -c 256 -t 2 -tb 2 -npp 32 -ntg 1 -npl 1,1,1" in prefill
    assert "-c 256 -t 2 -tb 2 -npp 32 -ntg 16 -npl 1,1,1" in one
    assert "-c 2048 -t 2 -tb 2 -npp 32 -ntg 16 -npl 8,8,8" in eight  # 256 for each sequence


def test_llama_bench_alone_leaves_batches_out(tmp_path: Path, model: Path) -> None:
    bench = speaker(tmp_path / "llama-bench", ONE)
    peer = LlamaCpp(str(bench), model, TINY, threads=2)
    settled = (74.1624 + 21.1695) / 2
    assert peer.rates(LINES) == [settled, settled, None]
    _, prefill, decode = calls(bench)
    assert prefill == f"-m {model} -t 2 -p 32 -n 0 -r 3 -o json"
    assert decode == f"-m {model} -t 2 -p 0 -n 16 -d 32 -r 3 -o json"


def test_the_folder_or_either_program_finds_both(tmp_path: Path) -> None:
    one = speaker(tmp_path / "llama-bench", ONE)
    batched = speaker(tmp_path / "llama-batched-bench", BATCHED)
    for given in (one, batched, tmp_path):
        assert find_programs(str(given)) == (one, batched)
    with pytest.raises(TinymoeError, match=r"expected the program llama-bench .* cmake"):
        find_programs(str(tmp_path / "llama"))
    with pytest.raises(TinymoeError, match="no llama-bench and no llama-batched-bench"):
        find_programs(str(tmp_path.parent))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import time; time.sleep(30)", "was not done after 0.2 s: .*--timeout"),
        (
            "sys.exit('llama_batched_bench: error: unable to load model')",
            "exit code 1: llama_batched_bench: error: unable to load model",
        ),
    ],
)
def test_a_program_that_hangs_or_fails_is_an_error(
    body: str, says: str, tmp_path: Path, model: Path
) -> None:
    bench = speaker(tmp_path / "llama-batched-bench", BATCHED)
    peer = LlamaCpp(str(bench), model, TINY, threads=2, timeout=10)
    program(bench, body)
    peer.timeout = 0.2 if "sleep" in body else 10
    with pytest.raises(TinymoeError, match=says):
        peer.rates(LINES)


def test_a_file_that_cannot_be_run_is_an_error(tmp_path: Path, model: Path) -> None:
    bench = tmp_path / "llama-bench"
    bench.write_bytes(b"\x7fELF of another machine")
    bench.chmod(0o755)
    with pytest.raises(TinymoeError, match="does not start"):
        LlamaCpp(str(bench), model, TINY, threads=2)


@pytest.mark.parametrize(
    "text", ["ollama", "llama.cpp", "llama.cpp=bin", "llama.cpp=:x.gguf", "llama.cpp=bin:"]
)
def test_a_peer_that_nobody_knows_is_refused(text: str) -> None:
    with pytest.raises(TinymoeError, match=f"--peer must be one of .*{text}"):
        parse(text)


def test_peers_as_typed() -> None:
    assert parse("llama.cpp=a/b:c.gguf") == Asked("llama.cpp", "a/b", Path("c.gguf"))
    assert parse("transformers") == Asked("transformers", None, None)
    assert parse("transformers=bin/python") == Asked("transformers", "bin/python", None)


# ------------------------------------------------------------------------------- transformers


ANSWERS = """
import json
job = json.loads(sys.stdin.readline())
print(json.dumps({"versions": {"transformers": "5.23.0", "torch": "2.13.0+cpu"},
                  "experts": ["eager", "batched_mm", "grouped_mm"], "without": {}}), flush=True)
slow = {"eager": 4.0, "batched_mm": 1.0, "grouped_mm": 2.0}
for line in sys.stdin:
    work = json.loads(line)
    seconds = [slow[work["experts"]]] * work["tokens"]
    print(json.dumps({"seconds": seconds}), flush=True)
"""


def test_each_line_keeps_the_fastest_implementation(tmp_path: Path) -> None:
    # batched_mm would copy gigabytes for a prompt: it is only asked to decode
    python = program(tmp_path / "python", ANSWERS)
    peer = Transformers(Source(shape="small"), TINY, 2, str(python), timeout=30)
    try:
        assert peer.versions == {"transformers": "5.23.0", "torch": "2.13.0+cpu"}
        assert peer.rates(LINES) == [32 / 2.0, 1.0, 8.0]  # the prefill is no part of a decode
        assert set(peer.best.values()) == {"grouped_mm", "batched_mm"}
        assert peer.best["prefill 32"] == "grouped_mm"
    finally:
        peer.close()


def test_the_shape_in_transformers_words() -> None:
    said = huggingface(TINY)
    assert said["num_experts_per_tok"] == 2
    assert said["norm_topk_prob"] is True


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            'print(\'{"error": "ModuleNotFoundError: No module named torch"}\')',
            r"No module named torch; it needs torch and transformers 5: .*tinymoe\[peers\]",
        ),
        ("sys.exit(3)", "it ended"),
        ("print('Segmentation fault', flush=True)", "it said 'Segmentation fault'"),
        ("import time; time.sleep(30)", "did not answer within 0.5 s"),
    ],
)
def test_a_python_without_transformers_is_an_error(body: str, says: str, tmp_path: Path) -> None:
    python = program(tmp_path / "python", body)
    timeout = 0.5 if "sleep" in body else 30
    with pytest.raises(TinymoeError, match=says):
        Transformers(Source(shape="small"), TINY, 2, str(python), timeout=timeout)


def test_no_python_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TinymoeError, match="no Python that starts"):
        Transformers(Source(shape="small"), TINY, 2, str(tmp_path / "python"))


def test_the_program_inside_imports_nothing_of_ours() -> None:
    # the Python that has transformers need not have tinymoe
    source = (Path(peers.__file__).parent / "transformers_child.py").read_text()
    assert not re.findall(r"^\s*(?:from|import) tinymoe", source, re.MULTILINE)


def test_without_torch_the_program_inside_says_so(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    child = Path(peers.__file__).parent / "transformers_child.py"
    python = program(
        tmp_path / "python",
        f"import runpy\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"runpy.run_path({str(child)!r}, run_name='__main__')",
    )
    with pytest.raises(TinymoeError, match="no torch here"):
        Transformers(Source(shape="small"), TINY, 2, str(python), timeout=30)


def test_a_line_of_work_names_itself() -> None:
    assert [line.name for line in LINES] == ["prefill 32", "decode, batch 1", "decode, batch 8"]
    assert Line("decode", 8, 32, 16).tokens == 128
