"""Is this GGUF file the model that we measure? Its sizes against ours, and its matrices' format.

Needs the package `gguf` (`pip install "tinymoe[peers]"`), which reads the container.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tinymoe.core import ModelConfig, TinymoeError
from tinymoe.measure.stored import BYTES

OURS = {"F32": "fp32", "F16": "fp16"}  # ggml's names that are not ours in capitals


def package() -> Any:
    """The optional package."""
    try:
        import gguf
    except ImportError:
        raise TinymoeError(
            'GGUF files are read and written by the package gguf: pip install "tinymoe[peers]"'
        ) from None
    return gguf


def check_shape(path: Path, config: ModelConfig) -> str:
    """The format of its matrices, a key of `BYTES`; an error if it is another model."""
    if not path.is_file():
        raise TinymoeError(
            f"--peer llama.cpp: no such GGUF file {path}; make one: python -m "
            f"tinymoe.measure.peer_model --shape NAME --format nvfp4 {path}"
        )
    gguf = package()
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise TinymoeError(f"{path} is no GGUF file that gguf can read: {error}") from None
    theirs, ours = sizes_of(reader), sizes_wanted(config)
    other = [f"{k} {theirs.get(k)} (ours: {v})" for k, v in ours.items() if theirs.get(k) != v]
    if other:
        raise TinymoeError(
            f"{path} is another model than the one measured: {', '.join(other)}; make one of the "
            "same shape with python -m tinymoe.measure.peer_model"
        )
    return form_of(reader)


def sizes_wanted(config: ModelConfig) -> dict[str, int]:
    """Of our model, by name."""
    return {
        "layers": config.num_layers,
        "hidden": config.hidden_size,
        "heads": config.heads,
        "kv heads": config.kv_heads,
        "experts": config.router.experts,
        "top-k": config.router.top_k,
        "expert width": config.moe_intermediate,
        "vocabulary": config.vocab_size,
    }


def sizes_of(reader: Any) -> dict[str, int]:
    """The same of an open file; what it does not say is left out."""
    keys = {
        "layers": "block_count",
        "hidden": "embedding_length",
        "heads": "attention.head_count",
        "kv heads": "attention.head_count_kv",
        "experts": "expert_count",
        "top-k": "expert_used_count",
        "expert width": "expert_feed_forward_length",
    }
    architecture = reader.get_field("general.architecture")
    prefix = "" if architecture is None else architecture.contents()
    found = {name: reader.get_field(f"{prefix}.{key}") for name, key in keys.items()}
    sizes = {name: int(field.contents()) for name, field in found.items() if field is not None}
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            sizes["vocabulary"] = int(tensor.shape[-1])
    return sizes


def form_of(reader: Any) -> str:
    """The format of most values of the experts' matrices."""
    kinds: Counter[str] = Counter()
    for tensor in reader.tensors:
        if "_exps." in tensor.name and tensor.name.endswith(".weight"):
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    if not kinds:
        raise TinymoeError("this GGUF file has no experts (blk.*.ffn_*_exps)")
    ((kind, _),) = kinds.most_common(1)
    form = OURS.get(kind, kind.lower())
    if form not in BYTES:
        raise TinymoeError(f"experts in {kind}: expected one of {', '.join(BYTES)}")
    return form
