"""Opening a folder whose index and shards may contradict each other, and saying where they do.

`Checkpoint.open` refuses such a folder. Here the tensors that are there are taken, and the
contradictions kept. A file that is no safetensors file is refused all the same: nothing in it can
be believed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tinymoe.checkpoint import INDEX, WEIGHTS, Checkpoint
from tinymoe.safetensors_file import SafetensorsFile
from tinymoe.strict_json import read_object


@dataclass(frozen=True, slots=True)
class IndexFaults:
    """What index and shards say differently."""

    shadowed: bool = False  # model.safetensors and an index beside each other
    absent: dict[str, list[str]] = field(default_factory=dict)  # file -> tensors it should hold
    not_inside: dict[str, str] = field(default_factory=dict)  # tensor -> file that should hold it
    unlisted: dict[str, str] = field(default_factory=dict)  # tensor -> file that holds it
    elsewhere: set[str] = field(default_factory=set)  # of those: in the index for another file
    bad_names: dict[str, str] = field(default_factory=dict)  # tensor -> what names its file

    def promised(self) -> set[str]:
        """Tensors that the index lists and that are not where it says."""
        absent = {name for names in self.absent.values() for name in names}
        return absent | set(self.not_inside) | set(self.bad_names)


def open_folder(path: str | Path) -> tuple[Checkpoint, IndexFaults]:
    """The folder as far as it can be opened. `TinymoeError` where it cannot."""
    folder = Path(path)
    single, index = (folder / WEIGHTS).is_file(), (folder / INDEX).is_file()
    if single or not index or not (folder / "config.json").is_file():
        return Checkpoint.open(folder), IndexFaults(shadowed=single and index)
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return Checkpoint.open(folder), IndexFaults()  # raises, and says what was expected
    config = read_object(folder / "config.json")
    extra = folder / "generation_config.json"
    generation = read_object(extra) if extra.is_file() else {}
    files, home, faults = _shards(folder, weight_map)
    return Checkpoint(folder, config, generation, files, home), faults


def _shards(
    folder: Path, weight_map: dict[str, object]
) -> tuple[tuple[SafetensorsFile, ...], dict[str, SafetensorsFile], IndexFaults]:
    faults = IndexFaults()
    there = {file.name: file for file in sorted(folder.glob("*.safetensors")) if file.is_file()}
    opened: dict[str, SafetensorsFile] = {}
    home: dict[str, SafetensorsFile] = {}
    for name, shard in weight_map.items():
        # "there" has plain names alone, so that no path leads out of the folder
        if not isinstance(shard, str) or set(shard) & set("/\\:"):
            faults.bad_names[name] = str(shard)
        elif shard not in there:
            faults.absent.setdefault(shard, []).append(name)
        else:
            if shard not in opened:
                opened[shard] = SafetensorsFile(there[shard])
            if name in opened[shard].entries:
                home[name] = opened[shard]
            else:
                faults.not_inside[name] = shard
    for shard, file in opened.items():
        for name in file.entries:
            if home.get(name) is not file:
                faults.unlisted[name] = shard
                if name in weight_map:
                    faults.elsewhere.add(name)
    return tuple(opened[name] for name in sorted(opened)), home, faults
