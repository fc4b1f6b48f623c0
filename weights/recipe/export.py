"""Between the trainer's stacks and the hub's tensor names; checkpoint to shipped model.

Run as `python -m weights.recipe.export --checkpoint RUN/checkpoint.pt --tokenizer FOLDER
--out MODEL`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from weights.recipe.corpus import write_atomically
from weights.recipe.shape import Shape, generation_config, hub_config
from weights.recipe.train_tokenizer import write_json

# Stacked name to the hub's name within a layer, where both hold the same tensor.
SAME = {
    "attention_norm": "input_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "o": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "router": "mlp.gate.weight",
}
OUTSIDE = {"embedding": "model.embed_tokens.weight", "final_norm": "model.norm.weight"}


def qkv_sizes(shape: Shape) -> list[int]:
    """Output rows of the q, k and v projections."""
    return [n * shape.head_dim for n in (shape.heads, shape.kv_heads, shape.kv_heads)]


def to_hub(weights: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The hub's tensors; the tied head is left out, as its loaders expect."""
    out = {hub: weights[name] for name, hub in OUTSIDE.items()}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name, hub in SAME.items():
            out[prefix + hub] = weights[name][layer]
        parts = torch.split(weights["qkv"][layer].flatten(0, 1), qkv_sizes(shape))
        for letter, part in zip("qkv", parts, strict=True):
            out[f"{prefix}self_attn.{letter}_proj.weight"] = part
        for expert in range(shape.experts):
            inside = f"{prefix}mlp.experts.{expert}."
            gate, up = weights["gate_up"][layer, expert]
            out[inside + "gate_proj.weight"] = gate
            out[inside + "up_proj.weight"] = up
            out[inside + "down_proj.weight"] = weights["down"][layer, expert]
    return out


def from_hub(tensors: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The trainer's stacks of a model in the hub's names, in float32."""
    out = {name: tensors[hub].float() for name, hub in OUTSIDE.items()}
    prefixes = [f"model.layers.{layer}." for layer in range(shape.layers)]
    for name, hub in SAME.items():
        out[name] = torch.stack([tensors[p + hub].float() for p in prefixes])
    qkv = [
        torch.cat([tensors[f"{p}self_attn.{letter}_proj.weight"].float() for letter in "qkv"])
        for p in prefixes
    ]
    out["qkv"] = torch.stack(qkv)  # the network views it in its own blocks

    def experts(which: str) -> Tensor:
        return torch.stack(
            [
                torch.stack(
                    [
                        tensors[f"{p}mlp.experts.{e}.{which}_proj.weight"].float()
                        for e in range(shape.experts)
                    ]
                )
                for p in prefixes
            ]
        )

    out["gate_up"] = torch.stack((experts("gate"), experts("up")), dim=2)
    out["down"] = experts("down")
    return out


def load_hub_weights(path: Path, shape: Shape) -> dict[str, Tensor]:
    """The trainer's stacks of a `model.safetensors`."""
    return from_hub(load_file(path), shape)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Shape]:
    """Float32 weights and shape of a training checkpoint."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content["weights"], Shape(**content["shape"])


def export(checkpoint: Path, tokenizer: Path | None, out: Path) -> None:
    """Write the model in bfloat16 with its configuration; the tokenizer is copied."""
    weights, shape = read_checkpoint(checkpoint)
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in to_hub(weights, shape).items()
    }
    write_atomically(out / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(out / "config.json", hub_config(shape))
    write_json(out / "generation_config.json", generation_config())
    if tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if (tokenizer / name).resolve() != (out / name).resolve():
                shutil.copyfile(tokenizer / name, out / name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="folder of tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    export(options.checkpoint, options.tokenizer, options.out)
    print(f"model written to {options.out}")


if __name__ == "__main__":
    main()
