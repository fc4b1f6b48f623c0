"""The model that is measured, as a file that llama.cpp reads: the same weights, drawn or read.

    python -m tinymoe.measure.peer_model --shape small --format nvfp4 small-nvfp4.gguf

Needs the package `gguf` (`pip install "tinymoe[peers]"`), which writes the container. What stands
in it is ours: the blocks of NVFP4 and MXFP4 are `tinymoe.formats.ggml`'s. Qwen3-MoE alone; every
format leaves the embedding (BF16: one row of it is read a token), the router and the norms
(float32, as llama.cpp's own converter does) and changes the matrices, the head's among them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymoe.api import pick_numerics, shipped_model
from tinymoe.core import Array, AttentionCard, ModelConfig, TinymoeError
from tinymoe.formats import bf16, ggml, nvfp4
from tinymoe.measure.build import Source
from tinymoe.measure.gguf_shape import package
from tinymoe.measure.shapes import SHAPES
from tinymoe.model.params import AttentionParams, MoeParams, Params
from tinymoe.model.weights import plain

ARCHITECTURE = "qwen3moe"  # llama.cpp's name
QWEN_SHAPES = [name for name, config in SHAPES.items() if config.family == "qwen3_moe"]


class Coding(NamedTuple):
    """How a matrix is stored: ggml's name of the type, and of a file of it."""

    kind: str  # of GGMLQuantizationType
    file: str  # of LlamaFileType
    block: int  # values that K must be a multiple of
    meaning: str


CODINGS = {
    "fp32": Coding("F32", "ALL_F32", 1, "float32"),
    "bf16": Coding("BF16", "MOSTLY_BF16", 1, "bfloat16"),
    "nvfp4": Coding("NVFP4", "MOSTLY_NVFP4", 64, "as ModelOpt quantises, a scale a matrix"),
    "nvfp4-flat": Coding("NVFP4", "MOSTLY_NVFP4", 64, "as ggml quantises, no scale a matrix"),
    "mxfp4": Coding("MXFP4", "MOSTLY_MXFP4_MOE", 32, "as ggml quantises"),
    "q4_0": Coding("Q4_0", "MOSTLY_Q4_0", 32, "ggml's 4-bit integers, a float16 scale for 32"),
    "q8_0": Coding("Q8_0", "MOSTLY_Q8_0", 32, "ggml's 8-bit integers, a float16 scale for 32"),
}


class Entry(NamedTuple):
    """One tensor of the file: its name, its values, its coding."""

    name: str  # without .weight
    values: Array  # (..., out, in), or (n,) of a norm
    coding: Coding
    scaled: bool = False  # NVFP4 with a scale a matrix, which `<name>.scale` holds


def entries(params: Params, config: ModelConfig, form: str) -> Iterator[Entry]:
    """Every tensor, in the file's order, under llama.cpp's names."""
    coding, exact = CODINGS[form], CODINGS["fp32"]

    def matrix(name: str, values: Array) -> Entry:
        return Entry(name, values, coding, scaled=form == "nvfp4")

    yield Entry("token_embd", params.embed, exact if form == "fp32" else CODINGS["bf16"])
    for number, layer in enumerate(params.layers):
        attention, ffn, prefix = layer.attention, layer.ffn, f"blk.{number}."
        assert isinstance(attention, AttentionParams)  # `check` has looked
        assert isinstance(ffn, MoeParams)
        rows = np.cumsum([config.heads, config.kv_heads]) * config.head_dim
        q, k, v = np.split(plain(attention.qkv), rows)
        yield Entry(prefix + "attn_norm", attention.norm, exact)
        for name, rows_of in (("q", q), ("k", k), ("v", v)):
            yield matrix(f"{prefix}attn_{name}", rows_of)
        assert attention.qk_norm is not None
        yield Entry(prefix + "attn_q_norm", attention.qk_norm[0], exact)
        yield Entry(prefix + "attn_k_norm", attention.qk_norm[config.heads], exact)
        yield matrix(prefix + "attn_output", plain(attention.out))
        yield Entry(prefix + "ffn_norm", ffn.norm, exact)
        yield Entry(prefix + "ffn_gate_inp", ffn.router, exact)
        gate, up = np.split(plain(ffn.gate_up), 2, axis=1)
        yield matrix(prefix + "ffn_gate_exps", gate)
        yield matrix(prefix + "ffn_up_exps", up)
        yield matrix(prefix + "ffn_down_exps", plain(ffn.down))
    yield Entry("output_norm", params.final_norm, exact)
    if params.head is not params.embed:
        yield matrix("output", plain(params.head))


def check(config: ModelConfig, form: str) -> None:
    """Refuse what the file cannot say: it would be another model's speed."""
    if form not in CODINGS:
        raise TinymoeError(f"--format must be one of {', '.join(CODINGS)}; got {form!r}")
    if config.family != "qwen3_moe" or "dense" in config.layers or not config.router.renormalise:
        raise TinymoeError(
            f"a GGUF file is written of Qwen3-MoE with a mixture in every layer and renormalised "
            f"weights, this is {config.family}: take --shape {' or '.join(QWEN_SHAPES)}, or "
            "convert the checkpoint with llama.cpp's convert_hf_to_gguf.py"
        )
    coding = CODINGS[form]
    inner = (config.hidden_size, config.heads * config.head_dim, config.moe_intermediate)
    if any(size % coding.block for size in inner):
        raise TinymoeError(
            f"{form}: expected rows of a multiple of {coding.block} values, this shape has "
            f"matrices with {sorted(set(inner))} columns; take another --format"
        )


def write(path: Path, params: Params, config: ModelConfig, form: str) -> int:
    """Write the file, tensor by tensor; its size in bytes."""
    check(config, form)
    gguf = package()
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _metadata(writer, gguf, config, form)
    listed = list(entries(params, config, form))
    for entry in listed:
        kind = gguf.GGMLQuantizationType[entry.coding.kind]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        *lead, last = entry.values.shape
        stored = (*lead, last // block * size)  # bytes of a row, or float32 of one
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor_info(
                entry.name + ".weight",
                entry.values.shape,
                np.dtype(np.float32),
                4 * entry.values.size,
            )
        else:
            writer.add_tensor_info(
                entry.name + ".weight", stored, np.dtype(np.uint8), int(np.prod(stored)), kind
            )
        if entry.scaled:
            count = entry.values.shape[0] if entry.values.ndim == 3 else 1
            writer.add_tensor_info(entry.name + ".scale", (count,), np.dtype(np.float32), 4 * count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in listed:
        for data in encoded(entry, gguf):
            writer.write_tensor_data(data)
    writer.close()
    return path.stat().st_size


def encoded(entry: Entry, gguf: Any) -> Iterator[Array]:
    """The bytes of a tensor, and after them its scales, if it has a tensor of them."""
    values = np.ascontiguousarray(entry.values, np.float32)
    if not entry.scaled:
        yield _CODERS.get(entry.coding.kind, _by_gguf(gguf, entry.coding.kind))(values)
        return
    stack = values if values.ndim == 3 else values[None]
    rows, scales = [], []
    for matrix in stack:
        quantised = nvfp4.encode(
            matrix, convention="modelopt", source="float32", zero_tensor="refuse"
        )
        row, scale = ggml.from_nvfp4(quantised)
        rows.append(row)
        scales.append(scale)
    yield np.stack(rows).reshape(*values.shape[:-1], -1)
    yield np.array(scales, np.float32)


_CODERS: dict[str, Callable[[Array], Array]] = {
    "F32": lambda values: values,
    "BF16": lambda values: bf16.encode(values).view(np.uint8),
    "NVFP4": ggml.encode_nvfp4,
    "MXFP4": ggml.encode_mxfp4,
}


def _by_gguf(gguf: Any, kind: str) -> Callable[[Array], Array]:
    def encode(values: Array) -> Array:
        rows: Array = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
        return rows

    return encode


def _metadata(writer: Any, gguf: Any, config: ModelConfig, form: str) -> None:
    first = config.attention[0]
    assert isinstance(first, AttentionCard)  # `check` has looked
    assert first.rope is not None
    writer.add_name(f"tinymoe {config.family}, {form}")
    writer.add_file_type(gguf.LlamaFileType[CODINGS[form].file])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(first.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.router.experts)
    writer.add_expert_used_count(config.router.top_k)
    writer.add_feed_forward_length(config.moe_intermediate)
    writer.add_expert_feed_forward_length(config.moe_intermediate)
    writer.add_tokenizer_model("none")  # only ids are timed


def main() -> int:
    """0, or 2 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tinymoe.measure.peer_model",
        description="Write the model that `bench` measures as a GGUF file for llama.cpp.",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--shape", help=f"of a random model: {', '.join(QWEN_SHAPES)}")
    either.add_argument("--model", type=Path, help="a folder (default: the shipped model)")
    parser.add_argument("--seed", type=int, default=0, help="of random weights, as in bench")
    forms = "; ".join(f"{name}: {coding.meaning}" for name, coding in CODINGS.items())
    parser.add_argument("--format", required=True, help=forms)
    parser.add_argument("output", type=Path, metavar="OUT.gguf")
    given = parser.parse_args()
    folder = None if given.shape is not None else given.model or shipped_model()
    source = Source(shape=given.shape, folder=folder, seed=given.seed)
    try:
        config = source.config
        check(config, given.format)
        package()  # before a large model is drawn
        subject = source.subject(pick_numerics("fp32"))
        size = write(given.output, subject.params, subject.config, given.format)
    except (TinymoeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.output}: {size / 1e6:.1f} MB, {given.format}, {config.num_layers} layers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
