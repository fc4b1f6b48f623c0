"""Small checkpoints in every format with nothing wrong in them, to plant faults in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.stored import ROOT, Tensors, config_of, stored, write
from tinymoe.families import expected_tensors, read_config
from tinymoe.formats import bf16, fp8, nvfp4

FP8 = {
    **{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"},
    "weight_block_size": [128, 128],
}
CT: dict[str, Any] = {
    **{"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                **{"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
                **{"symmetric": True, "dynamic": False},
            },
        }
    },
    "ignore": ["lm_head", "re:.*mlp.gate$"],
}
MODELOPT: dict[str, Any] = {
    **{"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"},
    "ignore": ["lm_head", "model.layers.*.mlp.gate"],
}
FUSED = {"gate_proj": "gate", "up_proj": "gate", "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv"}


@dataclass
class Folder:
    """A checkpoint that is not written yet."""

    tensors: Tensors
    config: dict[str, Any]
    files: dict[str, dict[str, Any] | str] = field(default_factory=dict)  # beside the two
    shards: int = 0  # 0: one file; else so many, and an index
    index: dict[str, str] = field(default_factory=dict)  # changes to the index; "" removes
    lost: tuple[int, ...] = ()  # shards not written

    def write(self, path: Path) -> Path:
        """On disk."""
        write(path, self.tensors, self.config)
        if self.shards:
            self._split(path)
        for name, content in self.files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (path / name).write_text(text, "utf-8")
        return path

    def _split(self, path: Path) -> None:
        (path / "model.safetensors").unlink()
        weight_map: dict[str, str] = {}
        for number in range(self.shards):
            shard = f"model-{number:05}.safetensors"
            part = dict(list(self.tensors.items())[number :: self.shards])
            weight_map |= dict.fromkeys(part, shard)
            if number in self.lost:
                continue
            write(path / "part", part, {})
            (path / "part" / "model.safetensors").rename(path / shard)
        weight_map = {n: s for n, s in (weight_map | self.index).items() if s}
        index = path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))


def f32(*values: float) -> tuple[str, np.ndarray]:
    """A vector of float32; of one value, a scalar."""
    array = np.array(values, np.float32)
    return "F32", array if len(values) > 1 else array.reshape(())


def plain(case: str) -> Folder:
    """A recorded checkpoint, with its tokenizer."""
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    files = {n: f for n in names if (f := ROOT / case / n).is_file()}
    return Folder(
        dict(stored(case)), config_of(case), {n: f.read_text("utf-8") for n, f in files.items()}
    )


def low_fp8() -> Folder:
    """DeepSeek-V3 with every matrix of attention and experts in FP8 blocks."""
    folder = plain("deepseek_v3")
    folder.config |= {"quantization_config": dict(FP8), "num_nextn_predict_layers": 0}
    for name, (dtype, bits) in list(folder.tensors.items()):
        if name.endswith(("_proj.weight", "_proj_with_mqa.weight")):
            w = bf16.decode(bits) if dtype == "BF16" else bits
            q = fp8.encode(
                w, convention="div32", granularity="block", source="float32", power_of_two="no"
            )
            folder.tensors[name] = ("F8_E4M3", q.codes)
            folder.tensors[f"{name}_scale_inv"] = ("F32", q.scales)
    return folder


def low_nvfp4(by: str) -> Folder:
    """Qwen3 in NVFP4, one tensor scale for matrices that are fused, as the exporters write it."""
    config, rng = config_of("qwen3_moe") | {"moe_intermediate_size": 32}, np.random.default_rng(8)
    scheme = CT if by == "ct" else MODELOPT
    folder = Folder(Tensors(), config | {"quantization_config": json.loads(json.dumps(scheme))})
    scales = dict[str, Any]()
    for name, shape in expected_tensors(read_config(config)):
        w = bf16.round_to_bf16(rng.standard_normal(shape).astype(np.float32) / 10)
        module, last = name.removesuffix(".weight"), name.split(".")[-2]
        if not name.endswith("_proj.weight"):
            folder.tensors[name] = ("BF16", bf16.encode(w))
            continue
        group = module.removesuffix(last) + FUSED.get(last, last)
        loudest = np.float32(0.6 + 0.01 * (len(group) % 7))
        scale = scales.setdefault(
            group, nvfp4.tensor_scale(loudest, convention=by, source="bfloat16")
        )
        q = nvfp4.encode_with(np.clip(w, -0.6, 0.6), scale, convention=by, source="float32")
        _store(folder, by, module, q.codes, q.scales, scale)
    if by == "modelopt":
        for layer in range(config["num_hidden_layers"]):
            for letter in "kv":
                folder.tensors[f"model.layers.{layer}.self_attn.{letter}_proj.{letter}_scale"] = (
                    f32(0.02 + layer)
                )
    return folder


def _store(
    folder: Folder, by: str, module: str, codes: np.ndarray, scales: np.ndarray, scale: Any
) -> None:
    if by == "ct":
        parts = {
            "weight_packed": ("U8", codes),
            "weight_scale": ("F8_E4M3", scales),
            "weight_global_scale": ("F32", np.array([scale], np.float32)),
            "input_global_scale": ("F32", np.array([96], np.float32)),
        }
    else:
        parts = {
            "weight": ("U8", codes),
            "weight_scale": ("F8_E4M3", scales),
            "weight_scale_2": f32(float(scale)),
            "input_scale": f32(0.01),
        }
    folder.tensors.update({f"{module}.{name}": value for name, value in parts.items()})


def sharded() -> Folder:
    """Mixtral in three files and an index."""
    folder = plain("mixtral")
    folder.shards = 3
    return folder


CLEAN = {
    "plain": lambda: plain("qwen3_moe"),
    "fp8": low_fp8,
    "mxfp4": lambda: plain("gpt_oss-mxfp4"),
    "ct": lambda: low_nvfp4("ct"),
    "modelopt": lambda: low_nvfp4("modelopt"),
    "sharded": sharded,
}
