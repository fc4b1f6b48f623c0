"""Makes a parity case: a tiny random checkpoint, and what transformers computes for it.

    python tests/vectors/parity/make_case.py glm4_moe            # or others of cases.json

Needs transformers 5.23 and torch 2.13 (CPU). Weights are drawn from the case's seed, widened so
that activations stay near 1 and routing is decided, and stored in BF16 under the hub's names. The
reference runs in float32 with eager attention on the checkpoint as read back. Of seeds 1, 2, ...,
the first is taken whose closest routing decision is wider than eight times the noise.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

ROOT = Path(__file__).parent
LENGTHS = (1, 17)
CHUNKED = (1, 17, 96)  # the reference's gated delta rule takes 64 tokens at a time
TABLES = ("inv_freq", "slope_rate", "query_decay", "key_decay", "diagonal_decay")  # not learned
# "plain": fields of every case's config.json; "cases": those of each one, where null takes a plain
# one away
FIELDS = json.loads((ROOT / "cases.json").read_text(encoding="utf-8"))


def config_of(case: str) -> dict[str, Any]:
    """config.json of a case, in the hub's style."""
    merged = {"model_type": case, **FIELDS["plain"], **FIELDS["cases"][case]}
    optional = ("q_lora_rank",)
    return {k: v for k, v in merged.items() if v is not None or k in optional}


def draw(model: Any, seed: int) -> None:
    """Weights such that activations stay near 1 and attention and router have opinions."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(TABLES):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if "e_score_correction_bias" in name:
            drawn = 0.05 * noise
        elif value.ndim == 1 and "norm" in name and name.endswith("weight"):
            less_one = model.config.model_type == "qwen3_next" and "linear_attn" not in name
            drawn = 0.25 * noise + (0 if less_one else 1)
        elif value.ndim == 1 or "bias" in name:
            drawn = 0.5 * noise
        elif "embed" in name:
            drawn = noise
        else:
            router = ".gate." in name or "router" in name
            drawn = noise * (2.0 if router else 1.3) / value.shape[-1] ** 0.5
        with torch.no_grad():
            value.copy_(drawn.to(torch.bfloat16).to(value.dtype))


def save(model: Any, folder: Path, config: dict[str, Any]) -> None:
    """config in both styles, and the weights under the hub's names."""
    model.save_pretrained(folder)
    newer = json.loads((folder / "config.json").read_text())
    newer["dtype"] = "bfloat16"
    (folder / "config.v5.json").write_text(json.dumps(newer, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = load_torch(folder / "model.safetensors")
    kept = {
        name: value if "e_score_correction_bias" in name else value.to(torch.bfloat16)
        for name, value in tensors.items()
        if not name.endswith(TABLES)
    }
    save_torch(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "generation_config.json").unlink(missing_ok=True)


class Recorder:
    """Hooks on a model that note what every router gives out."""

    def __init__(self, model: Any) -> None:
        self.routed: dict[int, tuple[Any, Any, Any]] = {}
        for index, layer in enumerate(model.model.layers):
            for name, module in layer.named_modules():
                kind = type(module).__name__
                if kind.endswith(("Router", "Gate", "TopKGating")) and name:
                    module.register_forward_hook(self._note(index))

    def _note(self, index: int) -> Any:
        def hook(module: Any, given: Any, out: Any) -> None:
            self.routed[index] = out

        return hook


def reference(model: Any, ids: Any) -> dict[str, np.ndarray]:
    """All that is recorded of one prompt."""
    recorder = Recorder(model)
    with torch.no_grad():
        out = model(ids[None], output_hidden_states=True, use_cache=False)
    states = out.hidden_states
    found = {"input_ids": ids.numpy(), "logits": out.logits[0].numpy()}
    outputs: list[Any] = []
    hooks = [
        layer.register_forward_hook(
            lambda module, given, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(ids[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    found["hidden.0"] = states[0][0].numpy()
    for index, value in enumerate(outputs):
        found[f"hidden.{index + 1}"] = value.reshape(len(ids), -1).numpy()
    found["hidden.final_norm"] = states[-1][0].numpy()
    for layer, routed in recorder.routed.items():
        logits, weights, chosen = routing(model, routed)
        order = np.lexsort((chosen, -weights), axis=-1)
        found[f"router_logits.{layer}"] = logits
        found[f"expert_ids.{layer}"] = np.take_along_axis(chosen, order, -1)
        found[f"expert_weights.{layer}"] = np.take_along_axis(weights, order, -1)
    return found


def routing(model: Any, routed: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits, weights, ids) of one router's output."""
    parts = [part.detach().reshape(-1, part.shape[-1]) for part in routed]
    whole = [part for part in parts if part.dtype in (torch.int64, torch.int32)]
    real = [part for part in parts if part.is_floating_point()]
    if not whole:  # Llama-4: (weights with 0 for those not chosen, logits)
        weights, ids = real[0].topk(model.config.num_experts_per_tok)
        return real[1].numpy(), weights.numpy(), ids.numpy()
    wide = max(part.shape[-1] for part in real)
    logits = next(part for part in real if part.shape[-1] == wide)
    weights = next(part for part in real if part.shape == whole[0].shape)
    return logits.numpy(), weights.numpy(), whole[0].numpy().astype(np.int64)


def noise(model: Any, folder: Path, prompts: list[Any]) -> dict[str, float]:
    """How far transformers' own forms lie from each other, in a logit."""
    base = [reference(model, ids)["logits"] for ids in prompts]
    measured = {}
    for name, options in (
        ("sdpa", {"attn_implementation": "sdpa"}),
        ("experts_eager", {"experts_implementation": "eager"}),
        ("experts_batched_mm", {"experts_implementation": "batched_mm"}),
    ):
        other = load(folder, **options)
        with torch.no_grad():
            logits = [other(ids[None], use_cache=False).logits[0].numpy() for ids in prompts]
        pairs = zip(base, logits, strict=True)
        measured[name] = float(max(np.abs(a - b).max() for a, b in pairs))
    if (
        model.config.model_type == "qwen3_next"
    ):  # a cache of `minimax` counts its first layer's keys
        pairs = zip(base, map(partial(token_by_token, model), prompts), strict=True)
        measured["token_by_token"] = float(max(np.abs(a - b).max() for a, b in pairs))
        # the norm of what a young state gives divides by next to nothing where q . k is small
        wide = load(folder, experts_implementation="eager").double()
        with torch.no_grad():
            logits = [wide(ids[None], use_cache=False).logits[0].numpy() for ids in prompts]
        pairs = zip(base, logits, strict=True)
        measured["float64"] = float(max(np.abs(a - b).max() for a, b in pairs))
    return measured


def token_by_token(model: Any, ids: Any) -> np.ndarray:
    """Logits by the recurrent form of linear attention, over a cache."""
    rows, past = [], None
    with torch.no_grad():
        for i in range(len(ids)):
            out = model(ids[None, i : i + 1], past_key_values=past, use_cache=True)
            past = out.past_key_values
            rows.append(out.logits[0, 0].numpy())
    return np.stack(rows)


def load(folder: Path, **options: Any) -> Any:
    """The checkpoint as transformers reads it, in float32."""
    options = {"attn_implementation": "eager", **options}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, **options
    )
    return model.eval()


def main(case: str) -> None:
    """Write the case's folder, with the first seed that does."""
    seed = 1
    while not decided(meta := make(case, seed)):
        seed += 1
    print(json.dumps(meta, indent=1))


def decided(meta: dict[str, Any]) -> bool:
    """Whether float32 noise can flip no routing decision of the case."""
    worst = max(meta["noise_max_abs_logit_diff"].values())
    return bool(meta["smallest_routing_gap"] > 8 * worst)


def make(case: str, seed: int) -> dict[str, Any]:
    """Write the case's folder; what reference.json says of it."""
    config, folder = config_of(case), ROOT / case
    made = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    draw(model, seed)
    folder.mkdir(exist_ok=True)
    save(model, folder, config)
    model = load(folder)
    generator = torch.Generator().manual_seed(seed + 1)
    vocab = config["vocab_size"]
    lengths = CHUNKED if case == "qwen3_next" else LENGTHS
    prompts = [torch.randint(0, vocab, (n,), generator=generator) for n in lengths]
    found, gaps = {}, []
    for n, ids in zip(lengths, prompts, strict=True):
        values = reference(model, ids)
        gaps.append(margin(folder, ids.numpy()))
        found |= {f"p{n}.{key}": np.ascontiguousarray(value) for key, value in values.items()}
    save_file(found, folder / "reference.safetensors")
    meta = {
        "case": case,
        "seed": seed,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "prompt_lengths": list(lengths),
        "layers": config["num_hidden_layers"],
        "smallest_routing_gap": min(gaps),
        "logits_std": float(found["p17.logits"].std()),
        "noise_max_abs_logit_diff": noise(model, folder, prompts),
    }
    (folder / "reference.json").write_text(json.dumps(meta, indent=1) + "\n")
    return meta


def margin(folder: Path, ids: np.ndarray) -> float:
    """The smallest gap at the cut between experts, in the scores that choose.

    transformers does not tell it; tinymoe's own `exact` run does. Should that be wrong, then the
    comparison of what is recorded here fails.
    """
    from tinymoe.checkpoint import Checkpoint
    from tinymoe.core import NUMERICS
    from tinymoe.families import load_params, read_config
    from tinymoe.oracle.trace import trace

    checkpoint = Checkpoint.open(folder)
    config, numerics = read_config(checkpoint.config), NUMERICS["exact"]
    taps = trace(load_params(checkpoint, config, numerics), config, ids, numerics)
    return float(min(taps[name].min() for name in taps if name.endswith("router.margin")))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(name)
