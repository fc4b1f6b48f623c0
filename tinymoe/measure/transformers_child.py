"""transformers, timed from inside: a program for the Python that has it, which may be another.

    PYTHON transformers_child.py < jobs

It imports nothing of tinymoe. The first line of stdin is a JSON object that says which model; the
answer is a line with the versions and the implementations of the experts that run here. Every
further line asks for one run (`batch`, `prompt`, `tokens`, `experts`); the answer has its seconds.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

# All that transformers 5 names; a version or a machine that lacks one is asked, not guessed.
EXPERTS = ("eager", "batched_mm", "grouped_mm")


def open_model(job: dict[str, Any]) -> Any:
    """The folder's model, or one of the given config with random weights; in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    torch.set_default_dtype(torch.bfloat16)
    if job["folder"] is not None:
        return AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.bfloat16).eval()
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**job["config"])).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                weight.fill_(1.0)  # a norm
                continue
            # as tinymoe.measure.random_model draws, so that tokens spread over the experts
            gain = 0.25 if "o_proj" in name else 0.5 if name.endswith("mlp.gate.weight") else 1.0
            reach = gain * (3 / weight.shape[-1]) ** 0.5
            weight.uniform_(-reach, reach)
    return model


def run(model: Any, work: dict[str, Any]) -> list[float]:
    """Seconds of the prefill, then of every decode step: the model's own, with its cache.

    Random tokens are fed, as llama-bench does: nothing is sampled, no `generate` is around it.
    """
    import torch
    from transformers import DynamicCache

    model.set_experts_implementation(work["experts"])
    B, vocab = work["batch"], model.config.vocab_size
    draw = torch.Generator().manual_seed(work.get("seed", 0))
    prompt = torch.randint(vocab, (B, work["prompt"]), generator=draw)
    follow = torch.randint(vocab, (work["tokens"] - 1, B, 1), generator=draw)
    seconds = []
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        for ids in (prompt, *follow):
            begin = time.perf_counter()
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds.append(time.perf_counter() - begin)
    return seconds


def usable(model: Any) -> tuple[list[str], dict[str, str]]:
    """The experts' implementations that run, and why the others do not."""
    works, fails = [], {}
    for name in EXPERTS:
        try:
            run(model, {"batch": 1, "prompt": 4, "tokens": 3, "experts": name})
            works.append(name)
        except Exception as error:  # anything: of another library, on an unknown machine
            fails[name] = f"{type(error).__name__}: {error}"[:200]
    return works, fails


def answer(found: dict[str, Any]) -> None:
    """One line, at once: the other side waits for it."""
    print(json.dumps(found), flush=True)


def main() -> int:
    """0 when stdin ends; 2 when the model cannot be had, with the reason as the answer."""
    try:
        import torch
        import transformers

        model = open_model(json.loads(sys.stdin.readline()))
        works, fails = usable(model)
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return 2
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    answer({"versions": versions, "experts": works, "without": fails})
    for line in sys.stdin:
        try:
            answer({"seconds": run(model, json.loads(line))})
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
