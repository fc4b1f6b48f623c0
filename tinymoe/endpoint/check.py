"""The check of a live engine: run the prompts here, ask the server, judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.api import Model, load
from tinymoe.core import Array, TinymoeError
from tinymoe.endpoint.client import Client, Scored
from tinymoe.oracle.dumps.vllm import routing_taps
from tinymoe.oracle.logprobs import Verdict, judge, log_softmax
from tinymoe.strict_json import parse_object


@dataclass(frozen=True, slots=True)
class Routed:
    """How often the server's experts are ours, over (token, layer) pairs."""

    same: int  # pairs with the same set of experts
    ties: (
        int  # others, where the emulated run changes the set too or the margin is within its error
    )
    wrong: int  # others
    first_wrong: str | None  # where the first of them is


@dataclass(frozen=True, slots=True)
class Report:
    """What `check-endpoint` says."""

    verdict: Verdict
    routing: Routed | None
    dialect: str
    prompts: int
    left_out: int  # positions whose likeliest token could not be told from its text

    @property
    def agrees(self) -> bool:
        """The exit code's question."""
        return self.verdict.agrees and (self.routing is None or not self.routing.wrong)


def read_prompts(path: Path) -> list[str | list[int]]:
    """One prompt a line; a line that begins with { is JSON with "prompt" (text) or "ids"."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise TinymoeError(f"{path}: expected UTF-8 text, a prompt a line: {error}") from error
    prompts: list[str | list[int]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.startswith("{"):
            prompts.append(line)
            continue
        entry = parse_object(line.encode(), f"{path}: line {number}")
        value = entry.get("ids", entry.get("prompt"))
        if not isinstance(value, str) and not (
            isinstance(value, list) and all(type(item) is int for item in value)
        ):
            raise TinymoeError(f'{path}: line {number}: expected "prompt": TEXT or "ids": [1, 2]')
        prompts.append(value)
    if not prompts:
        raise TinymoeError(f"{path}: holds no prompt; put one on each line")
    return prompts


@dataclass(frozen=True, slots=True)
class Ours:
    """Both runs of one prompt, as far as they are needed."""

    logprobs: Array  # (T, V)
    taps: Mapping[str, Array]  # router ids and margins by layer


def runs(
    path: Path | None, numerics: str, prompts: Sequence[Sequence[int]], step: Callable[[], None]
) -> list[Ours]:
    """Each prompt through the model at some numerics; the weights are let go after."""
    model = load(path, numerics=numerics)
    found = []
    for ids in prompts:
        taps = model.trace(ids, ["logits", "layers.*.router.ids", "layers.*.router.scores"])
        found.append(Ours(log_softmax(taps.pop("logits")), taps))
        step()
    return found


def encode(path: Path | None, prompts: Sequence[str | list[int]]) -> tuple[list[list[int]], Model]:
    """Token ids by the checkpoint's own rules. Prompts of one token predict nothing: an error."""
    model = load(path)
    encoded = [model.encode(prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) < 2:
            raise TinymoeError(
                f"the prompt {prompt!r} has {len(ids)} tokens; at least 2 are needed"
            )
    return encoded, model


def unique_texts(model: Model) -> dict[str, int]:
    """Token ids by their text, where no other id has the same."""
    if not model.checkpoint.has_tokenizer:
        return {}
    found: dict[str, int] = {}
    twice = set()
    for token in range(model.config.vocab_size):
        text = model.tokenizer.decode([token])
        if text in found:
            twice.add(text)
        found[text] = token
    return {text: token for text, token in found.items() if text not in twice}


def check(
    client: Client,
    prompts: Sequence[Sequence[int]],
    exact: Sequence[Ours],
    emulated: Sequence[Ours],
    step: Callable[[], None] = lambda: None,
) -> Report:
    """Ask about each prompt, and judge all answers together."""
    scored = []
    for ids in prompts:
        scored.append(client.score(ids))
        step()
    # A position that was left out keeps its place: prompts are cut into what was listed.
    rows = [_listed_rows(answer) for answer in scored]
    verdict = judge(
        [ours.logprobs[at] for ours, at in zip(exact, rows, strict=True)],
        [ours.logprobs[at] for ours, at in zip(emulated, rows, strict=True)],
        [[entry for entry in answer.listed if entry is not None] for answer in scored],
    )
    left_out = sum(entry is None for answer in scored for entry in answer.listed)
    routing = routing_agreement(scored, exact, emulated)
    return Report(verdict, routing, str(client.dialect), len(prompts), left_out)


def _listed_rows(answer: Scored) -> list[int]:
    return [t for t, entry in enumerate(answer.listed) if entry is not None]


def routing_agreement(
    scored: Sequence[Scored], exact: Sequence[Ours], emulated: Sequence[Ours]
) -> Routed | None:
    """Sets of experts, token by token and layer by layer; None where the server told none."""
    if all(answer.routed is None for answer in scored):
        return None
    same = ties = wrong = 0
    first = None
    for number, answer in enumerate(scored):
        if answer.routed is None:
            continue
        for name, theirs, ours, other, covered in _layers(
            answer.routed, exact[number], emulated[number]
        ):
            agree = _sets_equal(theirs, ours)
            tied = ~agree & (covered | _sets_equal(theirs, other))
            bad = ~agree & ~tied
            same, ties, wrong = (
                same + int(agree.sum()),
                ties + int(tied.sum()),
                wrong + int(bad.sum()),
            )
            if bad.any() and first is None:
                t = int(bad.argmax())
                first = (
                    f"prompt {number}, token {t}, {name}: theirs {sorted(theirs[t].tolist())}, "
                    f"ours {sorted(ours[t].tolist())}"
                )
    return Routed(same, ties, wrong, first)


def _layers(
    routed: Array, exact: Ours, emulated: Ours
) -> Iterator[tuple[str, Array, Array, Array, Array]]:
    """Of each MoE layer: name, their ids, ours, the emulated run's, and which rows are near ties.

    A row is a near tie where the scores that the emulated run gives the experts in question are
    off by at least the gap at the cut.
    """
    layers = [int(name.split(".")[1]) for name in exact.taps if name.endswith("router.ids")]
    for name, theirs in routing_taps(routed, layers).items():
        count = len(theirs)
        ours, other = exact.taps[name][:count], emulated.taps[name][:count]
        scores = name.replace(".ids", ".scores")
        off = np.abs(exact.taps[scores] - emulated.taps[scores]).max(axis=-1)[:count]
        ordered = np.sort(exact.taps[scores][:count], axis=-1)[:, ::-1]
        top_k = ours.shape[-1]
        gap = ordered[:, top_k - 1] - ordered[:, min(top_k, ordered.shape[-1] - 1)]
        yield name, theirs, ours, other, gap <= 4 * off


def _sets_equal(a: Array, b: Array) -> Array:
    """(T,) whether rows hold the same ids."""
    if a.shape != b.shape:
        raise TinymoeError(f"the server routes to {a.shape[-1]} experts, the model {b.shape[-1]}")
    equal: Array = (np.sort(a, axis=-1) == np.sort(b, axis=-1)).all(axis=-1)
    return equal


def as_dict(report: Report) -> dict[str, Any]:
    """For `--json`."""
    verdict = report.verdict
    return {
        "agrees": report.agrees,
        "dialect": report.dialect,
        "prompts": report.prompts,
        "positions": verdict.positions,
        "positions_left_out": report.left_out,
        "kl_bound_mean": _finite(verdict.mean),
        "kl_bound_mean_allowed": verdict.mean_allowed,
        "kl_bound_worst": _finite(verdict.worst.bound),
        "kl_bound_worst_allowed": verdict.worst_allowed,
        "worst_prompt": verdict.worst.prompt,
        "worst_position": verdict.worst.position,
        "top1_same": verdict.top1_same,
        "top1_ties": verdict.top1_ties,
        "top1_wrong": verdict.top1_wrong,
        "resembles": verdict.resembles,
        "routing": None
        if report.routing is None
        else {
            "same": report.routing.same,
            "ties": report.routing.ties,
            "wrong": report.routing.wrong,
            "first_wrong": report.routing.first_wrong,
        },
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
