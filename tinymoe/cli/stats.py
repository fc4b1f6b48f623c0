"""`generate --stats`: how fast it came, and where the experts went."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinymoe.cli.report import Style, table
from tinymoe.measure.reads import memory_lines

if TYPE_CHECKING:
    from tinymoe.api import Token
    from tinymoe.cli.prompts import Prompt
    from tinymoe.core import Sampling
    from tinymoe.measure.expert_load import ExpertLoad
    from tinymoe.model.on_demand import Reads

WIDTH = 64  # experts in one line of the chart


@dataclass
class Answer:
    """What one prompt has got so far."""

    prompt: Prompt
    ids: list[int]  # of the prompt, encoded
    sampling: Sampling
    tokens: list[Token] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it, as shown."""
        return "".join(token.text for token in self.tokens)

    @property
    def finish(self) -> str | None:
        """eos, stop or length; None when it was interrupted."""
        return self.tokens[-1].finish if self.tokens else None


@dataclass
class Work:
    """One call of `generate`: when it began, what came of it."""

    answers: list[Answer]
    load: ExpertLoad
    load_seconds: float  # to read the model
    begin: float = 0.0  # time.perf_counter() when the first step began
    interrupted: bool = False

    @property
    def seconds(self) -> float:
        """From the first step to the last token."""
        last = max((a.tokens[-1].time for a in self.answers if a.tokens), default=self.begin)
        return last - self.begin


def timing(answer: Answer, begin: float) -> dict[str, float | int | None]:
    """TTFT and ITL in seconds, and the speed one user sees: tokens after the first over time."""
    import numpy as np

    times = [token.time for token in answer.tokens]
    gaps = np.diff(times)
    p50, p95 = np.percentile(gaps, [50, 95]).tolist() if len(gaps) else (None, None)
    span = times[-1] - times[0] if len(gaps) else 0.0
    return {
        "prompt_tokens": len(answer.ids),
        "new_tokens": len(times),
        "ttft_s": times[0] - begin if times else None,
        "itl_p50_s": p50,
        "itl_p95_s": p95,
        "tokens_per_s_per_user": len(gaps) / span if span else None,
    }


def as_dict(work: Work) -> dict[str, Any]:
    """The figures of all prompts together, for --json."""
    rates = [timing(answer, work.begin)["tokens_per_s_per_user"] for answer in work.answers]
    known = [rate for rate in rates if rate is not None]
    new = sum(len(answer.tokens) for answer in work.answers)
    return {
        "load_s": work.load_seconds,
        "generate_s": work.seconds,
        "prompt_tokens": sum(len(answer.ids) for answer in work.answers),
        "new_tokens": new,
        "tokens_per_s": new / work.seconds if work.seconds else None,
        "tokens_per_s_per_user": sum(known) / len(known) if known else None,
        "expert_load": work.load.counts.tolist(),  # [layers][experts]; a dense layer has zeros
        "expert_imbalance": work.load.imbalance().tolist(),  # [layers], max / mean
    }


def show(work: Work, settings: str, reads: Reads | None) -> None:
    """Print it all to stderr, so that stdout is the text alone."""
    style = Style(sys.stderr)
    total = as_dict(work)
    lines = ["", style.bold("speed") + f"  ({settings}; model read in {work.load_seconds:.2f} s)"]
    lines.append(table(_speed_rows(work)))
    lines.append(
        f"  all together: {_number(total['tokens_per_s'])} new tokens/s, "
        f"{_number(total['tokens_per_s_per_user'])} per user after the first"
    )
    lines += ["", style.bold("expert load") + "  (choices by layer; one column an expert)"]
    lines += load_chart(work.load)
    lines += ["", style.bold("weights and memory"), *memory_lines(reads)]
    print("\n".join(lines), file=sys.stderr)


def _speed_rows(work: Work) -> list[list[str]]:
    head = ["prompt", "tokens in", "new", "end", "TTFT", "tokens/s/user", "ITL p50", "ITL p95"]
    rows = [head]
    for number, answer in enumerate(work.answers, 1):
        times = timing(answer, work.begin)
        rows.append(
            [
                str(number),
                str(times["prompt_tokens"]),
                str(times["new_tokens"]),
                answer.finish or "interrupted",
                _ms(times["ttft_s"]),
                _number(times["tokens_per_s_per_user"]),
                _ms(times["itl_p50_s"]),
                _ms(times["itl_p95_s"]),
            ]
        )
    return rows


def load_chart(load: ExpertLoad) -> list[str]:
    """One line a layer: a bar an expert, as high as its share of the layer's busiest."""
    bars = _bars()
    rows = [["layer", "experts", "max/mean", "busiest", "unused"]]
    for layer, (counts, imbalance) in enumerate(zip(load.counts, load.imbalance(), strict=True)):
        most = int(counts.max())
        if not most:
            continue  # a dense layer
        drawn = "".join(bars[-(-int(n) * (len(bars) - 1) // most)] for n in counts)
        parts = [drawn[i : i + WIDTH] for i in range(0, len(drawn), WIDTH)]
        busiest = f"{int(counts.argmax())} ({most / counts.sum():.0%})"
        unused = str(int((counts == 0).sum()))
        rows.append([str(layer), parts[0], f"{imbalance:.2f}", busiest, unused])
        rows += [["", part, "", "", ""] for part in parts[1:]]
    if len(rows) == 1:
        return ["  no token was routed"]
    note = f"  of {load.experts} experts; {bars[0]} unused, {bars[-1]} the layer's busiest"
    return [table(rows), note]


def _bars() -> str:
    """From none to full; plain letters where the terminal's encoding has no blocks."""
    blocks = "·▁▂▃▄▅▆▇█"
    try:
        blocks.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return ".123456789"
    return blocks


def _ms(seconds: float | int | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def show_logprobs(answers: Sequence[Answer], decode: Any) -> None:
    """One line a token on stderr: its probability, and the likeliest tokens."""
    for number, answer in enumerate(answers, 1):
        print(f"\ntokens of prompt {number}, with natural log-probabilities", file=sys.stderr)
        rows = [["id", "token", "logprob", "likeliest"]]
        for token in answer.tokens:
            best = "  ".join(f"{decode(i)!r} {p:.3f}" for i, p in token.top_logprobs)
            shown = "-" if token.logprob is None else f"{token.logprob:.3f}"
            rows.append([str(token.id), repr(decode(token.id)), shown, best])
        print(table(rows), file=sys.stderr)
