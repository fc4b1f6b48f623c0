"""Every family's router as released: its own steps, its own numbers of experts.

The steps are those that the family files read (a test compares them); E, K and groups are a
released model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinymoe.cards import RouterCard

_PLAIN: dict[str, Any] = {
    "score": "softmax",
    "selection_bias": False,
    "groups": 1,
    "groups_kept": 1,
    "group_score": "none",
    "dropped_group": "none",
    "weight_from": "score",
    "renormalise": True,
    "renorm_epsilon": 0.0,
    "renorm_floor": 0.0,
    "scale": 1.0,
    "weight_on": "output",
    "logits_dtype": "model",
    "bias_dtype": "model",
    "tie_rule": "lowest_index",
}
_OF_CHOSEN: dict[str, Any] = {
    "score": "identity",
    "weight_from": "softmax_of_chosen",
    "renormalise": False,
}
_BIASED: dict[str, Any] = {"score": "sigmoid", "selection_bias": True, "bias_dtype": "float32"}
_DEEPSEEK: dict[str, Any] = {
    **_BIASED,
    "group_score": "top2_sum",
    "dropped_group": "-inf",
    "renorm_epsilon": 1e-20,
    "scale": 2.5,
    "logits_dtype": "float32",
}


def _card(experts: int, top_k: int, groups: tuple[int, int] = (1, 1), **steps: Any) -> RouterCard:
    limits = {"groups": groups[0], "groups_kept": groups[1]}
    return RouterCard(experts=experts, top_k=top_k, **{**_PLAIN, **limits, **steps})


CARDS: Mapping[str, RouterCard] = {
    "mixtral": _card(8, 2),
    "olmoe": _card(64, 8, renormalise=False),
    "qwen2_moe": _card(60, 4, renormalise=False),
    "qwen3_moe": _card(128, 8),
    "gpt_oss": _card(32, 4, **_OF_CHOSEN),
    "granitemoe": _card(40, 8, **_OF_CHOSEN),
    "granitemoeshared": _card(40, 8, **_OF_CHOSEN),
    "glm4_moe": _card(*(160, 8), **{**_DEEPSEEK, "group_score": "none", "dropped_group": "none"}),
    "dots1": _card(128, 6, (4, 2), **_DEEPSEEK),
    "deepseek_v2": _card(
        *(160, 6, (8, 3)),
        group_score="max",
        dropped_group="zero",
        renormalise=False,
        scale=16.0,
        logits_dtype="float32",
    ),
    "deepseek_v3": _card(256, 8, (8, 4), **_DEEPSEEK),
    "kimi_k2": _card(
        *(384, 8),
        **{**_DEEPSEEK, "scale": 2.827, "group_score": "none", "dropped_group": "none"},
    ),
    "ernie4_5_moe": _card(
        *(64, 6),
        selection_bias=True,
        renorm_floor=1e-12,
        logits_dtype="float32",
        bias_dtype="float32",
    ),
    "hunyuan_v1_moe": _card(64, 8, logits_dtype="float32"),
    "minimax_m2": _card(256, 8, **_BIASED),
    "llama4": _card(
        *(128, 1),
        score="identity",
        weight_from="sigmoid_of_chosen",
        renormalise=False,
        weight_on="input",
    ),
    "phimoe": _card(*(16, 2), score="identity", weight_from="sparsemixer", renormalise=False),
    "minimax": _card(32, 2),
    "qwen3_next": _card(512, 10),
}
