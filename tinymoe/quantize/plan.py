"""Which tensor becomes what: decided, and checked, before a byte is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import ModelConfig, TinymoeError
from tinymoe.families.quantised import MODELOPT_FILE
from tinymoe.formats.conventions import Source
from tinymoe.quantize.roles import Role, roles_of
from tinymoe.quantize.writers import Layout, Module

# Of a layer, the weights that meet activations in a matrix product. Exporters quantise them all.
LINEAR = re.compile(
    r"layers\.\d+\.(attention\.(qkv|out|query_down|query|down|up)|ffn\.(shared\.)?(gate_up|down))"
)
# Matrix products that exporters leave alone: ModelOpt's default configs disable *lm_head*,
# *router*, *mlp.gate.*, *block_sparse_moe.gate* and *mlp.shared_expert_gate.*; llm-compressor's
# examples ignore lm_head and re:.*mlp.gate$. A wrong expert costs more than a router's bytes.
LEFT_ALONE = re.compile(r"head|layers\.\d+\.ffn\.(router|shared\.gate)")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_LISTED = 6  # names in a message


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each tensor of a checkpoint."""

    modules: dict[str, Module]  # by the name of the tensor that is quantised
    kept: tuple[str, ...]  # modules of matrix products that stay as they are, and the embedding
    copied: tuple[str, ...]  # names of the tensors that are copied
    config: ModelConfig


def make_plan(
    checkpoint: Checkpoint,
    config: ModelConfig,
    layout: Layout,
    *,
    also: Sequence[str] = (),
    keep: Sequence[str] = (),
    separate_scales: bool = False,
) -> Plan:
    """Every tensor's fate. `also`, `keep`: shell patterns on modules' names (without ".weight").

    Errors: a checkpoint that is quantised already, a pattern that matches nothing, matrices whose
    rows do not divide into blocks, stacks of experts that the layout has no form for, and a
    fused group of which only a part would be quantised.
    """
    _refuse_quantised(checkpoint)
    modules, kept, used = dict[str, Module](), list[str](), set[str]()
    roles = roles_of(config)
    paths = frozenset(role.path for role in roles)
    for role in roles:
        name = module_name(role.name)
        linear = LINEAR.fullmatch(role.path) is not None and len(role.shape) > 1
        if not (linear or LEFT_ALONE.fullmatch(role.path)):
            kept += [name] * (role.path == "embed")
            continue
        if layout.experts_only and len(role.shape) < 3:
            kept.append(name)
            continue
        asked = [pattern for pattern in also if fnmatchcase(name, pattern)]
        held = [pattern for pattern in keep if fnmatchcase(name, pattern)]
        used |= {*asked, *held}
        if held or not (linear or asked):
            kept.append(name)
            continue
        modules[role.name] = _module(checkpoint, role, name, paths)
    for pattern in (*also, *keep):
        if pattern not in used:
            raise TinymoeError(f"--also, --keep: no module's name matches {pattern!r}")
    _check_blocks(modules, layout)
    _check_groups(modules, kept)
    if config.tied_head:  # no tensor of its own, and engines ask for it by name
        kept.append("lm_head")
    modules = _grouped(modules, layout, separate_scales)
    copied = tuple(name for name in checkpoint.names() if name not in modules)
    # layers past the last one, a vision tower: stored as they were, so listed as that
    matrices = (n for n in copied if n.endswith(".weight") and len(checkpoint.entry(n).shape) == 2)
    kept += sorted({module_name(name) for name in matrices} - set(kept))
    return Plan(modules, tuple(sorted(kept)), copied, config)


def module_name(tensor: str) -> str:
    """The module that a tensor is the weight of; a stack of experts is its own."""
    return tensor.removesuffix(".weight")


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    """Twice rounded is another model: of 4 bits nobody would notice by the file's size."""
    inner = checkpoint.config.get("text_config")
    said = [c for c in (checkpoint.config, inner) if isinstance(c, dict)]
    file = (checkpoint.path / MODELOPT_FILE).is_file()
    if file or any(c.get("quantization_config") is not None for c in said):
        raise TinymoeError(
            f"{checkpoint.path}: expected a checkpoint in BF16 or float32, this one is quantised "
            f"already ({MODELOPT_FILE if file else 'config.json has a quantization_config'}); "
            "quantise the original instead"
        )


def _module(checkpoint: Checkpoint, role: Role, name: str, paths: frozenset[str]) -> Module:
    if role.name not in checkpoint:
        raise TinymoeError(f"{checkpoint.path}: tensor {role.name!r} is missing")
    entry = checkpoint.entry(role.name)
    if entry.shape != role.shape or entry.dtype not in ("BF16", "F16", "F32"):
        raise TinymoeError(
            f"{entry.file}: tensor {role.name!r}: expected BF16, F16 or F32 of shape {role.shape}, "
            f"found {entry.dtype} of {entry.shape}"
        )
    expert = _EXPERT.search(role.name)
    source: Source = "bfloat16" if entry.dtype == "BF16" else "float32"
    return Module(
        name=name,
        tensor=role.name,
        shape=role.shape,
        path=role.path,
        expert=int(expert[1]) if expert else None,
        group=_group(role.path, expert[1] if expert else "", paths),
        source=source,
    )


def _group(path: str, expert: str, paths: frozenset[str]) -> str:
    """Modules of one group share a tensor scale, as engines run them as one matrix.

    q, k and v are parts of one array here, gate and up too, of each expert their own pair. In
    latent attention whatever reads the layer's input is one: query_down (query, where there is
    none) and down.
    """
    layer = path.rpartition(".")[0]
    lowered = f"{layer}.query_down" in paths
    if path == f"{layer}.down" and ".attention" in path:
        return f"{layer}.query_down" if lowered else f"{layer}.query"
    return f"{path}.{expert}" if expert else path


def _grouped(modules: dict[str, Module], layout: Layout, separate: bool) -> dict[str, Module]:
    """Groups as the layout has them: all of them, those of experts alone, or none."""

    def alone(module: Module) -> bool:
        only_experts = layout.fused == "experts" and module.expert is None
        return separate or layout.fused == "none" or only_experts

    return {n: replace(m, group=n) if alone(m) else m for n, m in modules.items()}


def _check_blocks(modules: dict[str, Module], layout: Layout) -> None:
    stacks = [m for m in modules.values() if len(m.shape) == 3]
    good = layout.stacks and all(not m.tensor.endswith(".weight") for m in stacks)
    if stacks and not good:
        raise TinymoeError(
            f"{layout.title} has no form for experts stored as one stack: {stacks[0].tensor!r} of "
            f"shape {stacks[0].shape}. Leave them as they are (--keep {stacks[0].name!r} and so "
            "on), or choose another format or convention"
        )
    wrong = [m for m in modules.values() if m.columns % layout.block]
    if wrong:
        names = ", ".join(f"{m.name} ({m.columns})" for m in wrong[:_LISTED])
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise TinymoeError(
            f"{layout.title} has a scale for every {layout.block} values of a row; these modules' "
            f"inputs do not divide by {layout.block}: {names}{more}. Leave them as they are with "
            "--keep PATTERN, or choose --format fp8"
        )


_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))


def _check_groups(modules: dict[str, Module], kept: list[str]) -> None:
    """A part of a fused group cannot stay behind: engines load q, k and v as one matrix."""
    quantised = {module.name for module in modules.values()}
    for name in kept:
        head, _, last = name.rpartition(".")
        for group in _FUSED:
            partners = {f"{head}.{part}" for part in group if last in group} & quantised
            if partners:
                raise TinymoeError(
                    f"{name} would stay as it is and {min(partners)} would not: engines run them "
                    "as one matrix and need them alike; give both to --keep"
                )
