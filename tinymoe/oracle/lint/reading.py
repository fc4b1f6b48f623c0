"""config.json, read as far as possible: what is not understood is set aside and remembered."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

from tinymoe.cards import ModelConfig
from tinymoe.core import TinymoeError
from tinymoe.families import FAMILIES, read_config

_TRIES = 12  # a message names up to 8 fields; nobody's config has 100 that are unknown

# arithmetic without which a config is not read, and of which no name and no shape depends
STAND_INS: dict[str, Any] = {
    **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e4},
    **{"norm_topk_prob": True, "routed_scaling_factor": 1.0, "max_position_embeddings": 1024},
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of it."""

    model: ModelConfig | None  # without the fields that were set aside
    known: bool  # whether the family is one of ours
    problems: tuple[str, ...]  # messages, quantisation's aside, which has its own rule
    set_aside: tuple[str, ...]  # names of fields
    tied_unsaid: bool  # tie_word_embeddings is missing, and was taken from what is stored


def read_leniently(config: dict[str, Any], *, tied: bool) -> Reading:
    """Read it again and again, each time without the fields that the last error named.

    Tensor names and shapes depend on a handful of sizes. A strange field must not keep the rules
    about tensors from looking; that it is there is a finding. `tied` stands for a missing
    tie_word_embeddings.
    """
    trial, problems, aside, unsaid = dict(config), list[str](), list[str](), False
    family = config.get("model_type")
    known = isinstance(family, str) and family in FAMILIES
    for _ in range(_TRIES):
        try:
            with warnings.catch_warnings():  # of loading: it would be said once a try
                warnings.simplefilter("ignore")
                model = read_config(trial)
        except Exception as error:  # a broken config may break a reader, too
            said = reason(error)
            if not isinstance(error, TinymoeError) and "quantization_config" in trial:
                trial = _without(trial, ["quantization_config"])
                continue
        else:
            return Reading(model, known, tuple(problems), tuple(aside), unsaid)
        if "'tie_word_embeddings' is missing" in said and not unsaid:
            trial["tie_word_embeddings"], unsaid = tied, True
            continue
        named = _named(said, trial)
        if "quantization_config" not in named and not set(aside) & _words(said):
            problems.append(said)
        lacks = re.search(r"the field '(\w+)' is missing", said)
        stand_in = lacks[1] if lacks else named[0] if len(named) == 1 else ""
        if stand_in in STAND_INS and stand_in not in aside:
            aside.append(stand_in)
            trial = trial | {stand_in: STAND_INS[stand_in]}
            continue
        if not named:
            break
        aside += [name for name in named if name != "quantization_config"]
        trial = _without(trial, named)
    return Reading(None, known, tuple(problems), tuple(aside), unsaid)


def reason(error: Exception) -> str:
    """Our own errors speak for themselves; of others the kind belongs to it."""
    named = "" if isinstance(error, TinymoeError) else f"{type(error).__name__}: "
    return f"{named}{error}"


def _words(message: str) -> set[str]:
    return set(re.findall(r"\w+", message))


def _named(message: str, config: dict[str, Any]) -> list[str]:
    """The fields that an error speaks of: quoted, before " = ", or right after the file's name."""
    if "model_type" in message:
        return []
    inner = config.get("text_config")
    fields = set(config) | (set(inner) if isinstance(inner, dict) else set())
    where = re.match(r"(?:hf_quant_)?config\.json[:,] (\w+)", message)
    if where is not None and where[1] in fields:
        return [where[1]]
    quoted = set(re.findall(r"'(\w+)'", message)) | set(re.findall(r"(\w+) = ", message))
    return sorted(quoted & fields)


def _without(config: dict[str, Any], names: list[str]) -> dict[str, Any]:
    left = {name: value for name, value in config.items() if name not in names}
    inner = left.get("text_config")
    if isinstance(inner, dict):
        left["text_config"] = _without(inner, names)
    return left
