"""What each number of a benchmark means, with its unit. Printed beside the numbers."""

from __future__ import annotations

from typing import NamedTuple


class Definition(NamedTuple):
    """Of one number, or one family of them."""

    unit: str
    meaning: str


DEFINITIONS = {
    "batch": Definition(
        "requests",
        "B requests of the same length, submitted together. All prompts are prefilled in one "
        "step; then every step gives each request one token. The end-of-sequence id ends nothing, "
        "so all lengths are fixed. Prompts are random token ids, greedy tokens follow.",
    ),
    "model": Definition(
        "s or tokens/s",
        "The time inside `forward`, logits included; no scheduling, no sampling. The batches "
        "are those of the engine run, token for token.",
    ),
    "engine": Definition(
        "s or tokens/s",
        "The time of `Engine.step`: scheduling, building the batch, `forward`, greedy sampling. "
        "No text is made of the ids. A backend whose head can take the largest logit itself does "
        "so, and writes no logits.",
    ),
    "prefill": Definition(
        "tokens/s",
        "Prompt tokens of all B requests over the time of the step that takes them all in. "
        "Engine: submitting and sampling the first token are in that time.",
    ),
    "ttft": Definition(
        "s",
        "Time to first token: from before the requests are submitted until every one of the B "
        "has its first token. The first token belongs to it and to nothing else.",
    ),
    "decode": Definition(
        "tokens/s", "B (N - 1) tokens, the first ones left out, over the time of the N - 1 steps."
    ),
    "per_user": Definition("tokens/s", "Decode tokens/s of the engine over B: what one user sees."),
    "itl": Definition(
        "s",
        "Inter-token latency: from one token of a request to its next, over the N - 1 tokens "
        "after the first. The B requests of a step share one gap, which counts once. Percentiles "
        "are over the gaps of all repeats, linear between neighbours.",
    ),
    "context": Definition(
        "keys", "How many keys a token sees in the first and in the last decode step, itself too."
    ),
    "bytes_per_step": Definition(
        "bytes",
        "The least that a decode step must read: each weight it touches once, as held in memory "
        "(experts: the mean number of distinct ones that a layer's step met, counted in a run "
        "without clock), and the keys and values of B requests at mean context.",
    ),
    "implied_bandwidth": Definition(
        "bytes/s", "bytes_per_step over the median decode step of `model` (mean step of a run)."
    ),
    "read_bandwidth": Definition(
        "bytes/s",
        "Measured here: a BLAS dot product of a float32 array with itself, the array several "
        "times the last-level cache, with the threads BLAS takes. Taken once a round; best of "
        "all rounds, as a limit should be.",
    ),
    "of_limit": Definition(
        "ratio",
        "implied_bandwidth over read_bandwidth. 1 would be as fast as this machine can read. "
        "Weights that fit the last-level cache can pass it.",
    ),
    "limit": Definition("tokens/s", "B times read_bandwidth over bytes_per_step."),
    "memory": Definition(
        "bytes",
        "High-water mark of resident memory of a fresh process that runs each batch size once: "
        "after its imports, after the model is there, at the end. Pages of files that are mapped "
        "count while they are in.",
    ),
    "start": Definition(
        "s",
        "A whole `python -m tinymoe generate` process, from before it is started: until its "
        "first text that is not white space, and until it has ended. cold: the first such process "
        "of this call, with the caches as they were found. warm: the ones after it. uncompiled: "
        "warm, but every Python module is compiled anew, as after an installation that compiled "
        "none. Not controlled: what the system keeps in its file cache. This program has loaded "
        "Python and NumPy itself, so a first start after booting is slower than any of these.",
    ),
    "repeats": Definition(
        "",
        "Every repeat runs all cases in turn, each engine run next to its model run, every second "
        "repeat in reverse order, so that drift meets all alike. Medians are over repeats; the "
        "smallest and the largest stand beside them.",
    ),
}
