"""Rules on names, shapes and types: every tensor that the config asks for, once, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinymoe.oracle.lint.parts import kind_of, role
from tinymoe.oracle.lint.registry import Found, many, rule, share
from tinymoe.oracle.lint.samples import some_of
from tinymoe.oracle.lint.subject import Subject

_OWN_RULES = ("input", "pre_quant", "cache")  # parts that other rules speak of


def _kinds(names: list[str]) -> str:
    """How many of which role, the largest first."""
    counts: dict[str, int] = {}
    for name in names:
        counts[role(name)] = counts.get(role(name), 0) + 1
    first = sorted(counts.items(), key=lambda pair: -pair[1])[:3]
    more = f" and {len(counts) - 3} more kinds" if len(counts) > 3 else ""
    return ", ".join(f"{n:,} x {kind}" for kind, n in first) + more


@rule(
    "tensor-missing",
    "error",
    *("llama.cpp#23629", "sglang#32279"),
    engine="leaves the weight as it was allocated, or fails with a list of its own names",
)
def tensor_missing(subject: Subject) -> Iterator[Found]:
    """A tensor that config.json asks for is not there (the head and scales have their rules)."""
    if subject.comparison is None:
        return
    if subject.comparison.cut:
        yield Found(f"could not look for all: {subject.comparison.cut}", severity="warning")
    promised = subject.index.promised()
    missing = [n for n in subject.comparison.missing if n != subject.head and n not in promised]
    if missing:
        what = many(len(missing), "tensor that is", "tensors that are")
        says = f"config.json asks for {what} not here: {_kinds(missing)}"
        yield Found(says, missing, {"missing": len(missing)})


@rule(
    "scale-missing",
    "error",
    *("vllm#54444", "llama.cpp#23629", "ROCmFPX#85"),
    engine="puts 1.0, zero or whatever the memory held in its place: fluent rubbish",
)
def scale_missing(subject: Subject) -> Iterator[Found]:
    """Codes of a quantised matrix are there and a scale of theirs is not."""
    promised = subject.index.promised()
    missing = list(subject.comparison.scales_missing) if subject.comparison else []
    judged = subject.comparison.judged if subject.comparison else set()
    for module in subject.modules.values():  # of which no layout says which parts there are
        if module.codes not in judged and module.quantised and module.of("local") is None:
            missing.append(f"{module.codes}: its scale")
    missing = [n for n in missing if n not in promised and kind_of(n) not in _OWN_RULES]
    if missing:
        says = f"of quantised matrices {many(len(missing), 'part is', 'parts are')} missing: "
        says += _kinds(missing)
        yield Found(says, missing, {"missing": len(missing)})


@rule(
    "tensor-unused",
    "warning",
    *("llama.cpp#27178", "llama.cpp#23629", "flashinfer#3423"),
    engine="drops it without a word, or fails on a name that it does not know",
)
def tensor_unused(subject: Subject) -> Iterator[Found]:
    """A tensor that nothing asks for: a scale beside a plain weight, an expert too many."""
    if subject.comparison is None or subject.comparison.cut:
        return
    unused = {n for n in subject.names if kind_of(n) not in _OWN_RULES} - subject.comparison.used
    tied = subject.model is not None and subject.model.tied_head
    left = [
        name
        for name in sorted(unused)
        if not subject.past_the_end(name)
        and not subject.beside(name)
        and not (tied and name == subject.head)
    ]
    if left:
        says = (
            f"{many(len(left), 'tensor has', 'tensors have')} no place in the model: {_kinds(left)}"
        )
        yield Found(says, left, {"unused": len(left)})


@rule(
    "tensor-shape",
    "error",
    *("transformers#40609", "vllm#50084"),
    engine="reshapes where the number of values agrees, and reads rows as columns",
)
def tensor_shape(subject: Subject) -> Iterator[Found]:
    """A tensor's shape is not what config.json makes it, or does not divide into blocks."""
    if subject.comparison is None:
        return
    wrong = subject.comparison.shapes
    if wrong:
        wanted, found = next(iter(wrong.values()))
        same = [n for n, (a, b) in wrong.items() if np.prod(a) == np.prod(b)]
        says = f"{many(len(wrong), 'shape contradicts', 'shapes contradict')} config.json: found "
        says += f"{found}, expected {wanted}"
        says += f"; as many values in {share(len(same), len(wrong))}" * bool(same)
        yield Found(says, list(wrong), {"wanted": list(wanted), "found": list(found)})
    refused = subject.comparison.refused
    if refused:
        more = f" (and so {len(refused) - 1:,} more)" * (len(refused) > 1)
        yield Found(next(iter(refused.values())) + more, list(refused))


@rule(
    "tensor-dtype",
    "error",
    *("vllm#38989", "flashinfer#2889"),
    engine="casts it without its scale, or reads its bits as another type",
)
def tensor_dtype(subject: Subject) -> Iterator[Found]:
    """A tensor's type is not one that its place allows."""
    if subject.comparison is None:
        return
    wrong = subject.comparison.dtypes
    if wrong:
        wanted, found = next(iter(wrong.values()))
        says = f"{many(len(wrong), 'tensor has', 'tensors have')} a type that the place does not "
        says += f"allow: found {found}, expected {' or '.join(wanted)}"
        yield Found(says, list(wrong), {"wanted": list(wanted), "found": found})


@rule(
    "tied-head",
    "error",
    *("vllm#51063", "vllm#53019"),
    engine="throws the stored head away, or never fills one that is not stored: garbage",
)
def tied_head(subject: Subject) -> Iterator[Found]:
    """tie_word_embeddings says one thing and lm_head, there or not, another."""
    model, head, stored = subject.model, subject.head, subject.head in subject.checkpoint
    if model is None:
        return
    quantised = head.removesuffix(".weight") in subject.modules
    if subject.reading.tied_unsaid:
        yield Found(
            f"config.json has no tie_word_embeddings (transformers' default is true), and "
            f"{head} is {'stored' if stored else 'not stored'}",
            severity="warning",
        )
    elif not model.tied_head and not stored and not quantised:
        if head not in subject.index.promised():
            yield Found(f"tie_word_embeddings is false and {head} is not stored", [head])
    elif model.tied_head and stored:
        if _same(subject, head, subject.embedding):
            says = f"tie_word_embeddings is true and {head} is a copy of the embedding"
            yield Found(says, [head], severity="note")
        else:
            says = f"tie_word_embeddings is true, but {head} is stored and is not the embedding"
            yield Found(says, [head, subject.embedding])


def _same(subject: Subject, one: str, other: str) -> bool:
    """Type, shape and (of large tensors the beginning, middle and end of) the bits agree."""
    if one not in subject.checkpoint or other not in subject.checkpoint:
        return False
    a, b = subject.checkpoint.entry(one), subject.checkpoint.entry(other)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = [some_of(subject.checkpoint.raw(name)) for name in (one, other)]
    return bits[0].tobytes() == bits[1].tobytes()


@rule(
    "mtp-layers",
    "note",
    *("vllm#46075", "vllm#36531"),
    engine="drafts with such layers where it is told to: with a wrong norm or head acceptance "
    "drops, the text stays right, and nobody sees it",
)
def mtp_layers(subject: Subject) -> Iterator[Found]:
    """Layers that predict further tokens: there, promised and absent, or with copies in them."""
    if subject.model is None:
        return
    extra = [name for name in subject.names if subject.past_the_end(name)]
    promised = subject.config.get("num_nextn_predict_layers") or subject.config.get(
        "num_mtp_layers"
    )
    if promised and not extra:
        yield Found(
            f"config.json promises layers that predict further tokens ({promised}), and none is "
            "stored: a draft head cannot be built from this folder",
            numbers={"promised": promised},
        )
    if not extra:
        return
    size = sum(subject.checkpoint.entry(name).nbytes for name in extra)
    copies = [
        name
        for name in extra
        if any(name.endswith(end) for end in ("embed_tokens.weight", "head.weight"))
        and (_same(subject, name, subject.embedding) or _same(subject, name, subject.head))
    ]
    says = f"past the last layer, and not run: {many(len(extra), 'tensor')}, {size:,} bytes"
    says += f"; of these {len(copies)} repeat the model's embedding or head" * bool(copies)
    says += "; config.json does not say how many such layers there are" * (not promised)
    yield Found(says, copies + [n for n in extra if n not in copies], {"copies": len(copies)})
