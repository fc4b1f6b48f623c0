"""A mutant: one named wrong variant of one step of the definition, and the helpers to write one.

The definition is never edited. A mutant of the model changes the value that drives it (a card), the
weights it is given, or one op; a mutant of a format reads stored bytes wrongly; a mutant of the
sampler turns a row of logits into the wrong distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from tinymoe.core import Array, AttentionCard, ModelConfig, QuantTensor, Sampling
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import AttentionParams, LatentParams, LayerParams, MoeParams, Params
from tinymoe.model.weights import QuantisedInput, Weight


class Setup(NamedTuple):
    """What a forward pass computes with: everything but the tokens and the numerics."""

    config: ModelConfig
    params: Params
    ops: Ops = DEFINITION


class Row(NamedTuple):
    """One row for the sampler; fields as in `sampler.masked_probabilities`."""

    logits: Array  # (V,)
    sampling: Sampling
    prompt_ids: Sequence[int] = ()
    output_ids: Sequence[int] = ()
    end_ids: Sequence[int] = ()


# One stored matrix, or the several that one fused product reads (gate, then up).
Stored: TypeAlias = tuple[QuantTensor, ...]
Values: TypeAlias = tuple[Array, ...]  # what they stand for, float32, in the same order

Kind = Literal["model", "format", "sampler"]
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant(Generic[Given, Made]):
    """One wrong variant.

    `first_tap` is a shell pattern of the tap that changes first, in execution order, in a trace
    that holds every tap (`moe.expert_out` too); what comes before stays the same bit for bit, ids
    taken as sets, as their order follows the weights. It is "" where no tap changes,
    "weights" for a format (the matrix's values) and "probabilities" for the sampler.
    """

    name: str  # step.what-is-wrong
    kind: Kind
    says: str  # what is wrong, for whoever reads a diagnosis
    case: str  # the public bug it stands for, as repository#number; empty where there is none
    first_tap: str
    why_not: Callable[[Given], str | None]  # why it means nothing here; None: it applies
    apply: Callable[[Given], Made]
    equivalent: bool = False  # the same function in other words: no engine is wrong to do this

    @property
    def step(self) -> str:
        """The part of the computation that is wrong: router, experts, rope, ..."""
        return self.name.partition(".")[0]

    def applies(self, given: Given) -> bool:
        """Whether the wrong variant is another function than the right one here."""
        return self.why_not(given) is None


ModelMutant: TypeAlias = Mutant[Setup, Setup]
FormatMutant: TypeAlias = Mutant[Stored, Values]
SamplerMutant: TypeAlias = Mutant[Row, Array]

Change: TypeAlias = Callable[[Setup], Setup]
WhyNot: TypeAlias = Callable[[Setup], str | None]


def always(given: object) -> None:
    """It applies wherever there is such a step."""


def unless(missing: Callable[[Setup], bool], why: str) -> WhyNot:
    """It applies unless `missing`, and then says why."""
    return lambda setup: why if missing(setup) else None


def first_of(*reasons: WhyNot) -> WhyNot:
    """It applies if nothing speaks against it."""

    def why(setup: Setup) -> str | None:
        return next((said for reason in reasons if (said := reason(setup)) is not None), None)

    return why


# ------------------------------------------------------------------------------- three ways


def router_card(**changes: Any) -> Change:
    """Fields of the router's card replaced."""
    return lambda setup: setup._replace(
        config=replace(setup.config, router=replace(setup.config.router, **changes))
    )


def on_values(weight: Weight, change: Callable[[Array], Array]) -> Weight:
    """A matrix or stack changed, whatever becomes of its input."""
    if isinstance(weight, QuantisedInput):
        return QuantisedInput(change(weight.values), weight.inputs)
    return change(weight)


def looking_back(config: ModelConfig) -> list[AttentionCard]:
    """Cards of the layers that look back at keys; a layer with a state has another kind."""
    return [card for card in config.attention if isinstance(card, AttentionCard)]


def attention_cards(change: Callable[[AttentionCard], AttentionCard]) -> Change:
    """Every layer's attention card changed."""

    def apply(setup: Setup) -> Setup:
        cards = tuple(
            change(card) if isinstance(card, AttentionCard) else card  # others keep a state
            for card in setup.config.attention
        )
        return setup._replace(config=replace(setup.config, attention=cards))

    return apply


def layers(change: Callable[[LayerParams], LayerParams]) -> Change:
    """Every layer's weights changed."""

    def apply(setup: Setup) -> Setup:
        changed = tuple(change(layer) for layer in setup.params.layers)
        return setup._replace(params=replace(setup.params, layers=changed))

    return apply


def moe_params(change: Callable[[MoeParams], MoeParams]) -> Change:
    """The weights of every MoE layer's router and experts changed."""

    def one(layer: LayerParams) -> LayerParams:
        fed = layer.ffn
        return replace(layer, ffn=change(fed)) if isinstance(fed, MoeParams) else layer

    return layers(one)


def attention_params(change: Callable[[AttentionParams], AttentionParams]) -> Change:
    """The weights of every layer's attention changed, where it is not latent."""

    def one(layer: LayerParams) -> LayerParams:
        own = layer.attention
        return replace(layer, attention=change(own)) if isinstance(own, AttentionParams) else layer

    return layers(one)


def latent_params(change: Callable[[LatentParams], LatentParams]) -> Change:
    """The weights of every layer's latent attention changed."""

    def one(layer: LayerParams) -> LayerParams:
        own = layer.attention
        return replace(layer, attention=change(own)) if isinstance(own, LatentParams) else layer

    return layers(one)


def wrapped(member: str, wrapper: Callable[..., Any]) -> Change:
    """One op replaced: `wrapper(original, *arguments)` is called in its place."""

    def apply(setup: Setup) -> Setup:
        original = getattr(setup.ops, member)

        def op(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        replaced: dict[str, Any] = {member: op}
        return setup._replace(ops=replace(setup.ops, **replaced))

    return apply


def then(*changes: Change) -> Change:
    """One change after the other."""

    def apply(setup: Setup) -> Setup:
        for change in changes:
            setup = change(setup)
        return setup

    return apply


def model_mutant(
    name: str,
    says: str,
    first_tap: str,
    apply: Change,
    *,
    case: str = "",
    why_not: WhyNot = always,
    equivalent: bool = False,
) -> ModelMutant:
    """A mutant of the model, its fields in the order of a sentence."""
    return Mutant(
        name=name,
        kind="model",
        says=says,
        case=case,
        first_tap=first_tap,
        why_not=why_not,
        apply=apply,
        equivalent=equivalent,
    )


def moe_of(setup: Setup) -> MoeParams | None:
    """The first MoE layer's weights; None in a model without one."""
    return next((x.ffn for x in setup.params.layers if isinstance(x.ffn, MoeParams)), None)
