"""`bench` beside other engines, and its sweeps: from options to a report, a page, a picture."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymoe.core import TinymoeError

Progress = Callable[[str, float], None]
FULL = {"prompt": 512, "tokens": 64, "repeats": 5}
QUICK = {"prompt": 32, "tokens": 4, "repeats": 2}
SCALES = 0.75  # of n times one thread's arithmetic, below which n cores are not n
SWEEP_TOKENS = {False: 16, True: 2}  # by --quick
FORM, CONTEXT = "nvfp4", 128  # where nobody says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The options of `bench` that a comparison or a sweep knows, as typed."""

    model: Path | None
    shape: str | None
    formats: str | None
    peers: Sequence[str]
    backend: str
    numerics: str
    threads: int | None
    prompt: int | None
    context: int | None
    tokens: int | None
    batches: Sequence[int]
    repeats: int | None
    warmup: int
    seed: int
    quick: bool
    sweep: str | None
    points: str | None
    picture: Path | None
    timeout: float


def measure(wanted: Wanted, progress: Progress) -> dict[str, Any]:
    """The report of the comparison or the sweep that is wanted."""
    if wanted.picture is not None:
        from tinymoe.measure.picture import check_picture

        check_picture(wanted.picture)
    if wanted.points is not None and wanted.sweep is None:
        raise TinymoeError("--points are those of a --sweep: say which")
    report = _compare(wanted, progress) if wanted.sweep is None else _sweep(wanted, progress)
    if wanted.picture is not None:
        from tinymoe.measure.picture import draw

        draw(report, wanted.picture)
    return report


def _compare(wanted: Wanted, progress: Progress) -> dict[str, Any]:
    from tinymoe.measure.contest import Plan, compare
    from tinymoe.measure.peers import parse
    from tinymoe.measure.steps import lines_of

    sizes = QUICK if wanted.quick else FULL
    prompt, tokens, repeats = (
        sizes[name] if given is None else given
        for name, given in (
            ("prompt", wanted.prompt), ("tokens", wanted.tokens), ("repeats", wanted.repeats),
        )
    )  # fmt: skip
    lines = lines_of(prompt, _context(wanted), tokens, wanted.batches or (1, 8))
    plan = Plan(
        source=_source(wanted),
        forms=_forms(wanted.formats),
        lines=tuple(lines),
        peers=tuple(parse(text) for text in wanted.peers),
        backend=wanted.backend,
        numerics=wanted.numerics,
        threads=_threads(wanted),
        rounds=repeats,
        warmup=wanted.warmup,
        timeout=wanted.timeout,
    )
    return compare(plan, progress=progress)


def _sweep(wanted: Wanted, progress: Progress) -> dict[str, Any]:
    from tinymoe.measure.sweep import Sweep, run_sweep

    if wanted.peers:
        raise TinymoeError("--sweep measures tinymoe alone: leave --peer out")
    if wanted.prompt is not None:
        raise TinymoeError("--sweep is of decode steps, which have no --prompt: see --context")
    if len(wanted.batches) > 1:
        raise TinymoeError("--sweep takes one --batch; --sweep batch varies it")
    steps = SWEEP_TOKENS[wanted.quick] if wanted.tokens is None else wanted.tokens
    repeats = (QUICK if wanted.quick else FULL)["repeats"]
    sweep = Sweep(
        kind=wanted.sweep or "",
        source=_source(wanted),
        forms=_forms(wanted.formats),
        values=_points(wanted.points),
        batch=(*wanted.batches, 1)[0],
        context=_context(wanted),
        steps=steps,
        backend=wanted.backend,
        numerics=wanted.numerics,
        threads=_threads(wanted),
        rounds=repeats if wanted.repeats is None else wanted.repeats,
        warmup=wanted.warmup,
    )
    return run_sweep(sweep, progress=progress)


def _source(wanted: Wanted) -> Any:
    from tinymoe.api import shipped_model
    from tinymoe.measure.build import Source

    if wanted.model is not None and wanted.shape is not None:
        raise TinymoeError("give a model's folder (--model) or a random model's --shape, not both")
    if wanted.seed < 0:
        raise TinymoeError(f"--seed must be 0 or more, got {wanted.seed}")
    folder = None if wanted.shape is not None else wanted.model or shipped_model()
    return Source(shape=wanted.shape, folder=folder, seed=wanted.seed)


def _threads(wanted: Wanted) -> int:
    from tinymoe.measure.build import default_threads

    if wanted.threads is not None and wanted.threads < 1:
        raise TinymoeError(f"--threads must be at least 1, got {wanted.threads}")
    return wanted.threads or default_threads(wanted.backend)


def _context(wanted: Wanted) -> int:
    return CONTEXT if wanted.context is None else wanted.context


def _forms(text: str | None) -> tuple[str, ...]:
    from tinymoe.measure.stored import check_form

    forms = tuple(name.strip() for name in (FORM if text is None else text).split(","))
    for form in forms:
        check_form(form)
    if len(set(forms)) < len(forms):
        raise TinymoeError(f"--formats: the same twice in {text!r}")
    return forms


def _points(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise TinymoeError(f"--points: expected numbers as 1,2,4, got {text!r}") from None


# ------------------------------------------------------------------------------- the page


Page = tuple[list[tuple[str, str]], list[tuple[str, list[list[str]]]], str, list[str]]


def page(found: dict[str, Any]) -> Page:
    """Heading, tables, what the numbers mean, and warnings."""
    from tinymoe.cli import contest_page

    width = shutil.get_terminal_size((100, 24)).columns
    about = found["machine"]
    load, cores = about["load_average_1min"], about["usable_cores"]
    warnings = []
    if load is not None and load > cores / 2:
        warnings.append(
            f"other programs kept this machine busy when it began (load average {load:.1f} on "
            f"{cores} cores): trust ratios of one round more than rates"
        )
    threads = found["settings"]["threads"]
    if "limits" in found:
        all_of_them = found["limits"]["flops_per_s"]["median"]
        scale = all_of_them / found["limits"]["flops_per_s_of_one_thread"]["median"]
        if scale < SCALES * threads:
            warnings.append(
                f"{threads} threads compute {scale:.1f} times what one does: the cores are shared "
                "with somebody, and every engine here with threads is slower for it"
            )
    heading = contest_page.heading(found)
    if "points" in found:
        tables, notes = contest_page.sweep_tables(found), contest_page.sweep_notes(found, width)
    else:
        tables, notes = contest_page.tables(found), contest_page.notes(found, width)
    return heading, tables, notes, warnings


def saved(picture: Path | None) -> None:
    """Say on stderr where the picture is."""
    if picture is not None:
        print(f"picture: {picture}", file=sys.stderr)
