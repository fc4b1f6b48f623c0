"""Rules on scales of activations and of the key/value cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import median

from tinymoe.oracle.lint.exclusion import quantised_modules
from tinymoe.oracle.lint.parts import role
from tinymoe.oracle.lint.registry import Found, many, rule, share
from tinymoe.oracle.lint.scales import MATRICES, by_layer, mismatch
from tinymoe.oracle.lint.subject import Subject

# the largest share of experts' input scales that one maximum for all of them can serve: beyond
# it the quietest experts' blocks lose most of the 17 powers of two that E4M3 has (448 / 2^-9)
WILD = 100.0
LOUD = 2e4  # largest activation in the middle of a model's matrices: 1 to 1,000 in practice
_STATIC = ("NVFP4", "FP8")  # of ModelOpt: with input scales
FULL = {"U8": 2688.0, "F8_E4M3": 448.0}  # 6 * 448: two levels of scales in FP4
_KEYS = re.compile(r"\.(k_proj|qkv_proj|kv_a_proj_with_mqa)\.weight")


@rule(
    "input-scale-missing",
    "error",
    *("vllm#54189", "sglang#23625", "sglang#14102"),
    engine="takes 1.0 or what the memory held for it: activations saturate, or experts give zero",
)
def input_scale_missing(subject: Subject) -> Iterator[Found]:
    """Some quantised matrices have an input scale, and others of the same kind have none."""
    with_scale, without = dict[str, int](), dict[str, list[str]]()
    for module in quantised_modules(subject):
        if module.parts.get("input"):
            with_scale[role(module.stem)] = with_scale.get(role(module.stem), 0) + 1
        else:
            without.setdefault(role(module.stem), []).append(module.stem)
    said = [s for s in subject.said.values() if s.get("quant_algo") in _STATIC]
    if without and not with_scale and any(s.get("activation_scheme") != "dynamic" for s in said):
        algo, count = said[0]["quant_algo"], sum(map(len, without.values()))
        says = f"quant_algo {algo!r} quantises activations by a stored scale, and none of "
        yield Found(
            says + f"{many(count, *MATRICES)} has one", [n for s in without.values() for n in s]
        )
    lost = {kind: stems for kind, stems in without.items() if kind in with_scale}
    names = [name for stems in lost.values() for name in stems]
    if names:
        total = len(names) + sum(with_scale[kind] for kind in lost)
        says = (
            f"no input scale, though others of the same kind have one: {share(len(names), total)} "
        )
        says += "matrices"
        yield Found(says, names, {"missing": len(names), "of": total})


@rule(
    "input-scale-spread",
    "warning",
    *("vllm#26135", "sglang#21602", "sglang#23531"),
    engine="takes one maximum over all or the local experts, so that outputs depend on how experts "
    "are spread over GPUs and quiet experts lose bits",
)
def input_scale_spread(subject: Subject) -> Iterator[Found]:
    """Input scales of a layer's experts differ wildly."""
    wild: list[tuple[float, str, dict[str, float]]] = []
    layers = by_layer(subject, "input")
    for place, numbers in layers.items():
        ratio = max(numbers.values()) / min(numbers.values())
        if ratio > WILD:
            wild.append((ratio, place, numbers))
    if wild:
        wild.sort(key=lambda item: -item[0])
        ratio, place, numbers = wild[0]
        ends = [min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)]
        says = f"in {share(len(wild), len(layers))} sets of a layer's experts input scales are "
        says += f"more than {WILD:g} times apart, at worst {ratio:.3g} in {place}"
        yield Found(says, ends, {"sets": len(wild), "of": len(layers), "worst_ratio": ratio})


@rule(
    "input-scale-mismatch",
    "warning",
    *("vllm#26135", "sglang#36597"),
    engine="quantises the input that the matrices share once, by one of the scales",
)
def input_scale_mismatch(subject: Subject) -> Iterator[Found]:
    """Matrices that read the same input were given different input scales."""
    yield from mismatch(subject, "input")


@rule(
    "input-scale-convention",
    "error",
    *("modular#6600", "sglang#23625"),
    engine="quantises activations by the inverse: all of them saturate, or all become zero",
)
def input_scale_convention(subject: Subject) -> Iterator[Found]:
    """Taken as named, the middle input scale makes activations absurdly large; inverted it not."""
    found: dict[str, dict[str, float]] = {}
    for module in quantised_modules(subject):
        for name, meaning in module.parts.get("input", []):
            seen = subject.scales.numbers.get(name)
            full = FULL.get(module.dtype)
            if seen is not None and seen.largest > 0 and not seen.bad and full is not None:
                value = seen.largest if meaning == "multiplier" else 1 / seen.largest
                found.setdefault(f"{meaning} {full:g}", {})[name] = full * value
    for key, loudest in found.items():
        full = float(key.split()[1])
        named = median(loudest.values())
        inverted = full * full / named
        if named > LOUD and 0.05 < inverted < LOUD:
            says = f"as named, the {len(loudest):,} input scales speak of activations up to "
            says += f"{named:.3g} (median); inverted, of {inverted:.3g}"
            yield Found(says, list(loudest), {"as_named": named, "inverted": inverted})


@rule(
    "pre-quant-scale",
    "warning",
    *("vllm-omni#5087",),
    engine="does not multiply the input by it, or drops it: every channel is off by its own factor",
)
def pre_quant_scale(subject: Subject) -> Iterator[Found]:
    """A factor for each input channel (AWQ, SVDQuant) that must be multiplied in first."""
    names = [n for m in subject.modules.values() for n, _ in m.parts.get("pre_quant", [])]
    if names:
        says = f"a pre_quant_scale, which few engines know, in {many(len(names), *MATRICES)}"
        yield Found(says, names, {"count": len(names)})


def _announced(subject: Subject) -> str:
    """What config.json says of a quantised cache with stored scales; "" for nothing."""
    for where, said in subject.said.items():
        algo, scheme = said.get("kv_cache_quant_algo"), said.get("kv_cache_scheme")
        if algo not in (None, "", "none", "None"):
            return f"kv_cache_quant_algo {algo!r} in {where}"
        if isinstance(scheme, dict) and scheme and not scheme.get("dynamic"):
            return f"a kv_cache_scheme in {where}"
    return ""


def _layer(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d{1,9})\.", name)
    return None if found is None else int(found[1])


@rule(
    "cache-scale-missing",
    "error",
    *("vllm#35656", "sglang#39942"),
    engine="takes 1.0 for it, without a word: keys and values above 448 clip, small ones vanish",
)
def cache_scale_missing(subject: Subject) -> Iterator[Found]:
    """A quantised key/value cache is announced, and layers have no scales for it."""
    said = _announced(subject)
    if not said:
        return
    names = [n for m in subject.modules.values() for n, _ in m.parts.get("cache", [])]
    have: dict[str, set[int]] = {"k": set(), "v": set()}
    for name in names:
        last, layer = name.rpartition(".")[2], _layer(name)
        either = last in ("kv_scale",)
        if layer is not None:
            for letter in "kv":
                if either or last == f"{letter}_scale" or f".{letter}_proj." in name:
                    have[letter].add(layer)
    layers = {  # that have keys: layers of linear attention have none
        layer
        for name in subject.names
        if _KEYS.search(name) and not subject.past_the_end(name)
        if (layer := _layer(name)) is not None
    }
    lost = [f"{letter}_scale of layer {i}" for i in sorted(layers) for letter in "kv"
            if i not in have[letter]]  # fmt: skip
    if lost:
        says = f"{said}, and {share(len(lost), 2 * len(layers))} of its scales are not stored"
        yield Found(says, lost, {"missing": len(lost), "layers": len(layers)})


@rule(
    "cache-scale-unannounced",
    "warning",
    *("vllm#35656",),
    engine="drops them at load; asked for an FP8 cache later, it runs with 1.0",
)
def cache_scale_unannounced(subject: Subject) -> Iterator[Found]:
    """Scales of keys and values are stored, and config.json does not speak of them."""
    names = [n for m in subject.modules.values() for n, _ in m.parts.get("cache", [])]
    if names and not _announced(subject):
        says = f"{many(len(names), 'scale')} of keys and values; config.json has neither "
        yield Found(says + "kv_cache_quant_algo nor a kv_cache_scheme", names)
