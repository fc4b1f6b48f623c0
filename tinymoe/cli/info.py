"""`python -m tinymoe info`: what a checkpoint is, from its headers alone."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinymoe.cli import options, report

if TYPE_CHECKING:
    from tinymoe.checkpoint import Checkpoint
    from tinymoe.core import ModelConfig


def info(
    model: options.Model = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="numpy|numba|ptx|cuda",
            help="Also list what computes each op with this backend.",
            show_default=False,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say what a model is: shapes, router, formats, parameters, bytes. Reads no weights.

    [bold]Examples[/bold]

    python -m tinymoe info

    python -m tinymoe info --model path/to/folder --json

    python -m tinymoe info --backend ptx
    """
    with report.outcome(as_json):
        from tinymoe.api import shipped_model
        from tinymoe.checkpoint import Checkpoint
        from tinymoe.families import read_config

        checkpoint = Checkpoint.open(model or shipped_model())
        facts = describe(checkpoint, read_config(checkpoint.config))
        if backend is not None:
            from tinymoe.kernels import ops_where

            config = read_config(checkpoint.config)
            facts["ops"] = {**_whole_step(backend, config), **ops_where(backend)}
            facts |= _held(backend, checkpoint, config)
        if as_json:
            report.print_json(facts)
        else:
            print(_page(facts))


def describe(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Any]:
    """All of it, as plain values."""
    from tinymoe.cards import in_form
    from tinymoe.core import NUMERICS
    from tinymoe.families import resident_bytes
    from tinymoe.families.describe import describe_scheme
    from tinymoe.families.memory import available_memory
    from tinymoe.measure.footprint import footprint
    from tinymoe.measure.shapes import kv_values, state_values

    sizes = footprint(checkpoint, config)
    positions, states = kv_values(in_form(config, "absorbed")), state_values(config)
    shape = asdict(config)
    scheme = describe_scheme(checkpoint, config)
    router, layers, cards = (shape.pop(name) for name in ("router", "layers", "attention"))
    return {
        "path": str(checkpoint.path),
        "family": shape.pop("family"),
        "layers": {
            "total": len(layers),
            "moe": layers.count("moe"),
            "dense": layers.count("dense"),
        },
        "shape": shape,
        "attention": _kinds(cards),
        "cache": [asdict(group) for group in config.cache_groups],
        "router": router,
        "parameters": {"total": sizes.total, "active": sizes.active},
        "quantised": scheme["method"],
        "quantisation": scheme,
        "formats": {name: kind._asdict() for name, kind in sizes.formats.items()},
        "bytes": {
            "files": sum(file.path.stat().st_size for file in checkpoint.files),
            "tensors": sizes.nbytes,
            "read_per_token": sizes.read_per_token,
            "kv_per_position": {"fp32": 4 * positions, "bf16": 2 * positions},
            "state_per_sequence": {"fp32": 4 * states, "bf16": 2 * states},
            "in_memory": {name: resident_bytes(config, NUMERICS[name]) for name in NUMERICS},
            "available": available_memory(),
        },
        "tokenizer": _tokenizer_size(checkpoint),
        "end_ids": list(checkpoint.end_ids),
        "sampling": _sampling(checkpoint),
    }


def _whole_step(backend: str, config: ModelConfig) -> dict[str, str]:
    """Whether a compiled step covers the model; the ops are then for traces of single layers."""
    if backend != "numba":
        return {}
    from tinymoe.core import NUMERICS
    from tinymoe.kernels.cpu.step import uncovered

    reason = uncovered(config, NUMERICS["fp32"])
    if reason is not None:
        return {"the whole step": f"op by op, as below: no kernels for {reason}"}
    said = "numba: one compiled call (fp32, bf16, checkpoint unless inputs are FP8)"
    return {"the whole step": f"{said}; below, op by op otherwise"}


def _held(backend: str, checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Any]:
    """In which form a compiled step holds the matrices, from the headers."""
    from tinymoe.core import NUMERICS
    from tinymoe.families import stored_matrices

    if backend != "numba":
        return {}
    from tinymoe.kernels.cpu.held import held
    from tinymoe.kernels.cpu.repack_cache import RepackCache
    from tinymoe.kernels.cpu.step import uncovered

    if uncovered(config, NUMERICS["fp32"]) is not None:
        return {}
    found = held(stored_matrices(checkpoint, config, NUMERICS["fp32"]))
    kept = RepackCache(checkpoint).state()
    return {"held": {form: each._asdict() for form, each in found.items()}, "repack_cache": kept}


def _kinds(cards: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Each kind of attention once, with the layers that have it."""
    kinds: list[dict[str, Any]] = []
    for index, card in enumerate(cards):
        same = [kind for kind in kinds if kind["card"] == card]
        if same:
            same[0]["layers"].append(index)
        else:
            kinds.append({"layers": [index], "card": card})
    return kinds


def _kept(group: dict[str, Any]) -> str:
    """What the cache keeps for a group of layers."""
    what = {
        "all": "every position",
        "window": f"the last {group['span']:,} positions",
        "chunk": f"the current chunk of {group['span']:,}",
        "state": "one state a sequence",
    }
    return f"{what[group['kind']]} of {_some(list(group['layers']))}"


def _tokenizer_size(checkpoint: Checkpoint) -> int | None:
    if not checkpoint.has_tokenizer:
        return None
    from tinymoe.tokenizer import Tokenizer

    return Tokenizer.open(checkpoint.path).vocab_size


def _sampling(checkpoint: Checkpoint) -> dict[str, Any]:
    """generation_config.json without what is no sampling."""
    other = ("_id", "_version", "_from_model_config")
    return {k: v for k, v in checkpoint.generation.items() if not k.endswith(other)}


def _page(facts: dict[str, Any]) -> str:
    """The facts for a reader."""
    style = report.Style(sys.stdout)
    parameters, sizes, layers = facts["parameters"], facts["bytes"], facts["layers"]
    share = parameters["active"] / max(parameters["total"], 1)
    kv = sizes["kv_per_position"]
    size = facts["tokenizer"]
    blocks = {
        f"{facts['path']}": [
            ["family", facts["family"]],
            ["layers", f"{layers['total']}: {layers['moe']} with experts, {layers['dense']} dense"],
            ["parameters", f"{_count(parameters['total'])} in all"],
            ["", f"{_count(parameters['active'])} active for a token ({share:.0%}): "
                 "of the experts only those chosen"],
            ["quantised", facts["quantised"]],
            ["files", _bytes(sizes["files"])],
            ["in memory", _in_memory(sizes)],
            ["read per token", f"{_bytes(sizes['read_per_token'])} of weights as stored, for one "
                               "sequence alone"],
            ["key/value cache", f"{_bytes(kv['fp32'])} a position in float32, "
                                f"{_bytes(kv['bf16'])} in bfloat16"],
            ["", "of " + "; ".join(map(_kept, facts["cache"]))],
            ["tokenizer", "none (token ids only)" if size is None else f"{size:,} tokens"],
            ["end ids", ", ".join(map(str, facts["end_ids"])) or "none"],
            ["sampling", _pairs(facts["sampling"]) or "none given"],
        ],
        "shape": _rows({n: v for n, v in facts["shape"].items() if v not in (None, "")}),
        **{
            f"attention of {_some(kind['layers'])}": _rows(_present(kind["card"]))
            for kind in facts["attention"]
        },
        "router: score, select, gather, renorm, scale": _rows(facts["router"]),
        **(
            {"quantisation": _scheme(facts["quantisation"])}
            if facts["quantised"] != "none" else {}
        ),
        **({"ops: what computes them": _rows(facts["ops"])} if "ops" in facts else {}),
        **({"weights as the compiled step holds them": [
            [form, f"{kind['matrices']:,} matrices", _bytes(kind["nbytes"]),
             "(half, where all values are BF16 values)" if form == "f32" else ""]
            for form, kind in facts["held"].items()
        ] + [["repack cache", facts["repack_cache"]["state"], facts["repack_cache"]["path"], ""]]
        } if "held" in facts else {}),
        "tensors as stored": [
            [name, f"{kind['tensors']:,} tensors", f"{_count(kind['parameters'])} values",
             _bytes(kind["nbytes"])]
            for name, kind in facts["formats"].items()
        ],
    }  # fmt: skip
    return "\n\n".join(f"{style.bold(t)}\n{report.table(rows)}" for t, rows in blocks.items())


def _scheme(facts: dict[str, Any]) -> list[list[str]]:
    """The scheme, then which modules have it: all of a kind, none, or how many."""
    scales = facts["cache_scales"]
    rows = [
        ["weights", facts["weights"]],
        ["their scales", facts["scale_convention"]],
        ["inputs", f"{facts['inputs']} (applied by --numerics checkpoint alone)"],
        ["keys and values", f"{facts['cache']}; scales of {scales['stored']} of "
                            f"{scales['layers']} layers are stored"],
    ]  # fmt: skip
    for kind, count in facts["modules"].items():
        both = [f"{number:,} {said}" for said, number in sorted(count.items(), reverse=True)]
        rows.append([kind, ", ".join(both)])
    return rows


def _in_memory(sizes: dict[str, Any]) -> str:
    """Whether all weights fit, in the default numerics."""
    from tinymoe.families.memory import budget_of

    needed, free = sizes["in_memory"]["fp32"], sizes["available"]
    how = "all held" if budget_of(needed, None) is None else "read when used (--memory)"
    return f"{_bytes(needed)} in float32, {how}" + (
        "" if free is None else f": {_bytes(free)} are available"
    )


def _rows(fields: dict[str, Any]) -> list[list[str]]:
    return [
        [name, _pairs(_stated(value)) if isinstance(value, dict) else _value(value)]
        for name, value in fields.items()
    ]


def _stated(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is not there at all."""
    return {name: value for name, value in fields.items() if value is not None}


def _some(layers: list[int]) -> str:
    """The layers by number, but for a long list."""
    listed = ", ".join(map(str, layers[:8]))
    return (
        ("layers " if len(layers) > 1 else "layer ")
        + listed
        + (f", ... ({len(layers)} in all)" if len(layers) > 8 else "")
    )


def _present(card: dict[str, Any]) -> dict[str, Any]:
    """Without what a layer has not."""
    return {name: value for name, value in card.items() if value not in (None, False, "none")}


def _pairs(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _count(number: int) -> str:
    """1,234,567 (1.2 M)."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number:,} ({number / size:.3g} {letter})"
    return str(number)


def _bytes(number: int) -> str:
    """12.3 MiB."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"
