"""Record what the shipped model writes, as transformers computes it: the tests' fixed points.

    python -m weights.recipe.pin

Writes `weights/pinned.json`: greedy continuations of five prompts by transformers' Qwen3-MoE in
float32, with the smallest gap between the two best logits met on the way; the experts of every
token and layer of one text, by tinymoe's definition in float64, with the smallest margin; and the
model file's hash and the versions that made it all. Run it again for every new model file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

import tinymoe
from weights.recipe.corpus import write_atomically

WEIGHTS = Path(__file__).parents[1]
TOKENS = 64
PROMPTS = (
    "Once upon a time",
    "One day, a little girl named Lily found a",
    "The old king had three sons",
    "def main(",
    "7+5=",
)
ROUTED = "The fox had 12 red apples. He ate 5 of them."


def greedy(network: Any, ids: list[int]) -> tuple[list[int], float]:
    """The arg-max continuation of `ids`, end of text ignored, and its smallest top-two gap."""
    new, gaps, cache, step = [], [], None, list(ids)
    for _ in range(TOKENS):
        with torch.no_grad():
            out = network(torch.tensor([step]), past_key_values=cache, use_cache=True)
        logits, cache = out.logits[0, -1], out.past_key_values
        best = logits.topk(2).values
        gaps.append(float(best[0] - best[1]))
        step = [int(logits.argmax())]
        new += step
    return new, min(gaps)


def main() -> None:
    """Record and write."""
    model = tinymoe.load(WEIGHTS, numerics="exact")
    network = transformers.Qwen3MoeForCausalLM.from_pretrained(
        WEIGHTS, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    continuations = []
    for prompt in PROMPTS:
        ids, gap = greedy(network, model.encode(prompt))
        text = model.tokenizer.decode(ids)
        continuations.append({"prompt": prompt, "ids": ids, "text": text, "smallest_gap": gap})
    taps = model.trace(model.encode(ROUTED), ["layers.*.router.*"])
    layers = range(model.config.num_layers)
    pinned = {
        "model_sha256": model.checkpoint.hash(),
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "greedy": continuations,
        "routing": {
            "text": ROUTED,
            "ids": [taps[f"layers.{index}.router.ids"].tolist() for index in layers],
            "smallest_margin": min(
                float(taps[f"layers.{index}.router.margin"].min()) for index in layers
            ),
        },
    }
    write_atomically(WEIGHTS / "pinned.json", (json.dumps(pinned, indent=1) + "\n").encode())
    for entry in continuations:
        print(repr(entry["prompt"] + entry["text"]), entry["smallest_gap"])


if __name__ == "__main__":
    main()
