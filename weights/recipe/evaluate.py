"""Loss by domain, and how differently the domains use the experts.

    python -m weights.recipe.evaluate --model weights --float32 --out weights/evaluation.json
    python -m weights.recipe.evaluate --model RUN/checkpoint.pt --data DATA --split valid

The windows are always the same for one split, context and count, so two models, or two formats of
one model, can be compared window by window: `window_losses` of both files are pairs.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weights.recipe.corpus import write_atomically
from weights.recipe.data import Ids, evaluation_windows, load_split
from weights.recipe.export import load_hub_weights, read_checkpoint
from weights.recipe.network import MoeNetwork
from weights.recipe.shape import Shape
from weights.recipe.splits import TEST_SPLITS, text_windows

Floats = NDArray[np.float64]


def load_windows(folder: Path, split: str, context: int, count: int) -> dict[str, Ids]:
    """The evaluation windows of every domain that has at least one."""
    parts = load_split(folder, split)
    return {
        d: evaluation_windows(ids, context, count) for d, ids in parts.items() if len(ids) > context
    }


def run_windows(network: MoeNetwork, windows: Ids, rows: int) -> tuple[Floats, Floats]:
    """Mean loss of every window, and expert loads [windows, layers, experts].

    All batches have `rows` rows, the last one filled up with repeats: compiled code sees one
    shape only.
    """
    losses, loads = [], []
    for start in range(0, len(windows), rows):
        batch = torch.from_numpy(np.resize(windows[start : start + rows], (rows, windows.shape[1])))
        each, reports = network.token_losses(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        losses.append(each.double().mean(1).numpy())
        chosen = torch.stack([r.chosen.view(rows, -1) for r in reports], dim=1)
        hits = torch.nn.functional.one_hot(chosen, network.shape.experts).double().mean(2)
        loads.append(hits.numpy())
    count = len(windows)
    return np.concatenate(losses)[:count], np.concatenate(loads)[:count]


def domain_results(
    network: MoeNetwork, windows: dict[str, Ids], rows: int = 32
) -> dict[str, tuple[Floats, Floats]]:
    """`run_windows` for all domains in common batches, taken apart by domain again."""
    losses, loads = run_windows(network, np.concatenate(list(windows.values())), rows)
    ends = np.cumsum([len(w) for w in windows.values()])[:-1]
    pairs = zip(np.split(losses, ends), np.split(loads, ends), strict=True)
    return dict(zip(windows, pairs, strict=True))


def specialisation(loads: dict[str, Floats]) -> list[float]:
    """By layer, the mean total-variation distance between two domains' expert loads."""
    pairs = list(itertools.combinations(loads.values(), 2))
    if not pairs:
        return []
    distances = [0.5 * np.abs(a - b).sum(-1) for a, b in pairs]
    return [float(d) for d in np.mean(distances, axis=0)]


def report(network: MoeNetwork, windows: dict[str, Ids], rows: int = 32) -> dict[str, Any]:
    """Everything that the command writes."""
    results = domain_results(network, windows, rows)
    loads = {d: load.mean(0) for d, (_, load) in results.items()}
    return {
        "loss": {d: float(loss.mean()) for d, (loss, _) in results.items()},
        "mean_loss": float(np.mean([loss.mean() for loss, _ in results.values()])),
        "windows": {d: len(w) for d, w in windows.items()},
        "window_losses": {d: [float(x) for x in loss] for d, (loss, _) in results.items()},
        "specialisation": specialisation(loads),
        "expert_loads": {d: load.round(5).tolist() for d, load in loads.items()},
    }


def load_network(path: Path, dtype: torch.dtype) -> MoeNetwork:
    """A network from a training checkpoint (`.pt`) or an exported model's folder."""
    if path.suffix == ".pt":
        weights, shape = read_checkpoint(path)
    else:
        shape = shape_of_config(json.loads((path / "config.json").read_text()))
        weights = load_hub_weights(path / "model.safetensors", shape)
    network = MoeNetwork(shape, dtype)
    network.load_stacks(weights)
    return network


def shape_of_config(config: dict[str, Any]) -> Shape:
    """The shape that a `config.json` describes."""
    return Shape(
        vocab=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        experts=config["num_experts"],
        top_k=config["num_experts_per_tok"],
        ffn=config["moe_intermediate_size"],
        rope_theta=config["rope_theta"],
        eps=config["rms_norm_eps"],
        max_positions=config["max_position_embeddings"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder or checkpoint.pt")
    parser.add_argument("--data", type=Path, help="prepared data; else the shipped test texts")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--windows", type=int, default=48, help="windows of each domain")
    parser.add_argument("--rows", type=int, default=16, help="windows computed at once")
    parser.add_argument("--float32", action="store_true", help="in place of bfloat16 arithmetic")
    parser.add_argument("--out", type=Path, help="JSON file; otherwise printed")
    options = parser.parse_args(arguments)
    network = load_network(options.model, torch.float32 if options.float32 else torch.bfloat16)
    if options.data:
        windows = load_windows(options.data, options.split, options.context, options.windows)
    else:
        windows = text_windows(
            TEST_SPLITS, options.model / "tokenizer.json", options.context, options.windows
        )
    result = {"split": options.split, "context": options.context}
    result |= report(network, windows, options.rows)
    text = json.dumps(result, indent=1) + "\n"
    if options.out:
        write_atomically(options.out, text.encode())
        print(json.dumps({d: round(v, 4) for d, v in result["loss"].items()}))
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
