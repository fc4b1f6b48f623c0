"""Opening model folders: values read exactly, and what must be refused by name.

transformers follows paths out of the folder and takes NaN from config.json and an integer norm:
each case here is a folder that some loader takes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import TinymoeError
from tinymoe.strict_json import MAX_DEPTH, parse_object

pytestmark = pytest.mark.definition


def pack(header: str | bytes | dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file from a header, however wrong."""
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return len(header).to_bytes(8, "little") + header + data


def tensor(dtype: object, shape: object, begin: object, end: object) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# ------------------------------------------------------------------------------- folders


def bf16_bytes(*values: float) -> bytes:
    return (np.array(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one small file of each float type."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text('{"model_type": "x", "eos_token_id": 3}')
    header = {
        "bf": tensor("BF16", [2, 2], 0, 8),
        "half": tensor("F16", [2], 8, 12),
        "double": tensor("F64", [1], 12, 20),  # not at a multiple of its size
        "fp8": tensor("F8_E4M3", [3], 20, 23),
        "whole": tensor("I32", [1], 23, 27),
    }
    data = bf16_bytes(1.5, -2.0, float("inf"), 2.0**-133) + np.array([0.1, -7], "<f2").tobytes()
    data += np.array([0.1], "<f8").tobytes() + b"\x01\x02\x83" + b"\0" * 4
    (made / "model.safetensors").write_bytes(pack(header, data))
    return made


def test_values_are_widened_exactly(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    for dtype in ("float32", "float64"):
        got = checkpoint.read("bf", dtype)
        assert got.dtype == dtype
        # 2^-133 is a subnormal of BF16 and of float32: a reader that flushes it loses it
        np.testing.assert_array_equal(got, np.array([[1.5, -2.0], [np.inf, 2.0**-133]], dtype))
        np.testing.assert_array_equal(
            checkpoint.read("half", dtype), np.array([0.1, -7], np.float16).astype(dtype)
        )
    assert checkpoint.read("double", np.float64)[0] == 0.1


def test_what_cannot_be_exact_is_refused(folder: Path) -> None:
    # 0.1 in F64 has no float32; FP8 without its scales is not the weight
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(TinymoeError, match=r"F64.*'exact'"):
        checkpoint.read("double", np.float32)
    with pytest.raises(TinymoeError, match=r"F8_E4M3.*\.raw"):
        checkpoint.read("fp8", np.float32)
    with pytest.raises(TinymoeError, match="I32"):
        checkpoint.read("whole", np.float64)
    with pytest.raises(TinymoeError, match="float16"):
        checkpoint.read("bf", np.dtype(np.float16))
    with pytest.raises(TinymoeError, match="shape"):
        checkpoint.read_into("half", np.empty((2, 1), np.float32))
    with pytest.raises(TinymoeError, match="'other'"):
        checkpoint.read("other", np.float32)


def test_raw_gives_bits_that_cannot_be_written(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.raw("bf").dtype == np.uint16
    assert checkpoint.raw("fp8").tolist() == [1, 2, 0x83]
    with pytest.raises(ValueError, match="read-only"):
        checkpoint.raw("bf")[0, 0] = 0
    entry = checkpoint.entry("bf")
    assert (entry.dtype, entry.shape, entry.nbytes) == ("BF16", (2, 2), 8)
    assert entry.file == folder / "model.safetensors"
    assert checkpoint.names() == ["bf", "double", "fp8", "half", "whole"]


def test_opening_does_not_read_the_weights(tmp_path: Path) -> None:
    # a 64 GB file (holes on disk, no blocks behind them) opens and gives its last value
    size = 2**36
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(pack({"a": tensor("U8", [size], 0, size)}))
        file.truncate(file.tell() + size)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.raw("a")[-1] == 0


def test_hash_is_that_of_the_bytes(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    assert Checkpoint.open(folder).hash() == hashlib.sha256(content).hexdigest()


def test_end_ids_come_from_the_first_file_that_has_them(folder: Path) -> None:
    # GLM and Qwen list several; an engine that reads only config.json runs past the turn's end
    assert Checkpoint.open(folder).end_ids == (3,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert Checkpoint.open(folder).end_ids == (5, 6)
    (folder / "generation_config.json").write_text('{"eos_token_id": null}')
    assert Checkpoint.open(folder).end_ids == (3,)
    (folder / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}')
    with pytest.raises(TinymoeError, match="eos_token_id"):
        _ = Checkpoint.open(folder).end_ids


def no_config(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return folder


def pickled(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def emptied(folder: Path) -> Path:
    empty = folder / "empty"
    empty.mkdir()
    return empty


WRONG_PATHS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "nowhere", "no such folder"),
    "a file": (lambda folder: folder / "model.safetensors", "found a file; give its folder"),
    "empty": (emptied, "empty folder"),
    "no config": (no_config, "no config.json but model.safetensors"),
    "pickled weights": (pickled, "never opened"),
}


@pytest.mark.parametrize("name", WRONG_PATHS)
def test_wrong_path_says_what_is_there(name: str, folder: Path) -> None:
    change, says = WRONG_PATHS[name]
    with pytest.raises(TinymoeError, match=says):
        Checkpoint.open(change(folder))


# ------------------------------------------------------------------------------- shards


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    made = tmp_path / "sharded"
    made.mkdir()
    (made / "config.json").write_text("{}")
    for number, name in enumerate("ab", start=1):
        content = pack({name: tensor("F32", [1], 0, 4)}, np.float32(number).tobytes())
        (made / f"part-{number}.safetensors").write_bytes(content)
    write_index(made, {"a": "part-1.safetensors", "b": "part-2.safetensors"})
    return made


def write_index(folder: Path, weight_map: object) -> None:
    text = json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_are_one_checkpoint(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    assert [checkpoint.read(name, np.float32).item() for name in checkpoint.names()] == [1, 2]
    content = b"".join(file.read_bytes() for file in sorted(sharded.glob("*.safetensors")))
    assert checkpoint.hash() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "shard",
    [
        "../part-1.safetensors",  # transformers follows this one, and the next two
        "/etc/part-1.safetensors",
        "sub/part-1.safetensors",
        "sub\\part-1.safetensors",
        "C:part-1.safetensors",
        "..",
        "",
        "part-1.bin",
        "part\0-1.safetensors",
        "x" * 300 + ".safetensors",
        7,
        None,
    ],
)
def test_index_cannot_leave_the_folder(sharded: Path, shard: object) -> None:
    write_index(sharded, {"a": shard})
    with pytest.raises(TinymoeError, match="without any path"):
        Checkpoint.open(sharded)


def test_index_must_agree_with_its_shards(sharded: Path) -> None:
    write_index(sharded, {"a": "part-3.safetensors"})
    with pytest.raises(TinymoeError, match=r"part-3\.safetensors.*is not in"):
        Checkpoint.open(sharded)
    write_index(sharded, {"a": "part-2.safetensors"})
    with pytest.raises(TinymoeError, match="holds 'a', but it does not"):
        Checkpoint.open(sharded)
    for wrong in ({}, [], None):
        write_index(sharded, wrong)
        with pytest.raises(TinymoeError, match="weight_map"):
            Checkpoint.open(sharded)


def test_tensor_that_the_index_forgets_is_a_warning(sharded: Path) -> None:
    content = pack({n: tensor("U8", [1], i, i + 1) for i, n in enumerate("ac")}, b"\0\0")
    (sharded / "part-1.safetensors").write_bytes(content)
    with pytest.warns(UserWarning, match="does not list c"):
        Checkpoint.open(sharded)


# ------------------------------------------------------------------------------- JSON

BAD_JSON = {
    "not an object": ("[1]", "found list"),
    "NaN": ('{"rms_norm_eps": NaN}', "NaN"),  # transformers takes it
    "infinity": ('{"a": -Infinity}', "Infinity"),
    "too large a number": ('{"a": 1e999}', "too large"),
    "cut off": ('{"a": 1', "plain JSON"),
    "a key twice": ('{"a": 1, "a": 2}', "twice"),
    "a level too deep": ('{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "nested"),
    "far too deep": ('{"a": ' + '{"a": ' * 50_000, "nested"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_config_that_is_not_plain_json_is_refused(name: str, folder: Path) -> None:
    text, says = BAD_JSON[name]
    (folder / "config.json").write_text(text)
    with pytest.raises(TinymoeError, match=says) as error:
        Checkpoint.open(folder)
    assert "config.json" in str(error.value)


def test_nesting_up_to_the_limit_is_read() -> None:
    text = '{"a": ' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    assert "a" in parse_object(text.encode(), "x")
