"""Rules on config.json: what is not understood, what is only implied."""

from __future__ import annotations

from collections.abc import Iterator

from tinymoe.oracle.lint.registry import Found, rule
from tinymoe.oracle.lint.subject import Subject

_GATING = ("scoring_func", "score_function", "moe_router_score_function", "gating_func")


@rule(
    "family-unknown",
    "warning",
    "transformers#40609",
    engine="needs to know which tensor is which; a layout taken for another's gives garbage",
)
def family_unknown(subject: Subject) -> Iterator[Found]:
    """model_type is no family of tinymoe's: the rules about names and shapes could not look."""
    if not subject.reading.known:
        family = subject.config.get("model_type")
        yield Found(
            f"model_type is {family!r}, of which tinymoe knows no tensor names: missing and "
            "unused tensors, shapes and types were not looked for; scales, bias, exclusion lists "
            "and vocabulary were"
        )


@rule(
    "config-field",
    "warning",
    *("sglang#22711", "sglang#22928", "ik_llama.cpp#1174"),
    engine="ignores a field that it does not know and puts its own default for one that is "
    "missing, and so computes another model",
)
def config_field(subject: Subject) -> Iterator[Found]:
    """A field that changes the arithmetic is missing, contradictory, or not one that is read."""
    reading = subject.reading
    if not reading.known:
        return
    for number, problem in enumerate(reading.problems):
        last = number == len(reading.problems) - 1 and reading.model is None
        extra = ". Missing and unused tensors, shapes and types were not looked for" * last
        # what follows is advice for one who loads
        fact = problem.split(". tinymoe does not guess")[0].split("; it would change")[0]
        yield Found(fact + extra, reading.set_aside)
    if reading.model is None and not reading.problems:
        yield Found("config.json cannot be read; missing and unused tensors were not looked for")


@rule(
    "gating-implied",
    "note",
    *("llama.cpp#18980", "ik_llama.cpp#1174", "mlx-lm#1883"),
    engine="takes softmax where nothing is said: perplexity 11.06 in place of 9.81, and fluent",
)
def gating_implied(subject: Subject) -> Iterator[Found]:
    """Router scores by sigmoid, or a bias that hints at them, and config.json names no function."""
    sources = [subject.config, subject.config.get("text_config")]
    said = [source.get(name) for source in sources if isinstance(source, dict) for name in _GATING]
    if any(value is not None for value in said):
        return
    if subject.model is not None:
        card = subject.model.router
        if "sigmoid" in (card.score, card.weight_from.removesuffix("_of_chosen")):
            yield Found(
                f"config.json has no scoring_func; that the router scores by sigmoid follows from "
                f"model_type {subject.model.family!r} alone, and is lost in a conversion that "
                "does not know it",
                numbers={"score": card.score, "weight_from": card.weight_from},
            )
        return
    bias = [name for name in subject.names if name.endswith("e_score_correction_bias")]
    if bias:
        yield Found(
            "there is a bias for choosing experts and no scoring_func: sigmoid in most models "
            "that have one, softmax in Ernie's",
            bias,
        )


@rule(
    "scheme-unread",
    "warning",
    *("vllm#45132", "modular#6600"),
    engine="reads bytes by a scheme that it half understands",
)
def scheme_unread(subject: Subject) -> Iterator[Found]:
    """What is said of quantisation is not understood: quantised tensors were judged by name."""
    if subject.scheme is None:
        yield Found(
            f"{subject.scheme_problem}. Quantised tensors were judged by their names; their "
            "shapes and types were not"
        )
