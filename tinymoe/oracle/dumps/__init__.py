"""Reading what other engines dump, under the names of a trace.

| what | kind | read by |
| --- | --- | --- |
| a trace of tinymoe, or any safetensors file | safetensors | here |
| a file of `torch.save` with tensors by name | torch | `torch_file.py`, without torch |
| SGLang's dumper: a folder of `name=...___rank=....pt` | sglang-dumper | `sglang.py` |
| SGLang's hooks: a folder of `Pass00000.pt` | sglang-hooks | `sglang.py` |
| the text of llama.cpp's eval-callback | llama.cpp | `llama_cpp.py` |
| .npz, or a folder of .npy | numpy | here |
| vLLM's answer with `routed_experts` (its log-probabilities: `check-endpoint`) | vllm | `vllm.py` |
| a live transformers model | (in memory) | `capture.py` |

A mapping (`mapping.py`) says what is called how. Without one, names are taken to be taps, but for
the kinds that have a preset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import bf16
from tinymoe.oracle.dumps.llama_cpp import read_eval_callback
from tinymoe.oracle.dumps.mapping import Mapped, Rule, apply_mapping, read_mapping
from tinymoe.oracle.dumps.presets import names, preset
from tinymoe.oracle.dumps.sglang import (
    DUMPER_FILES,
    HOOK_FILES,
    read_dumper_folder,
    read_hook_folder,
    read_torch_dump,
)
from tinymoe.oracle.dumps.vllm import read_routing
from tinymoe.safetensors_file import SafetensorsFile

PRESETS = {
    "llama.cpp": "llama_cpp",
    "sglang-dumper": "sglang_dumper",
    "sglang-hooks": "sglang_hooks",
    "vllm": "vllm",
}  # kind -> its mapping


def kind_of(path: Path) -> str:
    """What a file or folder looks like, by its name and its files' names alone."""
    if path.is_dir():
        folders = {
            HOOK_FILES: "sglang-hooks",
            DUMPER_FILES: "sglang-dumper",
            "*.npy": "numpy",
            f"*/{HOOK_FILES}": "sglang-hooks",
            f"*/{DUMPER_FILES}": "sglang-dumper",
        }
        for files, kind in folders.items():
            if any(path.glob(files)):
                return kind
        raise TinymoeError(
            f"{path}: expected Pass00000.pt files, name=...___rank=....pt files or .npy files"
        )
    if not path.exists():
        raise TinymoeError(f"{path}: no such file")
    kinds = {".safetensors": "safetensors", ".pt": "torch", ".pth": "torch", ".npz": "numpy",
             ".txt": "llama.cpp", ".log": "llama.cpp", ".json": "vllm"}  # fmt: skip
    if path.suffix not in kinds:
        raise TinymoeError(
            f"{path}: which kind of dump is it? Known by their endings: {', '.join(kinds)}"
        )
    return kinds[path.suffix]


def read_raw(path: Path, *, rank: int = 0, step: int | None = None) -> dict[str, Array]:
    """The dump's tensors under the engine's own names; bfloat16 widened to float32."""
    readers: dict[str, Callable[[], dict[str, Array]]] = {
        "safetensors": lambda: read_safetensors(path),
        "torch": lambda: read_torch_dump(path),
        "sglang-dumper": lambda: read_dumper_folder(path, rank=rank, step=step),
        "sglang-hooks": lambda: read_hook_folder(path, rank=rank, step=step),
        "llama.cpp": lambda: read_eval_callback(path),
        "numpy": lambda: read_arrays(path),
        "vllm": lambda: read_routing(path),
    }
    return readers[kind_of(path)]()


def read_dump(
    path: Path, mapping: Path | str | None = None, *, rank: int = 0, step: int | None = None
) -> Mapped:
    """The dump's tensors under the names of a trace.

    `mapping`: a file, or a preset's name; None is the preset of the kind, or no change of names.
    """
    raw = read_raw(path, rank=rank, step=step)
    rules = _rules(mapping, kind_of(path))
    return Mapped(raw) if rules is None else apply_mapping(raw, rules)


def _rules(mapping: Path | str | None, kind: str) -> Sequence[Rule] | None:
    if mapping is None:
        return preset(PRESETS[kind]) if kind in PRESETS else None
    if isinstance(mapping, str) and mapping in names():
        return preset(mapping)
    path = Path(mapping)
    if not path.exists():
        raise TinymoeError(f"{path}: no such file, and no preset; presets: {', '.join(names())}")
    return read_mapping(path)


def read_safetensors(path: Path) -> dict[str, Array]:
    """All tensors, in the order of the file's bytes."""
    file = SafetensorsFile(path)
    found = {}
    for name, entry in sorted(file.entries.items(), key=lambda item: item[1].start):
        bits = np.array(file.raw(name))
        found[name] = bf16.decode(bits) if entry.dtype == "BF16" else bits
    return found


def read_arrays(path: Path) -> dict[str, Array]:
    """A .npz, or the .npy files of a folder; arrays of objects would be pickles and are refused."""
    try:
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            return {file.stem: np.load(file, allow_pickle=False) for file in files}
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError) as error:
        raise TinymoeError(
            f"{path}: expected arrays of numbers as NumPy saves them: {error}"
        ) from (error)
