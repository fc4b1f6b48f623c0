"""Mappings that come with tinymoe, by name."""

from __future__ import annotations

from pathlib import Path

from tinymoe.core import TinymoeError
from tinymoe.oracle.dumps.mapping import Rule, read_mapping

FOLDER = Path(__file__).parent / "mappings"


def names() -> tuple[str, ...]:
    """What `preset` knows."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def preset(name: str) -> tuple[Rule, ...]:
    """The rules of one."""
    if name not in names():
        raise TinymoeError(f"no mapping is called {name!r}; there are {', '.join(names())}")
    return read_mapping(FOLDER / f"{name}.toml")
