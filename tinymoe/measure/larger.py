"""A model several times larger than the memory: written, traced and run under a limit.

    python -m tinymoe.measure.larger --size 12GB --limit 3GB --folder DIR [--json]

The limit is RLIMIT_DATA (`ulimit -d`): memory that a process writes to, touched or not, its
linear-algebra library's included. Pages of mapped files are not counted by it, as the system can
take them back at any time; they are in the peak resident memory, which is compared with the limit
too. RLIMIT_AS would count the file itself, mapped, and forbid what costs nothing.

Three processes run under it: a trace, a generation, and, to see the limit bite, a generation that
is told to hold all weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinymoe.checkpoint import INDEX
from tinymoe.core import TinymoeError
from tinymoe.families import expected_tensors, read_config
from tinymoe.families.memory import parse_bytes
from tinymoe.formats import bf16

SHARD = 10**9  # bytes of tensors in one file
POOL = 2**23 + 1  # random numbers, of which each tensor takes a stretch, round and round
TOKENS = 16  # of the prompt: enough to be routed to most experts
NEW_TOKENS = 4
SMALL = {"hidden_size": 512, "moe_intermediate_size": 384, "num_experts": 32, "vocab_size": 4096}
LARGE = {"hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 64, "vocab_size": 32768}


def config_of(size: int) -> dict[str, Any]:
    """A config.json of Qwen3-MoE's shape, with as many layers as make about `size` bytes."""
    shape = LARGE if size >= 4 * 10**9 else SMALL
    config = {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 1,
        "num_attention_heads": shape["hidden_size"] // 128,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "intermediate_size": shape["hidden_size"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "hidden_act": "silu",
        **shape,
    }
    one = _bytes_of(config)
    layer = _bytes_of({**config, "num_hidden_layers": 2}) - one
    return {**config, "num_hidden_layers": max(2, 1 + round((size - one) / layer))}


def _bytes_of(config: dict[str, Any]) -> int:
    return sum(2 * int(np.prod(shape)) for _, shape in expected_tensors(read_config(config)))


def write_model(folder: Path, size: int, seed: int = 0) -> int:
    """BF16 shards with an index, and config.json; the bytes of all tensors.

    Numbers are uniform with variance 1 / H, attention's outputs a quarter of that size (else all
    tokens become alike and choose the same experts, `random_model.py`), norms 1. One pool serves
    all tensors, each from another place of it: 12 GB of independent numbers would take longer to
    draw than to write.
    """
    config = config_of(size)
    reach = (3 / config["hidden_size"]) ** 0.5
    values = np.random.default_rng(seed).uniform(-reach, reach, POOL).astype(np.float32)
    pool, quiet, where = bf16.encode(values), bf16.encode(values / 4), dict[str, str]()
    folder.mkdir(parents=True, exist_ok=True)
    for number, tensors in enumerate(_shards(expected_tensors(read_config(config)))):
        name = f"model-{number:05}.safetensors"
        header, end = dict[str, Any](), 0
        for tensor, shape in tensors:
            start, end = end, end + 2 * int(np.prod(shape))
            where[tensor] = name
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for index, (tensor, shape) in enumerate(tensors):
                start = (number * 7919 + index) * 104_729 % POOL
                numbers = quiet if "o_proj" in tensor else pool
                _write(file, int(np.prod(shape)), numbers, None if "norm" in tensor else start)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config))
    return _bytes_of(config)


def _shards(
    tensors: Sequence[tuple[str, tuple[int, ...]]],
) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Tensors in order, about `SHARD` bytes together."""
    shard, size = list[tuple[str, tuple[int, ...]]](), 0
    for name, shape in tensors:
        shard.append((name, shape))
        size += 2 * int(np.prod(shape))
        if size >= SHARD:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _write(file: BinaryIO, count: int, pool: Any, start: int | None) -> None:
    """`count` numbers of the pool from `start`, or ones."""
    if start is None:
        file.write(np.full(count, 0x3F80, "<u2").data)
        return
    while count:
        part = pool[start : start + count]
        file.write(part.astype("<u2", copy=False).data)
        count, start = count - len(part), 0


def run_limited(arguments: Sequence[str], limit: int) -> dict[str, Any]:
    """`python -m tinymoe ... --json` in a process that may not take more: what it reports."""
    try:
        import resource
    except ImportError:
        raise TinymoeError("this system has no RLIMIT_DATA: expected Linux") from None

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tinymoe", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=confine,
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        said = {"error": (done.stderr.strip().splitlines() or ["(nothing was said)"])[-1]}
    return {"exit": done.returncode, "seconds": time.perf_counter() - begin, **said}


def measure(folder: Path, size: int, limit: int) -> dict[str, Any]:
    """The three runs on the model in `folder`."""
    model = ["--model", str(folder)]
    prompt = ["--ids", ",".join(str(97 * n % 4096) for n in range(TOKENS))]
    output = folder / "trace.safetensors"
    tracing = ["trace", *prompt, *model, "-o", str(output), "--force"]
    writing = ["generate", *prompt, *model, "--max-tokens", str(NEW_TOKENS), "--ignore-eos"]
    runs = {
        "trace": run_limited(tracing, limit),
        "generate": run_limited([*writing, "--temperature", "0"], limit),
        "resident": run_limited([*writing, "--memory", "1000TB"], limit),
    }
    facts = {name: _facts(run) for name, run in runs.items()}
    peaks = [facts[name].get("peak_resident_bytes") for name in ("trace", "generate")]
    held = all(peak is not None and peak <= limit for peak in peaks)
    bites = facts["resident"]["exit"] != 0
    return {
        "model_bytes": size,
        "limit_bytes": limit,
        "ratio": size / limit,
        "enforced_by": "RLIMIT_DATA; peak resident memory compared with it besides",
        "held": held and bites,
        **facts,
    }


def _facts(run: dict[str, Any]) -> dict[str, Any]:
    weights = run.get("weights", {})
    ids = [answer["token_ids"] for answer in run.get("answers", [])]
    return {
        "exit": run["exit"],
        "seconds": run["seconds"],
        **{name: run[name] for name in ("error",) if name in run},
        **{name: value for name, value in weights.items() if name != "process"},
        **weights.get("process", {}),
        **({"token_ids": ids[0]} if ids else {}),
    }


def main() -> int:
    """0: both ran within the limit, and holding all did not; 1: not so; 2: a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m tinymoe.measure.larger", description=__doc__)
    parser.add_argument("--size", default="12GB", help="of the model's tensors")
    parser.add_argument("--limit", default="3GB", help="of each process's memory")
    parser.add_argument("--folder", type=Path, required=True, help="new, or one made by this")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    given = parser.parse_args()
    try:
        size, limit = parse_bytes(given.size), parse_bytes(given.limit)
        if (given.folder / "config.json").is_file():  # of an earlier call
            size = _bytes_of(json.loads((given.folder / "config.json").read_text()))
        else:
            size = write_model(given.folder, size)
        report = measure(given.folder, size, limit)
    except (TinymoeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(report))
    else:
        print(_page(report))
    return 0 if report["held"] else 1


def _page(report: dict[str, Any]) -> str:
    """For a reader: sizes in GB, a line a fact."""
    lines = [
        f"model {_gb(report['model_bytes'])}, limit {_gb(report['limit_bytes'])}, "
        f"ratio {report['ratio']:.1f}, {'held' if report['held'] else 'NOT HELD'}"
    ]
    for name in ("trace", "generate", "resident"):
        lines.append(f"{name}")
        for fact, value in report[name].items():
            shown = _gb(value) if fact.endswith("bytes") or fact == "bytes_read" else value
            lines.append(f"  {fact:24} {shown}")
    return "\n".join(lines)


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.3f} GB"


if __name__ == "__main__":
    sys.exit(main())
