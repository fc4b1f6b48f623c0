"""Rules on what config.json says is quantised, how, and what is."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from fnmatch import translate

from tinymoe.families.quantised import MODELOPT_FILE, Scheme
from tinymoe.oracle.lint.parts import Module, role
from tinymoe.oracle.lint.registry import Found, many, rule, share
from tinymoe.oracle.lint.subject import Subject

MATRICES = ("matrix", "matrices")
_LISTS = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers")
# whose names are whose: last part of a name -> the quant_method that writes it
_WRITES = {
    "weight_packed": "compressed-tensors",
    "weight_global_scale": "compressed-tensors",
    "input_global_scale": "compressed-tensors",
    "weight_scale_2": "modelopt",
    "weight_scale_inv": "fp8",
    "blocks": "mxfp4",
}
# an expression without a repeated group and with few repetitions ends soon on any name
_TAME = re.compile(r"(?!.*\)[*+{?])(?:[^*+{]*[*+{]){0,3}[^*+{]*", re.DOTALL)


def listed(subject: Subject) -> tuple[str, ...]:
    """Every entry of every exclusion list, in whatever object it stands."""
    entries = dict.fromkeys(
        entry
        for said in subject.said.values()
        for name in _LISTS
        if isinstance(said.get(name), list)
        for entry in said[name]
        if isinstance(entry, str)
    )
    return tuple(entries)


def _expression(entry: str) -> re.Pattern[str] | None:
    """compressed-tensors' "re:...", if it is tame; None if it is not, or does not compile."""
    text = entry.removeprefix("re:")
    if len(text) > 300 or not _TAME.fullmatch(text):
        return None
    try:
        return re.compile(text)
    except re.error:
        return None


def _says_kept(entries: tuple[str, ...], name: str) -> bool:
    module = name.removesuffix(".weight")
    if Scheme("none", kept=entries).says_kept(name):
        return True
    expressions = [_expression(entry) for entry in entries if entry.startswith("re:")]
    return any(found is None or found.match(module) for found in expressions)


@rule(
    "scheme-contradicts",
    "error",
    *("modular#6600", "vllm#45132"),
    engine="picks its loader by the config and finds other names, or reads codes as weights",
)
def scheme_contradicts(subject: Subject) -> Iterator[Found]:
    """quant_method against the tensors: none said and codes stored, or another exporter's names."""
    quantised = [m for m in subject.modules.values() if m.quantised and m.codes]
    method = subject.method
    if quantised and not method:
        names = [m.codes for m in quantised if m.codes]
        says = f"{quantised[0].dtype} codes in {many(len(names), *MATRICES)}, and neither "
        says += f"config.json nor {MODELOPT_FILE} speaks of quantisation"
        yield Found(says, names, {"quantised": len(names)})
    if not method:
        return
    for last, writer in _WRITES.items():
        strange = [n for n in subject.names if n.endswith((f".{last}", f"_{last}"))]
        if strange and method != writer and method in _WRITES.values():
            says = f"quant_method is {method!r}, but there are names as {writer} writes them: "
            says += f"{many(len(strange), 'tensor')} *{last}"
            yield Found(says, strange, {"count": len(strange)})
    if not quantised and not subject.index.promised():
        says = f"quant_method is {method!r} and no tensor is quantised"
        yield Found(says, severity="warning")
    algos = {where: str(said["quant_algo"]) for where, said in subject.said.items()
             if said.get("quant_algo") is not None}  # fmt: skip
    if len(set(algos.values())) > 1:
        pairs = ", ".join(f"{algo} in {where}" for where, algo in algos.items())
        yield Found(f"two answers to what quant_algo is: {pairs}", list(algos))


@rule(
    "excluded-but-quantised",
    "error",
    *("vllm#45132",),
    engine="believes the list, makes a plain matrix, and fills it with codes or fails",
)
def excluded_but_quantised(subject: Subject) -> Iterator[Found]:
    """A module that the exclusion list names is stored quantised."""
    entries = tuple(entry for entry in listed(subject) if not entry.startswith("re:"))
    scheme = Scheme("none", kept=entries)
    matches = [found for e in listed(subject) if e.startswith("re:") if (found := _expression(e))]
    wrong = [
        module.codes
        for module in subject.modules.values()
        if module.quantised and module.codes
        if scheme.says_kept(f"{module.stem}.weight") or any(m.match(module.stem) for m in matches)
    ]
    if wrong:
        says = f"listed as left alone and stored quantised: {many(len(wrong), *MATRICES)}"
        yield Found(says, wrong, {"count": len(wrong)})


@rule(
    "plain-but-not-excluded",
    "warning",
    *("sglang#23625", "vllm#45132"),
    engine="makes room for codes and scales that never come",
)
def plain_but_not_excluded(subject: Subject) -> Iterator[Found]:
    """A matrix is stored plain, no list names it, and others of its kind are quantised."""
    if not subject.method:
        return
    quantised = {role(m.stem) for m in subject.modules.values() if m.quantised}
    done = {m.stem for m in subject.modules.values() if m.quantised}
    entries = listed(subject)
    plain = [
        name
        for name in subject.names
        if name.endswith(".weight")
        and role(stem := name.removesuffix(".weight")) in quantised
        and stem not in done
        and not _says_kept(entries, name)
        and not subject.past_the_end(name)
    ]
    if plain:
        kinds = sorted({role(name) for name in plain})[:3]
        says = "stored plain where others of the same kind are quantised, and on no list: "
        says += f"{many(len(plain), *MATRICES)}, {', '.join(kinds)}"
        yield Found(says, plain, {"count": len(plain)})


@rule(
    "exclusion-renamed",
    "warning",
    *("sglang#23625", "vllm#45132"),
    engine="compares the list with names before or after its renaming, and quantises what it "
    "should not",
)
def exclusion_renamed(subject: Subject) -> Iterator[Found]:
    """An entry of the list fits no tensor here, but would under another prefix."""
    modules = sorted({name.rpartition(".")[0] or name for name in subject.names})
    haystack = "\n".join(f".{module}." for module in modules)
    lost: dict[str, str] = {}
    for entry in listed(subject):
        if entry.startswith("re:") or _fits(entry, modules, haystack):
            continue
        steps = entry.rstrip("*").rstrip(".").split(".")
        for cut in range(1, len(steps) - 1):  # at least two parts must agree
            tail = ".".join(steps[cut:])
            if len(tail) > 3 and not set(tail) & set("*?[") and f".{tail}." in haystack:
                lost[entry] = tail
                break
    if lost:
        entry, tail = next(iter(lost.items()))
        example = next(module for module in modules if f".{tail}." in f".{module}.")
        says = f"of the exclusion list's entries {share(len(lost), len(listed(subject)))} fit no "
        says += f"tensor: {entry!r} is listed, {example!r} is stored"
        yield Found(says, list(lost), {"entries": len(lost)})


def _fits(entry: str, modules: list[str], haystack: str) -> bool:
    """Whether an entry names a module, one around it, or a part of its name."""
    wild = re.search(r"[*?\[]", entry)
    if wild is None:
        return f".{entry}." in haystack
    pattern, prefix = re.compile(translate(entry)), entry[: wild.start()]
    for module in modules[bisect_left(modules, prefix) :]:
        if not module.startswith(prefix):
            return False
        steps = module.split(".")
        if any(pattern.match(".".join(steps[:end])) for end in range(1, len(steps) + 1)):
            return True
    return False


def quantised_modules(subject: Subject) -> list[Module]:
    """Those whose weights are codes."""
    return [module for module in subject.modules.values() if module.quantised]
