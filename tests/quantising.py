"""Random models of a few families, in shapes that every format takes, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.stored import Tensors, config_of, write
from tinymoe.checkpoint import Checkpoint
from tinymoe.families import expected_tensors, read_config
from tinymoe.formats import bf16
from tinymoe.quantize.layouts import by_name, pick_layout
from tinymoe.quantize.run import Settings, quantize

# inputs of matrices that divide into blocks of 32, by case
WIDE: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"hidden_size": 96, "moe_intermediate_size": 32, "head_dim": 16},
    "deepseek_v3": {
        **{"hidden_size": 96, "moe_intermediate_size": 32, "kv_lora_rank": 32},
        **{"q_lora_rank": 32, "v_head_dim": 16, "num_attention_heads": 4},
        "num_key_value_heads": 4,
    },
    "gpt_oss": {"hidden_size": 96, "intermediate_size": 64},
    "llama4_text": {"hidden_size": 96, "intermediate_size": 64, "intermediate_size_mlp": 32},
}
# every layout, and families that have what is special to it: fused q/k/v, latent attention, a
# shared expert, stacks whose inputs come first
READ = [
    *((layout, case) for layout in by_name() for case in ("qwen3_moe", "deepseek_v3")
      if layout != "mxfp4 gpt-oss block"),
    *(("nvfp4 modelopt block", case) for case in ("gpt_oss", "llama4_text")),
    ("mxfp4 gpt-oss block", "gpt_oss"),
]  # fmt: skip
MODULE = "model.layers.1.self_attn.o_proj"
IDS = list(range(5, 69))


def made(folder: Path, case: str, dtype: str = "BF16") -> Checkpoint:
    """A random model of the family, every tensor louder than the one before.

    The router's selection bias is float32 in every release, whatever the rest is.
    """
    config, rng = config_of(case) | WIDE[case], np.random.default_rng(3)
    config.pop("quantization_config", None)
    tensors = Tensors()
    for name, shape in expected_tensors(read_config(config)):
        w = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1 + len(tensors) / 2000)
        half = dtype == "BF16" and not name.endswith("e_score_correction_bias")
        tensors[name] = ("BF16", bf16.encode(w)) if half else ("F32", w)
    return write(folder, tensors, config)


def quantised(tmp: Path, case: str = "qwen3_moe", **settings: Any) -> tuple[Checkpoint, Checkpoint]:
    """A checkpoint and what became of it."""
    before = made(tmp / "before", case)
    layout = pick_layout(
        settings.get("format", "nvfp4"),
        settings.get("convention"),
        settings.get("scales"),
        read_config(before.config).family,
    )
    if layout.static and not settings.get("weights_only"):
        settings.setdefault("calibration", IDS)
    quantize(tmp / "before", tmp / "after", Settings(**settings))
    return before, Checkpoint.open(tmp / "after")


def scalar(checkpoint: Checkpoint, name: str) -> np.float32:
    return np.float32(checkpoint.read(name, "float32").item())


def bits(checkpoint: Checkpoint, name: str) -> Any:
    return checkpoint.entry(name).dtype, checkpoint.raw(name)
