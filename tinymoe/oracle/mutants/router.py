"""Wrong routers: 14 of 70 collected engine bugs are in these five steps, 6 more in the scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.model.router import pick, softmax
from tinymoe.oracle.mutants.mutant import (
    ModelMutant,
    first_of,
    model_mutant,
    moe_of,
    moe_params,
    router_card,
    unless,
)
from tinymoe.oracle.mutants.rerouting import (
    LOGITS,
    SCORES,
    WEIGHTS,
    added,
    after,
    cancelled,
    invert_renorm,
    logits_changed,
    needs,
    needs_bias,
    needs_score_weights,
    needs_two,
    no_moe,
    over_the_batch,
    relabelling,
    renorm_matters,
    softmax_of_all,
    weighing,
)

_softmax = needs(lambda c: c.score == "softmax", "the scores are no softmax")
_sigmoid = needs(lambda c: c.score == "sigmoid", "the scores are no sigmoid")
_of_chosen = needs(
    lambda c: c.weight_from == "softmax_of_chosen", "the weights are no softmax of the chosen"
)
_renormalised_softmax = needs(
    lambda c: (
        c.score == "softmax"
        and c.weight_from == "score"
        and c.renormalise
        and c.renorm_epsilon == c.renorm_floor == 0
    ),
    "the router is no renormalised softmax",
)

ROUTER: tuple[ModelMutant, ...] = (
    model_mutant(
        "router.rows-off-by-one",
        "row e of the router's matrix is taken for expert e + 1",
        LOGITS,
        moe_params(lambda moe: replace(moe, router=np.roll(moe.router, 1, axis=0))),
        why_not=no_moe,
    ),
    model_mutant(
        "router.logits-bf16",
        "the logits are kept in bf16 where the model asks for float32",
        LOGITS,
        logits_changed(lambda x: round_to_bf16(x.astype(np.float32)).astype(x.dtype)),
        case="sglang#29783",
        why_not=needs(
            lambda c: c.logits_dtype == "float32", "the model keeps its logits in its own type"
        ),
    ),
    model_mutant(
        "router.logits-untransposed",
        "the logits (E, T) are read as (T, E) without a transpose",
        LOGITS,
        logits_changed(lambda x: np.ascontiguousarray(x.T).reshape(x.shape)),
        case="transformers#40609",
        why_not=no_moe,
    ),
    model_mutant(
        "router.logit-bias-lost",
        "the bias of the router's linear layer is left out",
        LOGITS,
        moe_params(lambda moe: replace(moe, router_bias=None)),
        case="flashinfer#3423",
        why_not=first_of(
            no_moe,
            unless(
                lambda s: (m := moe_of(s)) is None or m.router_bias is None,
                "the router's linear layer has no bias",
            ),
        ),
    ),
    model_mutant(
        "router.softmax-for-sigmoid",
        "scores are a softmax over the experts in place of a sigmoid of each",
        SCORES,
        router_card(score="softmax"),
        case="llama.cpp#18980",
        why_not=_sigmoid,
    ),
    model_mutant(
        "router.sigmoid-for-softmax",
        "scores are a sigmoid of each logit in place of a softmax over the experts",
        SCORES,
        router_card(score="sigmoid"),
        why_not=_softmax,
    ),
    model_mutant(
        "router.renorm-inverted",
        "weights are divided by their sum where they must not be, or the other way round",
        WEIGHTS,
        invert_renorm,
        case="torchtitan#1448",
        why_not=first_of(no_moe, renorm_matters),
    ),
    model_mutant(
        "router.raw-logits-as-weights",
        "without renormalisation the raw logits come back as weights",
        WEIGHTS,
        weighing(lambda r, bias, card: pick(r.logits, r.ids)),
        case="sglang#35160",
        why_not=first_of(
            needs_score_weights,
            needs(lambda c: not c.renormalise, "the weights are renormalised"),
            needs(lambda c: c.score != "identity", "the scores are the logits"),
        ),
    ),
    model_mutant(
        "router.bias-in-weights",
        "the selection bias is part of the weights, where it may only choose",
        WEIGHTS,
        weighing(lambda r, bias, card: pick(added(r, bias), r.ids)),
        case="vllm#12002",
        why_not=first_of(needs_bias, needs_score_weights),
    ),
    model_mutant(
        "router.weight-by-cancellation",
        "the weight is recovered as (score + bias) - bias in bf16",
        WEIGHTS,
        weighing(cancelled),
        case="vllm#47367",
        why_not=first_of(needs_bias, needs_score_weights),
    ),
    model_mutant(
        "router.softmax-over-all",
        "weights are probabilities over all experts in place of those over the chosen",
        WEIGHTS,
        weighing(softmax_of_all),
        case="torchtitan#2258",
        why_not=_of_chosen,
    ),
    model_mutant(
        "router.weights-reversed",
        "the weights of a token are in the reverse order of its experts",
        WEIGHTS,
        relabelling(lambda ids, weights: (ids, weights[:, ::-1]), experts=False),
        why_not=needs_two,
    ),
    model_mutant(
        "router.mixer-as-softmax",
        "sparsemixer's two weights are taken from one softmax over all experts",
        WEIGHTS,
        weighing(softmax_of_all),
        why_not=needs(lambda c: c.weight_from == "sparsemixer", "the router is no sparsemixer"),
    ),
    model_mutant(
        "router.normalised-over-batch",
        "the one weight of a token is divided by the sum over the batch",
        WEIGHTS,
        after(over_the_batch),
        case="megablocks#87",
        why_not=needs(lambda c: c.top_k == 1, "more than one expert per token"),
    ),
    model_mutant(
        "router.sigmoid-of-chosen-softmaxed",
        "the chosen experts' sigmoids are replaced by a softmax over the chosen",
        WEIGHTS,
        weighing(lambda r, bias, card: softmax(pick(r.logits, r.ids))),
        why_not=needs(
            lambda c: c.top_k > 1 and "sigmoid" in (c.score, c.weight_from.partition("_")[0]),
            "the weights are not the sigmoids of several experts",
        ),
    ),
    model_mutant(
        "router.softmax-after-top-k",
        "softmax over the chosen logits in place of softmax over all, then renormalise: the same "
        "function, to the last bits",
        WEIGHTS,
        router_card(weight_from="softmax_of_chosen", renormalise=False),
        case="vllm#43223",
        why_not=_renormalised_softmax,
        equivalent=True,
    ),
)
