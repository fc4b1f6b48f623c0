"""transformers as a peer: a process that stays, so that a large model is drawn or read once.

Its program is `transformers_child.py`; the Python that runs it may be another one than ours. Before
the rounds all its implementations of the experts are run, and each line keeps the fastest.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinymoe.core import ModelConfig, TinymoeError
from tinymoe.measure.build import Source
from tinymoe.measure.peers import TIMEOUT
from tinymoe.measure.steps import Line

CHILD = Path(__file__).with_name("transformers_child.py")


class Transformers:
    """The model in bfloat16 on transformers and torch."""

    name, form, warms = "transformers bf16", "bf16", True
    counts = (
        "a plain loop over the model with its cache, no `generate`: prompt or decoded tokens over "
        "the seconds of the calls, logits of the last token, random tokens, nothing sampled; of "
        "its implementations of the experts the one that was fastest on the line before the rounds"
    )

    def __init__(
        self,
        source: Source,
        config: ModelConfig,
        threads: int,
        python: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Starts the process and waits until it has the model. `python`: None is this one."""
        self.timeout, self._python = timeout, python or sys.executable
        job: dict[str, Any] = {
            "threads": threads,
            "seed": source.seed,
            "folder": None,
            "config": None,
        }
        if source.shape is None:
            job["folder"] = str(source.folder)
        else:
            job["config"] = huggingface(config)
        try:
            self._process = subprocess.Popen(
                [self._python, str(CHILD)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            )  # fmt: skip
        except OSError as error:
            raise TinymoeError(
                f"--peer transformers={self._python}: no Python that starts: {error.strerror}"
            ) from None
        try:
            ready = self._ask(job)
        except TinymoeError:
            self.close()
            raise
        self.versions: dict[str, str] = ready["versions"]
        self._experts: list[str] = ready["experts"]
        if not self._experts:
            self.close()
            raise TinymoeError(f"transformers cannot run this model: {ready['without']}")
        self.best: dict[str, str] = {}  # by line, the fastest implementation

    def rates(self, lines: Sequence[Line]) -> list[float | None]:
        """Tokens a second of each line; at its first call also finds who is fastest on it."""
        return [self._rate(line, self._fastest(line)) for line in lines]

    def _fastest(self, line: Line) -> str:
        """The experts' implementation for a line.

        `batched_mm` copies the chosen experts of every token, gigabytes of a prompt: for decoding.
        """
        if line.name not in self.best:
            able = [e for e in self._experts if line.kind == "decode" or e != "batched_mm"]
            rates = {experts: self._rate(line, experts) for experts in able}
            rates = {experts: self._rate(line, experts) for experts in able}  # now they are warm
            self.best[line.name] = max(able, key=lambda experts: rates[experts])
        return self.best[line.name]

    def _rate(self, line: Line, experts: str) -> float:
        steps = line.steps + 1 if line.kind == "decode" else 1
        work = {"batch": line.batch, "prompt": line.context, "tokens": steps, "experts": experts}
        seconds = self._ask(work)["seconds"]
        return line.tokens / (seconds[0] if line.kind == "prefill" else sum(seconds[1:]))

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One line there, one line back, within the time there is."""
        there, back = self._process.stdin, self._process.stdout
        assert there is not None  # both were asked for
        assert back is not None
        try:
            there.write(json.dumps(question) + "\n")
            there.flush()
        except BrokenPipeError:
            pass  # it has ended: what it said last is still there to be read
        with selectors.DefaultSelector() as waiting:
            waiting.register(back, selectors.EVENT_READ)
            if not waiting.select(self.timeout):
                self.close()
                raise TinymoeError(
                    f"transformers did not answer within {self.timeout:g} s: take a smaller "
                    "shape, fewer --tokens, or a longer --timeout"
                )
        text = back.readline()
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            answer = {"error": f"it said {text.strip()!r}" if text else "it ended"}
        if "error" in answer:
            raise TinymoeError(
                f"--peer transformers in {self._python}: {answer['error']}; it needs torch and "
                'transformers 5: pip install "tinymoe[peers]", or name another Python: --peer '
                "transformers=PYTHON"
            )
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def huggingface(config: ModelConfig) -> dict[str, Any]:
    """The shape as transformers' Qwen3MoeConfig names it; an error of a shape of another kind."""
    if config.family != "qwen3_moe":
        raise TinymoeError(
            "--peer transformers: expected a --shape of Qwen3's kind (small, medium, shipped), "
            f"this is {config.family}: its weights are drawn there as Qwen3MoeConfig's; measure a "
            "checkpoint (--model), or leave the peer out"
        )
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.moe_intermediate,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "num_experts": config.router.experts,
        "num_experts_per_tok": config.router.top_k,
        "moe_intermediate_size": config.moe_intermediate,
        "norm_topk_prob": config.router.renormalise,
        "tie_word_embeddings": config.tied_head,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps,
    }
