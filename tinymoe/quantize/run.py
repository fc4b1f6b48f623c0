"""Quantise a model folder into another: plan, calibrate, write, and only then give it its name."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.checkpoint import INDEX, WEIGHTS, Checkpoint
from tinymoe.core import Array, TinymoeError
from tinymoe.families import read_config
from tinymoe.families.quantised import MODELOPT_FILE
from tinymoe.quantize.calibrate import Loudness, Progress, calibrate
from tinymoe.quantize.folder import check_target, new_folder
from tinymoe.quantize.headers import hf_quant_config, quantization_config
from tinymoe.quantize.layouts import pick_layout
from tinymoe.quantize.plan import Plan, make_plan
from tinymoe.quantize.text import CALIBRATION_TEXT
from tinymoe.quantize.writers import Layout, Module
from tinymoe.safetensors_writer import SafetensorsWriter, Spec
from tinymoe.tokenizer import Tokenizer

SHARD_BYTES = 5 * 10**9
CALIBRATION_TOKENS = 4096  # of a longer text the first so many
# what goes with the weights, where the folder has it
COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json"),
    *("generation_config.json", "LICENSE"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked for. `also`, `keep`: shell patterns on names of modules."""

    format: str = "nvfp4"
    convention: str | None = None  # None: the format's first, see `layouts.LAYOUTS`
    scales: str | None = None
    calibration: str | Sequence[int] | None = None  # text or token ids; None: `text.py`
    calibration_tokens: int = CALIBRATION_TOKENS
    weights_only: bool = False  # activations stay as they are: nothing is calibrated
    also: Sequence[str] = ()
    keep: Sequence[str] = ()
    separate_scales: bool = False  # each matrix its own tensor scale: what engines stumble over
    shard_bytes: int = SHARD_BYTES
    force: bool = False  # replace a model folder that is there


def quantize(
    model: str | Path, out: str | Path, settings: Settings, progress: Progress = lambda _, __: None
) -> dict[str, Any]:
    """Write the quantised `model` to the folder `out`, whole or not at all; returns a report.

    One tensor, or one stack of experts, is in memory at a time; calibration, which runs the
    model, holds all of it before that. Raises `TinymoeError` for whatever makes the result one
    that an engine would not load, before anything is written.
    """
    begin, source, target = time.perf_counter(), Path(model), Path(out)
    checkpoint = Checkpoint.open(source)
    check_target(source, target, settings.force)
    config = read_config(
        {n: value for n, value in checkpoint.config.items() if n != "quantization_config"}
    )
    layout = pick_layout(settings.format, settings.convention, settings.scales, config.family)
    static = _wants_scales(layout, settings)
    plan = make_plan(
        checkpoint,
        config,
        layout,
        also=settings.also,
        keep=settings.keep,
        separate_scales=settings.separate_scales,
    )
    loudness = None
    if static:
        loudness = calibrate(checkpoint, config, _ids(checkpoint, settings), progress)
    with new_folder(target) as folder:
        found = _Writing(checkpoint, plan, layout, loudness).run(
            folder, settings.shard_bytes, progress
        )
        _write_configs(checkpoint, folder, layout, plan, static)
    return {
        **{"model": str(source), "output": str(target)},
        **{"format": layout.format, "convention": layout.convention, "scales": layout.scales},
        **found,
        "kept": list(plan.kept),
        "calibration": _calibration_report(loudness, plan, settings),
        "seconds": time.perf_counter() - begin,
    }


def _wants_scales(layout: Layout, settings: Settings) -> bool:
    """Whether inputs get scales; refuses options that would then do nothing."""
    if settings.shard_bytes < 1 or settings.calibration_tokens < 1:
        raise TinymoeError(
            "--shard-size and --calibrate-tokens must be at least 1, got "
            f"{settings.shard_bytes} bytes and {settings.calibration_tokens}"
        )
    if settings.weights_only and not (layout.static and layout.format == "nvfp4"):
        raise TinymoeError(
            f"--weights-only is for --format nvfp4; {layout.title} with --scales {layout.scales} "
            + ("needs a scale for its inputs" if layout.static else "has nothing to calibrate")
        )
    if settings.separate_scales and layout.fused == "none":
        raise TinymoeError(f"--separate-scales: {layout.title} shares no scales")
    static = layout.static and not settings.weights_only
    if settings.calibration is not None and not static:
        raise TinymoeError(
            f"--calibrate: {layout.title} with --scales {layout.scales}"
            f"{' and --weights-only' * settings.weights_only} has nothing to calibrate"
        )
    return static


def _ids(checkpoint: Checkpoint, settings: Settings) -> list[int]:
    """The calibration's token ids."""
    given = CALIBRATION_TEXT if settings.calibration is None else settings.calibration
    if isinstance(given, str):
        if not checkpoint.has_tokenizer:
            raise TinymoeError(
                f"{checkpoint.path}: has no tokenizer.json to read the calibration text with; "
                "give --calibrate-ids, or --weights-only, or a format with dynamic inputs"
            )
        given = Tokenizer.open(checkpoint.path).encode(given)
    if not given:
        raise TinymoeError("the calibration text is empty; give one that is like the model's use")
    return list(given)[: settings.calibration_tokens]


# ------------------------------------------------------------------------------- the weights


class _Writing:
    """The weights of one checkpoint, on their way into a folder."""

    def __init__(
        self, checkpoint: Checkpoint, plan: Plan, layout: Layout, loudness: Loudness | None
    ) -> None:
        self._checkpoint, self._plan, self._layout = checkpoint, plan, layout
        self._loudness = loudness
        self._members = dict[str, list[Module]]()
        for module in plan.modules.values():
            self._members.setdefault(module.group, []).append(module)
        self._group_amax = dict[str, float]()
        self._squares = dict[str, list[float]]()  # by kind: of the errors, of the weights, count
        self._worst: tuple[float, str] = (-1.0, "")

    def run(self, folder: Path, shard_bytes: int, progress: Progress) -> dict[str, Any]:
        """Write every shard, then the index if there are several."""
        shards, done = self._shards(shard_bytes), 0
        count, size, home = len(self._checkpoint.names()), 0, dict[str, str]()
        for number, shard in enumerate(shards, 1):
            file = WEIGHTS
            if len(shards) > 1:
                file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            specs = {name: spec for stored in shard.values() for name, spec in stored.items()}
            home |= dict.fromkeys(specs, file)
            size += sum(spec.nbytes for spec in specs.values())
            with SafetensorsWriter(folder / file, specs, {"format": "pt"}) as writer:
                for name in shard:
                    progress(name, done / count)
                    for stored_name, values in self._tensors(name):
                        writer.write(stored_name, values)
                    done += 1
        if len(shards) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(home.items()))}
            write_json(folder / INDEX, index)
        progress("done", 1.0)
        return self._report(size, len(shards))

    def _specs(self, name: str) -> dict[str, Spec]:
        module = self._plan.modules.get(name)
        if module is not None:
            return self._layout.parts(module, self._loudness is not None)
        entry = self._checkpoint.entry(name)
        return {name: Spec(entry.dtype, entry.shape)}

    def _shards(self, shard_bytes: int) -> list[dict[str, dict[str, Spec]]]:
        """Tensors by name, filled up file after file; what one tensor becomes stays together."""
        shards: list[dict[str, dict[str, Spec]]] = [{}]
        room = shard_bytes
        for name in self._checkpoint.names():
            specs = self._specs(name)
            nbytes = sum(spec.nbytes for spec in specs.values())
            if nbytes > room and shards[-1]:
                shards.append({})
                room = shard_bytes
            shards[-1][name] = specs
            room -= nbytes
        return shards

    def _tensors(self, name: str) -> Iterator[tuple[str, Array]]:
        module = self._plan.modules.get(name)
        if module is None:
            yield name, self._checkpoint.raw(name)
            return
        w = self._checkpoint.read(name, "float32")
        seen = None if self._loudness is None else self._loudness.of(module)
        try:
            made = self._layout.encode(module, w, self._amax(module, w), seen)
        except TinymoeError as error:
            raise TinymoeError(f"tensor {name!r}: {error}") from None
        self._count_error(module, w, made.values)
        yield from made.tensors.items()

    def _amax(self, module: Module, w: Array) -> float:
        """Of the module's whole group, whose members are read one by one."""
        if module.group not in self._group_amax:
            others = [m.tensor for m in self._members[module.group] if m is not module]
            parts = [np.abs(w).max()]
            parts += [np.abs(self._checkpoint.read(n, "float32")).max() for n in others]
            self._group_amax[module.group] = float(np.max(parts))
        return self._group_amax[module.group]

    def _count_error(self, module: Module, w: Array, values: Array) -> None:
        error = float(np.square(values - w, dtype=np.float64).sum())
        whole = float(np.square(w, dtype=np.float64).sum())
        kind = re.sub(r"\.\d+(?=\.)", ".*", module.name)
        sums = self._squares.setdefault(kind, [0.0, 0.0, 0.0])
        for place, value in enumerate((error, whole, 1.0)):
            sums[place] += value
        self._worst = max(self._worst, (_relative(error, whole), module.name))

    def _report(self, size: int, files: int) -> dict[str, Any]:
        entries = [self._checkpoint.entry(name) for name in self._checkpoint.names()]
        return {
            "bytes_before": sum(entry.nbytes for entry in entries),
            "bytes_after": size,
            "files": files,
            "relative_error": {
                kind: {"l2": _relative(error, whole), "tensors": int(count)}
                for kind, (error, whole, count) in self._squares.items()
            },
            "worst": {"module": self._worst[1], "l2": max(self._worst[0], 0.0)},
        }


def _relative(error: float, whole: float) -> float:
    """|w' - w| / |w| of sums of squares; zero for a tensor of zeros, which is kept exactly."""
    return math.sqrt(error / whole) if whole else 0.0


# ------------------------------------------------------------------------------- the rest


def _write_configs(
    checkpoint: Checkpoint, folder: Path, layout: Layout, plan: Plan, static: bool
) -> None:
    said = quantization_config(layout, plan.kept, static)
    write_json(folder / "config.json", checkpoint.config | {"quantization_config": said})
    own = hf_quant_config(layout, plan.kept, static)
    if own is not None:
        write_json(folder / MODELOPT_FILE, own)
    for name in COPIED:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)


def write_json(path: Path, value: Any) -> None:
    """As transformers writes its configs: two spaces, UTF-8, a line break at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _calibration_report(
    loudness: Loudness | None, plan: Plan, settings: Settings
) -> dict[str, Any] | None:
    """None where activations are dynamic or stay as they are."""
    if loudness is None:
        return None
    missing = loudness.not_reached(list(plan.modules.values()))
    return {
        "text": "tinymoe's own" if settings.calibration is None else "given",
        "tokens": loudness.tokens,
        "numerics": loudness.numerics,
        "experts_not_reached": sum(len(experts) for _, experts in missing),
        "not_reached": {str(layer): experts for layer, experts in missing},
    }
