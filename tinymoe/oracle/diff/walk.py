"""Two traces, walked in the order of execution, and the first tensor that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tinymoe.core import Array, ModelConfig, Numerics, TinymoeError
from tinymoe.model.params import MoeParams, Params
from tinymoe.model.router import select
from tinymoe.oracle.diff.references import Forced, References, moe_layers, references
from tinymoe.oracle.diff.routing import (
    Flip,
    choices,
    flips_of,
    logits_ulp,
    own_choice,
    slots_like,
)
from tinymoe.oracle.diff.tensors import (
    ROUNDOFF,
    Bound,
    TensorDiff,
    bound_of,
    compare,
    multiple_of,
    wrong_shape,
)

Trace = Mapping[str, Array]

# A gap counts as a tie up to so many times what the stated numerics move the gaps of that row by.
# Of correct engines (as in `tensors.MULTIPLE`) the largest ratio of a mismatch was 0.91.
TIE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a comparison found. `first` is None where the engine agrees."""

    mode: str  # "three-way", "local", "two-way"
    numerics: str
    replay: bool
    tensors: tuple[TensorDiff, ...]  # in the order of execution
    flips: tuple[Flip, ...]
    first: TensorDiff | None
    wrong: tuple[str, ...]  # first wrong tensor of each part that was judged by itself
    missing: tuple[str, ...]  # taps of the reference that the engine's trace lacks
    extra: tuple[str, ...]  # names of the engine's trace that are no taps of this model
    order: tuple[str, ...]  # all taps of the reference, in the order of execution
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong."""
        return self.first is None

    @property
    def before(self) -> str | None:
        """The last tensor before the first wrong one: it was right."""
        names = [t.name for t in self.tensors]
        if self.first is None or self.first.name not in names:
            return None
        place = names.index(self.first.name)
        return names[place - 1] if place else None


def diff(
    params: Params,
    config: ModelConfig,
    mine: Trace,
    numerics: Numerics,
    *,
    replay: bool = False,
) -> Report:
    """Judge an engine's trace by the model: exact, emulated at `numerics`, theirs.

    `mine` holds `tokens` and any taps, ids among them if close calls shall be told from faults.
    `replay`: the engine's experts are taken as given, for every token, and are no fault.
    """
    ids = tokens_of(mine)
    names = check_names(mine, config)
    given = engine_ids(mine, config)
    everything = {n: Forced(i, choices(i, config.router)) for n, i in given.items()}
    runs = references(params, config, ids, numerics, everything)
    flips = judge_routing(params, config, mine, runs, numerics)
    faults = {(flip.layer, flip.token) for flip in flips if flip.why != "tie"}
    if faults and not replay:
        # only ties follow the engine; a real fault is judged by what it should have been
        ties = {
            n: Forced(f.ids, f.tokens & ~np.array([(n, t) in faults for t in range(len(ids))]))
            for n, f in everything.items()
        }
        runs = references(params, config, ids, numerics, ties)
    tensors = tuple(judge(runs, mine, flips, config, numerics, replay))
    missing = [n for n in runs.exact if n not in mine and not n.endswith("expert_out")]
    extra = sorted(set(mine) - set(runs.exact))
    first = next((t for t in tensors if t.status != "agrees"), None)
    return Report(
        mode="three-way",
        numerics=numerics.name,
        replay=replay,
        tensors=tensors,
        flips=tuple(flips),
        first=first,
        wrong=() if first is None else (first.name,),
        missing=tuple(missing),
        extra=tuple(extra),
        order=tuple(runs.exact),
        notes=tuple(notes_on(names, given, config, numerics)),
    )


def tokens_of(mine: Trace) -> list[int]:
    """The token ids that the trace is of."""
    if "tokens" not in mine:
        raise TinymoeError(
            "the trace has no 'tokens', so nobody knows what it is of: add the token ids (T,) to "
            "the file under that name, or give them with --ids 5,6,7; it has "
            f"{sorted(mine)[:5]}"
        )
    tokens = np.asarray(mine["tokens"])
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise TinymoeError(
            f"tokens: expected whole numbers (T,), got {tokens.dtype} of shape {tokens.shape}"
        )
    return [int(token) for token in tokens]


def check_names(mine: Trace, config: ModelConfig) -> list[str]:
    """The engine's taps besides the tokens; an error if none of them is one."""
    known = ("embed", "final_norm", "logits")
    names = [n for n in mine if n in known or n.startswith("layers.")]
    if not names:
        raise TinymoeError(
            f"no tap to compare: the trace has {sorted(mine)[:8]}; names look like 'embed', "
            "'layers.0.router.ids', 'logits' (python -m tinymoe trace --list shows them all)"
        )
    return names


def engine_ids(mine: Trace, config: ModelConfig) -> dict[int, Array]:
    """By MoE layer, the engine's ids (T, K) as int64, where the trace has them in that shape."""
    shape, found = (len(mine["tokens"]), config.router.top_k), {}
    for layer in moe_layers(config):
        ids = mine.get(f"layers.{layer}.router.ids")
        if ids is not None and ids.shape == shape and np.isfinite(ids).all():
            found[layer] = np.asarray(ids).astype(np.int64)
    return found


def judge_routing(
    params: Params, config: ModelConfig, mine: Trace, runs: References, numerics: Numerics
) -> list[Flip]:
    """All tokens on other experts, with what their scores say; the runs follow the engine."""
    flips: list[Flip] = []
    for layer, ids in engine_ids(mine, config).items():
        name, choice, moe = f"layers.{layer}.router", runs.choices[layer], params.layers[layer].ffn
        assert isinstance(moe, MoeParams)
        rounding = 2 * ROUNDOFF[numerics.accumulate] * np.abs(choice.values).max(-1)
        tie = TIE * moved(runs, f"{name}.scores") + rounding
        exact_ids = select(choice.values, None, config.router)[0]
        own = own_choice(mine.get(f"{name}.scores"), moe.selection_bias)
        ulp = logits_ulp(config.router, numerics)
        flips += flips_of(layer, config.router, exact_ids, choice, ids, tie, own, ulp)
    return flips


def moved(runs: References, name: str) -> Array:
    """The most by which the stated numerics move a gap between two scores of a token: (T,).

    A row's own, but no less than the mean of the rows: a row may be exact by luck.
    """
    exact = runs.exact[name]
    errors = np.stack([run[name].astype(np.float64) - exact for run in runs.emulated])
    gaps_moved = (errors.max(-1) - errors.min(-1)).max(0)
    return np.maximum(gaps_moved, gaps_moved.mean())


def bounds(runs: References, name: str, numerics: Numerics) -> Bound:
    """Of one tap."""
    emulated = [aligned(run, name, runs.exact) for run in runs.emulated]
    found = bound_of(name, runs.exact[name], emulated, numerics.storage, multiple_of(numerics))
    if name.endswith("router.margin"):  # a difference of two scores: it has both their errors
        scores = name.removesuffix("margin") + "scores"
        of_scores = bounds(runs, scores, numerics).entries
        top = np.abs(runs.exact[scores]).max()
        size = np.abs(runs.exact[name]).max()
        least = 2 * of_scores * float(top / size) if size and np.isfinite(size) else np.inf
        return Bound(max(found.rows, least), max(found.entries, least))
    return found


def aligned(run: Trace, name: str, like: Trace) -> Array:
    """A tap of slots (T, K, ...) in the order of the other run's ids; others as they are."""
    value = run[name]
    if not name.endswith(("router.weights", "moe.expert_out")):
        return value
    ids_name = f"{'.'.join(name.split('.')[:2])}.router.ids"
    ids, wanted = run.get(ids_name), like[ids_name]
    if ids is None or ids.shape != wanted.shape or value.shape[:2] != ids.shape:
        return value
    places = slots_like(np.asarray(ids).astype(np.int64), wanted)
    places = places.reshape(*places.shape, *(1,) * (value.ndim - 2))
    return np.take_along_axis(value, places, axis=1)


def judge(
    runs: References,
    mine: Trace,
    flips: list[Flip],
    config: ModelConfig,
    numerics: Numerics,
    replay: bool,
) -> Iterator[TensorDiff]:
    """Every tap that both have, in the order of execution."""
    for name, exact in runs.exact.items():
        if name not in mine:
            continue
        engine = mine[name]
        if engine.shape != exact.shape:
            yield wrong_shape(name, exact, engine)
        elif name.endswith("router.ids"):
            yield judge_ids(name, exact, engine, flips, replay)
        else:
            yield compare(
                name, exact, aligned(mine, name, runs.exact), bounds(runs, name, numerics)
            )


def judge_ids(
    name: str, exact: Array, engine: Array, flips: list[Flip], replay: bool
) -> TensorDiff:
    """Ids as sets; the note says what kind of mismatch there is."""
    layer = int(name.split(".")[1])
    here = [flip for flip in flips if flip.layer == layer]
    faults = [] if replay else [flip for flip in here if flip.why != "tie"]
    found = compare(name, np.sort(exact), np.sort(engine), Bound(np.inf, np.inf))
    rows = {flip.token for flip in faults}
    return replace(
        found,
        status="differs" if faults else "agrees",
        excess=np.inf if faults else 0.0,
        outside=len(rows) / len(exact),
        limit=0.0,
        note=told(here) if here else found.note,
    )


def told(flips: list[Flip]) -> str:
    """One line about a layer's mismatches."""
    count = f"{len(flips)} token{'s' * (len(flips) > 1)} on other experts"
    if all(flip.why == "tie" for flip in flips):
        most = max(flip.ulps for flip in flips)
        return f"{count}, all close calls: the largest gap is {most:.3g} ulp"
    parts = []
    for why in dict.fromkeys(flip.why for flip in flips):
        kind = [flip for flip in flips if flip.why == why]
        if why == "tie":
            parts.append(f"{len(kind)} close calls")
        elif why == "not a choice":
            parts.append(f"{len(kind)} with an id twice or out of range")
        else:
            gap, ulps = min((flip.gap, flip.ulps) for flip in kind)
            parts.append(f"{len(kind)} {why}, the smallest gap {gap:.3g} ({ulps:.3g} ulp)")
    return f"{count}: {'; '.join(parts)}"


def notes_on(
    names: list[str], given: Mapping[int, Array], config: ModelConfig, numerics: Numerics
) -> Iterator[str]:
    """What the reader should know of how it was judged."""
    lacking = [layer for layer in moe_layers(config) if layer not in given]
    if lacking and any(name.startswith("layers.") or name == "logits" for name in names):
        yield (
            f"no router.ids of layers {', '.join(map(str, lacking))}: a close call that fell the "
            "other way there would show as an error"
        )
    multiple = multiple_of(numerics)
    yield f"bounds: {multiple:g} times the error of the stated numerics, tensor by tensor"
