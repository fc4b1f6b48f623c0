"""SGLang's two dumps, and a folder of arrays.

Its dumper (`python/sglang/srt/debug_utils/dumper.py`) writes a file a tensor, called
`KEY=VALUE___KEY=VALUE.pt`, with `name`, `rank`, `dump_index`, `step` (older: `forward_pass_id`)
and what the caller adds, as `layer_id`. Its hooks (`--debug-tensor-dump-output-folder`) write a
file a forward pass, `Pass00000.pt`: module name -> output.
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

    A tensor's name is the dumper's, followed by what else is in the file's name:
    `attn_q[layer_id=3]`. A second tensor of the same name in the same pass becomes `name#1`: of a
    model that calls something once a layer, the layers.
    """
    files = [(path, _parse(path.stem)) for path in sorted(folder.glob("*.pt"))]
    files = [(path, keys) for path, keys in files if "name" in keys]
    passes = sorted({_pass(keys) for _, keys in files})
    if not files:
        raise TinymoeError(f"{folder}: expected files named name=...___rank=....pt, found none")
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
        rest = [f"{key}={text}" for key, text in keys.items() if key not in BOOKKEEPING]
        base = keys["name"] + (f"[{','.join(rest)}]" if rest else "")
        for name, tensor in flatten(value, base).items():
            again = sum(1 for known in result if re.sub(r"#\d+$", "", known) == name)
            result[f"{name}#{again}" if again else name] = tensor
    return result


def _pass(keys: Mapping[str, str]) -> int:
    found = [keys[name] for name in PASSES if name in keys]
    return int(found[0]) if found and found[0].lstrip("-").isdigit() else 0


def _parse(stem: str) -> dict[str, str]:
    parts = (part.partition("=") for part in stem.split("___"))
    return {key: value for key, equals, value in parts if equals}


def read_hook_folder(folder: Path, *, step: int | None = None) -> dict[str, Array]:
    """A folder of `Pass00000.pt` files: one pass, the first if none is named."""
    files = {int(p.stem[4:]): p for p in folder.glob("Pass*.pt") if p.stem[4:].isdigit()}
    if not files:
        raise TinymoeError(f"{folder}: expected files Pass00000.pt, found none")
    chosen = min(files) if step is None else step
    if chosen not in files:
        raise TinymoeError(f"{folder}: no pass {chosen}; there are {sorted(files)}")
    return read_torch_dump(files[chosen])
