"""Record what SGLang itself dumps, for `tests/definition/test_dumps_sglang.py`.

    python tests/vectors/dumps/record_sglang.py engine OUT   # its engine, over the parity case
    python tests/vectors/dumps/record_sglang.py ranks OUT    # its dumper alone, on two ranks
    python tests/vectors/dumps/record_sglang.py older DEBUG_UTILS OUT   # an older dumper alone

The first two need SGLang and run it without a GPU, where it computes with torch alone. Its kernels
for the CPU (`sgl_kernel`) are not published as a package: what its modules import from there is
answered by functions that refuse to run, and none of them is called. `older` needs torch and the
folder `sglang/srt/debug_utils` of the version, whose dumper is a file by itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CASE = Path(__file__).parents[1] / "parity" / "qwen3_moe"
TOKENS = [258, 75, 75, 78, 260, 262]  # "hello there", as for llama.cpp
NAMES = (  # of the 153 tensors a pass, those that a trace has as well
    r"^input_ids|embed_tokens\.output|(input|post_attention)_layernorm\.output|self_attn\.attn\."
    r"|o_proj\.output|gate\.output|topk\.output\.[01]|experts\.output|mlp\.output"
    r"|model\.norm\.output"
)
NO_KERNELS = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    def refuse(*arguments, **settings):
        raise RuntimeError(f"sgl_kernel.{name} was called: the recording would not be SGLang's")
    return refuse
"""


def generate(new_tokens: int, **settings: Any) -> None:
    """The engine, in float32, over the prompt: `new_tokens` passes."""
    engine = importlib.import_module("sglang").Engine(
        model_path=CASE.name,  # relative: the path is written into every file
        device="cpu",
        dtype="float32",
        attention_backend="torch_native",
        skip_tokenizer_init=True,
        disable_cuda_graph=True,
        disable_radix_cache=True,
        disable_overlap_schedule=True,
        skip_server_warmup=True,
        mem_fraction_static=0.05,
        max_total_tokens=1024,
        max_running_requests=2,
        chunked_prefill_size=-1,
        **settings,
    )
    sampling = {"max_new_tokens": new_tokens, "temperature": 0}
    print(engine.generate(input_ids=TOKENS, sampling_params=sampling))
    engine.shutdown()


def without_kernels(folder: Path) -> None:
    """Let SGLang run on the CPU; see the module's text."""
    (folder / "sgl_kernel").mkdir()
    (folder / "sgl_kernel" / "__init__.py").write_text(NO_KERNELS)
    paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    sys.path.insert(0, str(folder))


def record_engine(out: Path) -> None:
    """`hooks`: two passes, Pass00000.pt and the next. `dumper`: one, under names of modules."""
    os.chdir(CASE.parent)
    generate(2, debug_tensor_dump_output_folder=str(out / "hooks"))
    os.environ |= {
        "DUMPER_ENABLE": "1",
        "DUMPER_DIR": str(out / "dumper"),
        "DUMPER_NON_INTRUSIVE_MODE": "all",
        "DUMPER_FILTER": f"search(r'{NAMES}', name)",
    }
    generate(1)


def values(rank: int) -> Iterator[tuple[int, int, Any]]:
    """(pass, layer, tensor): two passes, two layers, eighths that are counted up."""
    torch = importlib.import_module("torch")
    for step in (0, 1):
        for layer in (0, 1):
            first = 100 * step + 10 * layer + rank
            eighths = torch.arange(first, first + 12) / 8
            yield step, layer, eighths.to(torch.bfloat16).reshape(3, 4)


def dump_on(rank: int, out: str) -> None:
    """One of two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
    os.environ |= {"DUMPER_ENABLE": "1", "DUMPER_DIR": out}
    distributed = importlib.import_module("torch").distributed
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    dumper = importlib.import_module("sglang.srt.debug_utils.dumper").dumper
    for _, layer, value in values(rank):
        dumper.dump("moe_out", value, layer_id=layer)
        if layer == 1:
            dumper.step()
    distributed.destroy_process_group()


def record_older(debug_utils: Path, out: Path) -> None:
    """A dumper that counts passes as `forward_pass_id`, from 1, and saves bare tensors."""
    os.environ |= {"SGLANG_DUMPER_ENABLE": "1", "SGLANG_DUMPER_DIR": str(out)}
    sys.path.insert(0, str(debug_utils))
    dumper = importlib.import_module("dumper").dumper
    for _, layer, value in values(0):
        if layer == 0:
            dumper.on_forward_pass_start()
        dumper.dump("moe_out", value, layer_id=layer)


def main() -> None:
    """See the module's text."""
    kind, *rest = sys.argv[1:]
    paths = [Path(text).absolute() for text in rest]
    with tempfile.TemporaryDirectory() as folder:
        if kind == "older":
            record_older(*paths)
            return
        without_kernels(Path(folder))
        if kind == "engine":
            record_engine(*paths)
        else:
            spawn = importlib.import_module("torch.multiprocessing").spawn
            spawn(dump_on, args=(str(paths[0]),), nprocs=2)


if __name__ == "__main__":
    main()
