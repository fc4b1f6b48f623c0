"""SGLang's two dumps.

Its dumper (`python/sglang/srt/debug_utils/dumper.py`) writes a file a tensor, called
`KEY=VALUE___KEY=VALUE.pt`, with `name`, `rank`, `dump_index`, `step` (older: `forward_pass_id`)
and what the caller adds, as `layer_id`; all of a run lie in a folder of their own,
`dump_DATE_TIME`. Its hooks (`--debug-tensor-dump-output-folder`) write a file a forward pass,
`TP0_PP0_Rank0_pid1234/Pass00000.pt`: module name -> output. Either folder may be given, the run's
or the one around it. Layouts of 0.5.6 and 0.5.23, as recorded in `tests/vectors/dumps`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.oracle.dumps.torch_file import read_torch_file

PASSES = ("step", "forward_pass_id", "curr_step")
BOOKKEEPING = (*PASSES, "name", "rank", "dump_index")
DUMPER_FILES, HOOK_FILES = "*name=*.pt", "Pass*.pt"


def run_folder(folder: Path, files: str, runs: str = "*") -> Path:
    """The folder itself if such files lie in it, else the one folder in it called `runs`."""
    if any(folder.glob(files)):
        return folder
    found = sorted({file.parent for file in folder.glob(f"{runs}/{files}")})
    if len(found) != 1:
        names = ", ".join(run.name for run in found) or "none"
        raise TinymoeError(
            f"{folder}: expected {files} files, or one folder {runs} with them; found {names}: "
            "give the folder of one run"
        )
    return found[0]


def read_torch_dump(path: Path) -> dict[str, Array]:
    """One file: a dictionary of tensors, or a tensor under the file's name."""
    return flatten(read_torch_file(path), path.stem)


def flatten(value: Any, name: str) -> dict[str, Array]:
    """Tensors in nested dictionaries and lists; a list's are called NAME[0], NAME[1], ...

    What is no tensor (a number, a text) is left out.
    """
    if isinstance(value, np.ndarray):
        return {name: value}
    if isinstance(value, Mapping):
        # The name of the file says nothing where the keys are names.
        return {k: v for key, part in value.items() for k, v in flatten(part, str(key)).items()}
    if isinstance(value, list | tuple):
        parts = (flatten(part, f"{name}[{i}]") for i, part in enumerate(value))
        return {k: v for part in parts for k, v in part.items()}
    return {}


def read_dumper_folder(folder: Path, *, rank: int = 0, step: int | None = None) -> dict[str, Array]:
    """The dumper's files of one rank and one forward pass; the first pass if none is named.

    A tensor's name is the dumper's, followed by what else is in the file's name, as
    `attn_q[layer_id=3]`, but for `recompute_status=disabled`, which all have. A second tensor of
    the same name in the same pass becomes `name#1`: of a model that calls something once a layer,
    the layers.
    """
    folder = run_folder(folder, DUMPER_FILES)
    files = [(path, _parse(path.stem)) for path in sorted(folder.glob("*.pt"))]
    files = [(path, keys) for path, keys in files if "name" in keys]
    passes = sorted({_pass(keys) for _, keys in files})
    chosen = passes[0] if step is None else step
    mine = [
        (int(keys.get("dump_index", 0)), path, keys)
        for path, keys in files
        if _pass(keys) == chosen and int(keys.get("rank", 0)) == rank
    ]
    if not mine:
        ranks = sorted({int(keys.get("rank", 0)) for _, keys in files})
        raise TinymoeError(
            f"{folder}: nothing of rank {rank} in pass {chosen}; there are ranks {ranks} and "
            f"passes {passes}"
        )
    result: dict[str, Array] = {}
    for _, path, keys in sorted(mine):
        saved = read_torch_file(path)
        value = saved["value"] if isinstance(saved, dict) and "value" in saved else saved
        base = keys["name"] + _suffix(keys)
        for name, tensor in flatten(value, base).items():
            again = sum(1 for known in result if re.sub(r"#\d+$", "", known) == name)
            result[f"{name}#{again}" if again else name] = tensor
    return result


def _suffix(keys: Mapping[str, str]) -> str:
    """What tells tensors of one name apart."""
    usual = ("recompute_status", "disabled")  # only training recomputes
    rest = [f"{k}={v}" for k, v in keys.items() if k not in BOOKKEEPING and (k, v) != usual]
    return f"[{','.join(rest)}]" if rest else ""


def _pass(keys: Mapping[str, str]) -> int:
    found = [keys[name] for name in PASSES if name in keys]
    return int(found[0]) if found and found[0].lstrip("-").isdigit() else 0


def _parse(stem: str) -> dict[str, str]:
    parts = (part.partition("=") for part in stem.split("___"))
    return {key: value for key, equals, value in parts if equals}


def read_hook_folder(folder: Path, *, rank: int = 0, step: int | None = None) -> dict[str, Array]:
    """A folder of `Pass00000.pt` files: one pass, the first if none is named.

    Under `model` and `logits_processor` a file holds the answers of the pass before it: SGLang
    writes it before these two have been noted. `rank` is of use where folders of several are given.
    """
    folder = run_folder(folder, HOOK_FILES, f"TP*_Rank{rank}_pid*")
    files = {int(p.stem[4:]): p for p in folder.glob(HOOK_FILES) if p.stem[4:].isdigit()}
    if not files:
        raise TinymoeError(f"{folder}: expected files Pass00000.pt, found none")
    chosen = min(files) if step is None else step
    if chosen not in files:
        raise TinymoeError(f"{folder}: no pass {chosen}; there are {sorted(files)}")
    return read_torch_dump(files[chosen])
