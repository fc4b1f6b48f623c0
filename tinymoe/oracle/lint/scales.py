"""Rules on the numbers in scales of weights."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tinymoe.oracle.lint.parts import Kind, Module, role
from tinymoe.oracle.lint.registry import Found, many, rule, share
from tinymoe.oracle.lint.samples import Numbers
from tinymoe.oracle.lint.subject import Subject

CODE = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0, "U8": 6.0, "I8": 127.0}  # largest value of a code
MATRICES = ("matrix", "matrices")
# where the largest weight of a matrix lies; a scale turned upside down is off by its square
LEAST, MOST = 3e-5, 3e3
# matrices that engines fuse and then give one tensor scale
FUSED = (
    (("gate_proj", "up_proj"), "gate and up"),
    (("w1", "w3"), "gate and up"),
    (("q_proj", "k_proj", "v_proj"), "query, key and value"),
    (("q_a_proj", "kv_a_proj_with_mqa"), "latent query and key"),
)


@rule(
    "scale-invalid",
    "error",
    *("sglang#22928", "flashinfer#4486", "flashinfer#4741"),
    engine="turns a block, and from there the whole row of activations, into NaN; a sign is "
    "dropped by tensor cores and not by others",
)
def scale_invalid(subject: Subject) -> Iterator[Found]:
    """A scale is NaN (E4M3 byte 127, E8M0 byte 255), infinite or negative, or of a strange type."""
    for what, says in (("bad", "NaN or infinite"), ("negative", "negative")):
        counts = {n: c for n, x in subject.scales.numbers.items() if (c := getattr(x, what))}
        if counts:
            read = sum(subject.scales.numbers[name].count for name in counts)
            total = sum(counts.values())
            message = f"{says}: {total:,} of {read:,} scales read in {many(len(counts), 'tensor')}"
            yield Found(message, list(counts), {"values": total, "tensors": len(counts)})
    strange = subject.scales.unreadable
    if strange:
        kinds = ", ".join(sorted(set(strange.values())))
        yield Found(f"of a type that no scale has, {kinds}: {many(len(strange), 'tensor')}",
                    list(strange), {"tensors": len(strange)})  # fmt: skip


@rule(
    "scale-zero",
    "error",
    *("flashinfer#3398", "llama.cpp#23629"),
    engine="multiplies the whole matrix by zero, or divides by it",
)
def scale_zero(subject: Subject) -> Iterator[Found]:
    """A whole tensor of scales is zero, or has no elements."""
    numbers = subject.scales.numbers
    empty = [name for name, seen in numbers.items() if seen.count == 0]
    if empty:
        yield Found(
            f"no elements: {many(len(empty), 'tensor')} of scales", empty, {"tensors": len(empty)}
        )
    zero = [name for name, seen in numbers.items() if seen.count and seen.zero == seen.count]
    if zero:
        says = (
            f"zero throughout, as far as was read: {share(len(zero), len(numbers))} scale tensors"
        )
        yield Found(says, zero, {"tensors": len(zero)})


def _usable(seen: Numbers | None) -> bool:
    """Whether magnitudes can be judged: what is broken has rules of its own."""
    return seen is not None and seen.largest > 0 and not seen.bad


def largest_weight(subject: Subject, module: Module) -> tuple[float, float] | None:
    """Of a matrix, as its largest scale allows: as its names say, and with a scale inverted.

    Inverted is the tensor scale, or where there is none the block scale. None where one is
    missing. An encoder makes the largest code of the loudest block a full one, so what the scale
    allows is the weight itself.
    """
    local = subject.scales.numbers.get(module.of("local") or "")
    if local is None or not _usable(local) or module.dtype not in CODE:
        return None
    code = CODE[module.dtype]
    if not module.parts.get("global"):
        return code * local.largest, code / local.largest
    name, meaning = module.parts["global"][0]
    seen = subject.scales.numbers.get(name)
    if seen is None or not _usable(seen):
        return None
    values = code * local.largest * seen.largest, code * local.largest / seen.largest
    return values if meaning == "multiplier" else values[::-1]


@rule(
    "scale-convention",
    "error",
    *("modular#6600",),
    engine="multiplies by a divisor, or divides by a multiplier: weights off by its square, some "
    "1e-9 or 1e9",
)
def scale_convention(subject: Subject) -> Iterator[Found]:
    """Decoded as the names say, the largest weight is absurd; with a scale inverted it is not."""
    upside_down: dict[str, tuple[float, float]] = {}
    for module in subject.modules.values():
        both = {meaning for _, meaning in module.parts.get("global", [])}
        if len(both) > 1:
            names = [name for name, _ in module.parts["global"]]
            yield Found(
                "a multiplier and a divisor beside each other, and nothing says which one holds",
                names,
            )
        values = largest_weight(subject, module) if module.quantised else None
        if values is None or LEAST <= values[0] <= MOST:
            continue
        if LEAST <= values[1] <= MOST:
            name = module.of("global") or module.of("local") or module.stem
            upside_down[name] = values
    if upside_down:
        name, (named, inverted) = next(iter(upside_down.items()))
        says = f"{many(len(upside_down), 'scale is', 'scales are')} the inverse of what the name "
        says += f"says: with {name.rpartition('.')[2]} as named the largest weight is {named:.3g}, "
        says += f"with its inverse {inverted:.3g}"
        yield Found(says, list(upside_down), {"as_named": named, "inverted": inverted})


@rule(
    "weight-magnitude",
    "warning",
    *("modular#6600", "kekzl/imp#1544"),
    engine="overflows or underflows its activations",
)
def weight_magnitude(subject: Subject) -> Iterator[Found]:
    """Decoded, the largest weight is absurd whichever way the scales are taken."""
    absurd = {
        module.codes: values[0]
        for module in subject.modules.values()
        if module.quantised and module.codes
        if (values := largest_weight(subject, module)) is not None
        if not any(LEAST <= value <= MOST for value in values)
    }
    if absurd:
        low, high = min(absurd.values()), max(absurd.values())
        says = (
            f"largest weight of {many(len(absurd), *MATRICES)}, decoded: {low:.3g} to {high:.3g}; "
        )
        says += f"in models it lies between {LEAST:g} and {MOST:g}"
        yield Found(says, list(absurd), {"smallest": low, "largest": high})


def _groups(subject: Subject, kind: Kind) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """(what, [(tensor, its number)]) of each set of matrices that an engine fuses."""
    for members, what in FUSED:
        first = members[0]
        for stem in subject.modules:
            around, _, last = stem.rpartition(".")
            if last != first:
                continue
            stems = [f"{around}.{member}" for member in members]
            found = [subject.modules[s] for s in stems if s in subject.modules]
            parts = [m.parts[kind][0] for m in found if m.parts.get(kind)]
            seen = [(name, subject.scales.numbers.get(name)) for name, _ in parts]
            numbers = [(n, x.first) for n, x in seen if x and _usable(x) and x.count == 1]
            # of one meaning: a multiplier is not compared with a divisor
            if len(numbers) == len(members) and len({meaning for _, meaning in parts}) == 1:
                yield what, numbers


def mismatch(subject: Subject, kind: Kind) -> Iterator[Found]:
    """One finding for each kind of fused matrices whose members differ."""
    groups: dict[str, list[list[tuple[str, float]]]] = {}
    for what, numbers in _groups(subject, kind):
        groups.setdefault(what, []).append(numbers)
    for what, sets in groups.items():
        ratios = [max(v for _, v in s) / min(v for _, v in s) for s in sets]
        differ = [(r, s) for r, s in zip(ratios, sets, strict=True) if r != 1]
        if differ:
            differ.sort(key=lambda pair: -pair[0])
            worst, names = differ[0][0], [name for _, s in differ for name, _ in s]
            says = f"{what} have different {role(names[0]).rpartition('.')[2]} in "
            says += f"{share(len(differ), len(sets))} sets; the worst are {worst:.3g} times apart"
            yield Found(
                says,
                names,
                {"differ": len(differ), "sets": len(sets), "worst_ratio": worst},
            )


@rule(
    "fused-scale-mismatch",
    "error",
    *("vllm#54974", "vllm#55073"),
    engine="fuses the matrices and keeps one scale, gate's or the largest: the others are wrong by "
    "the ratio",
)
def fused_scale_mismatch(subject: Subject) -> Iterator[Found]:
    """Gate and up, or query, key and value, have different tensor scales."""
    yield from mismatch(subject, "global")


_EXPERT = re.compile(r"(.*\.experts)\.\d+\.(\w+)")


def by_layer(subject: Subject, kind: Kind) -> dict[str, dict[str, float]]:
    """Expert matrices of a layer and a role -> their numbers by tensor."""
    found: dict[str, dict[str, float]] = {}
    for module in subject.modules.values():
        place = _EXPERT.fullmatch(module.stem)
        parts = module.parts.get(kind)
        if place is None or not parts:
            continue
        seen = subject.scales.numbers.get(parts[0][0])
        if seen is not None and _usable(seen) and seen.count == 1:
            layer = found.setdefault(f"{place[1]}.*.{place[2]}", {})
            layer[parts[0][0]] = seen.first
    return found
