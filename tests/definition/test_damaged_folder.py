"""Whatever random damage makes of a good model folder: it loads, or is refused with a message."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.definition.test_hostile import FILES, QWEN, use
from tinymoe.core import TinymoeError

pytestmark = pytest.mark.definition

HOSTILE = [
    *(None, True, -1, 0, 1, 2**31, 10**30, 0.5, 1e308, "", "x", "../x", [], {}, [[]], [-1]),
    *({"a": 1}, "(a+)+$", "\ud800", "\0"),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be changed."""
    found = [path] if path else []
    inner: Any = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        found += places(item, (*path, key))
    return found[:2000]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_folder_loads_or_is_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    for name in (*FILES, "model.safetensors"):
        shutil.copy(QWEN / name, folder)
    file = folder / data.draw(st.sampled_from([*FILES, "model.safetensors"]))
    if file.suffix == ".json" and data.draw(st.booleans()):
        content = json.loads(file.read_text(encoding="utf-8"))
        *path, last = data.draw(st.sampled_from(places(content)))
        target = content
        for key in path:
            target = target[key]
        target[last] = data.draw(st.sampled_from(HOSTILE))
        file.write_text(json.dumps(content), encoding="utf-8")
    else:
        content = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, min(len(content), 20_000)))  # a header has about 10,000
        stop = start + data.draw(st.sampled_from([0, 1, 8, len(content)]))
        content[start:stop] = data.draw(st.binary(max_size=9))
        file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            use(folder)
        except TinymoeError as error:
            message = str(error)
        else:
            message = "none"
    assert message
