"""Wrong rotary embeddings: pairs, angles, positions, and who turns."""

from __future__ import annotations

from dataclasses import replace

from tinymoe.cards import RopeCard
from tinymoe.model.rope import magnitude
from tinymoe.oracle.mutants.looking import (
    K,
    Q,
    any_card,
    any_rope,
    backwards,
    default_rope,
    keys_unturned,
    not_latent,
    one_further,
    other_ramp,
    queries_further,
    ramp_matters,
    rope_cards,
    turning,
    twice,
    without_factor,
)
from tinymoe.oracle.mutants.mutant import (
    ModelMutant,
    first_of,
    looking_back,
    model_mutant,
    unless,
)

_turns = any_rope(lambda card: True, "no layer has rope")


def _fraction_twice(head_dim: int, card: RopeCard) -> RopeCard:
    if card.scaling is not None or card.rotary_dim == head_dim:
        return card
    return replace(card, rotary_dim=max(2, card.rotary_dim**2 // head_dim // 2 * 2))


_partial = unless(
    lambda s: (
        not any(
            card.rope is not None
            and card.latent is None
            and card.rope.scaling is None
            and card.rope.rotary_dim < s.config.head_dim
            for card in looking_back(s.config)
        )
    ),
    "all dimensions turn",
)

ROPE: tuple[ModelMutant, ...] = (
    model_mutant(
        "rope.pairing-swapped",
        "dimension j turns with j + 1 in place of j + d/2, or the other way round",
        Q,
        rope_cards(
            lambda c: replace(c, pairing="half" if c.pairing == "interleaved" else "interleaved")
        ),
        why_not=_turns,
    ),
    model_mutant(
        "rope.theta-default",
        "theta is 10000, whatever the checkpoint says",
        Q,
        rope_cards(lambda c: replace(c, theta=1e4)),
        why_not=any_rope(lambda c: c.theta != 1e4, "theta is 10000"),
    ),
    model_mutant(
        "rope.fraction-ignored",
        "all dimensions turn where a part of them must not",
        Q,
        lambda s: rope_cards(lambda c: replace(c, rotary_dim=s.config.head_dim))(s),
        why_not=_partial,
    ),
    model_mutant(
        "rope.fraction-twice",
        "the part that turns is taken of itself once more",
        Q,
        lambda s: rope_cards(lambda c: _fraction_twice(s.config.head_dim, c))(s),
        case="vllm#30384",
        why_not=_partial,
    ),
    model_mutant(
        "rope.scaling-lost",
        "the angles are not stretched for the longer context",
        Q,
        rope_cards(lambda c: replace(c, scaling=None)),
        case="sglang#22711",
        why_not=any_rope(lambda c: c.scaling is not None, "the angles are not scaled"),
    ),
    model_mutant(
        "rope.attention-factor-lost",
        "cosines and sines are not multiplied by YaRN's attention factor",
        Q,
        rope_cards(without_factor),
        case="LLMs-from-scratch#940",
        why_not=any_rope(lambda c: magnitude(c) != 1, "the attention factor is 1"),
    ),
    model_mutant(
        "rope.ramp-truncation",
        "YaRN's ramp begins and ends at whole dimensions where it must not, or the other way round",
        Q,
        rope_cards(other_ramp),
        why_not=any_rope(ramp_matters, "both ramps are the same"),
    ),
    model_mutant(
        "rope.backwards",
        "heads are turned by minus the angle",
        Q,
        turning(backwards),
        why_not=_turns,
    ),
    model_mutant(
        "rope.twice",
        "heads are turned twice",
        Q,
        turning(twice),
        why_not=_turns,
    ),
    model_mutant(
        "rope.queries-one-further",
        "the query of a token is turned as if it came one position later than its key",
        Q,
        queries_further,
        why_not=first_of(_turns, not_latent),
    ),
    model_mutant(
        "rope.keys-unturned",
        "queries are turned, keys are not",
        K,
        keys_unturned,
        why_not=first_of(_turns, not_latent),
    ),
    model_mutant(
        "rope.everywhere",
        "layers without positions get rope too",
        Q,
        default_rope,
        why_not=first_of(_turns, any_card(lambda c: c.rope is None, "every layer has rope")),
    ),
    model_mutant(
        "rope.positions-from-one",
        "positions are counted from 1: other queries and keys, the same scores",
        Q,
        turning(one_further),
        why_not=first_of(
            _turns,
            any_card(
                lambda c: not c.qk_norm_after_rope or c.qk_norm in ("none", "unit"),
                "a norm after rope, whose weights do not turn, makes it another function",
            ),
        ),
        equivalent=True,
    ),
)
