"""The header of a safetensors file: what must be refused, and what must not be.

The library that defines the format accepts some files that two readers would understand
differently (of two equal keys it keeps one). Each case here is a file that some loader takes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tinymoe.core import TinymoeError
from tinymoe.safetensors_file import DTYPES, MAX_HEADER, SafetensorsFile

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


def opened(tmp_path: Path, content: bytes) -> SafetensorsFile:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    return SafetensorsFile(path)


GOOD = tensor("F32", [2], 0, 8)
TWICE = json.dumps({"a": GOOD, "b": GOOD}).replace('"b"', '"a"')

REFUSED = {
    "empty file": (b"", "at least 8 bytes"),
    "7 bytes": (b"\0" * 7, "at least 8 bytes"),
    "header longer than the file": ((100).to_bytes(8, "little") + b"{}", "cut off"),
    "header over the limit": ((MAX_HEADER + 1).to_bytes(8, "little") + b"{}", "cut off"),
    "header length of 2^64 - 1": (b"\xff" * 8 + b"{}", "cut off"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "UTF-8"),
    "not JSON": (pack("{a}"), "plain JSON"),
    "an empty header": (pack(""), "begins with {"),
    "a list": (pack("[]"), "begins with {"),
    "leading spaces": (pack("  {}"), "begins with {"),
    "text after the object": (pack("{} x"), "plain JSON"),
    "a key twice": (pack(TWICE, b"\0" * 8), "'a' appears twice"),
    "a field twice": (
        pack('{"a": {"dtype": "U8", "dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}', b"0"),
        "'dtype' appears twice",
    ),
    "deep nesting": (pack('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"), "nested"),
    "metadata not strings": (pack({"__metadata__": {"step": 3}}), "__metadata__"),
    "metadata not an object": (pack({"__metadata__": ["x"]}), "__metadata__"),
    "tensor not an object": (pack({"a": 3}), "expected the fields"),
    "field missing": (pack({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8), "data_offsets"),
    "field unknown": (pack({"a": {**GOOD, "stride": [1]}}, b"\0" * 8), "expected the fields"),
    "dtype unknown": (pack({"a": tensor("F12", [2], 0, 8)}, b"\0" * 8), "'F12'"),
    "dtype not text": (pack({"a": tensor(["F32"], [2], 0, 8)}, b"\0" * 8), "dtype"),
    "shape negative": (pack({"a": tensor("F32", [-2], 0, 8)}, b"\0" * 8), "integers >= 0"),
    "shape fractional": (pack({"a": tensor("F32", [2.0], 0, 8)}, b"\0" * 8), "integers >= 0"),
    "shape boolean": (pack({"a": tensor("F32", [True, 2], 0, 8)}, b"\0" * 8), "integers >= 0"),
    "shape not a list": (pack({"a": tensor("F32", 2, 0, 8)}, b"\0" * 8), "integers >= 0"),
    "shape of 33 dimensions": (pack({"a": tensor("U8", [1] * 33, 0, 1)}, b"0"), "at most 32"),
    "shape overflows": (pack({"a": tensor("F32", [2**62, 4], 0, 8)}, b"\0" * 8), "overflows"),
    "empty shape overflows": (pack({"a": tensor("F32", [0, 2**62, 8], 0, 0)}), "overflows"),
    "number of 5,000 digits": (pack('{"a": ' + "9" * 5000 + "}"), "plain JSON"),
    "size mismatch": (pack({"a": tensor("F32", [2], 0, 4)}, b"\0" * 4), "takes 8 bytes"),
    "offsets reversed": (pack({"a": tensor("F32", [2], 8, 0)}, b"\0" * 8), r"\[begin, end\]"),
    "offsets negative": (pack({"a": tensor("F32", [2], -8, 0)}, b"\0" * 8), r"\[begin, end\]"),
    "overlap": (
        pack({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, b"\0" * 6),
        "'b' overlaps tensor 'a'",
    ),
    "empty tensor inside another": (
        pack({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [0], 2, 2)}, b"\0" * 4),
        "'b' overlaps",
    ),
    "hole": (
        pack({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 3, 5)}, b"\0" * 5),
        "hole after tensor 'a'",
    ),
    "hole at the start": (pack({"a": tensor("U8", [2], 1, 3)}, b"\0" * 3), "hole after the header"),
    "tail that nothing covers": (pack({"a": GOOD}, b"\0" * 9), "tail"),
    "cut off": (pack({"a": GOOD}, b"\0" * 7), "cut off"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_safetensors_is_refused(name: str, tmp_path: Path) -> None:
    content, says = REFUSED[name]
    with pytest.raises(TinymoeError, match=says) as error:
        opened(tmp_path, content)
    assert "x.safetensors" in str(error.value)  # names the file


ALLOWED = {
    "no tensors": pack("{}"),
    "padded header": pack(json.dumps({"a": GOOD}) + " " * 13, b"\0" * 8),
    "metadata": pack({"__metadata__": {"format": "pt"}, "a": GOOD}, b"\0" * 8),
    "empty tensors between others": pack(
        {
            "z": tensor("F32", [0, 3], 8, 8),
            "b": tensor("U8", [1], 8, 9),
            "a": GOOD,
            "y": tensor("BF16", [2, 0], 0, 0),
        },
        b"\0" * 9,
    ),
    "rank 0": pack({"a": tensor("F64", [], 0, 8)}, b"\0" * 8),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_unusual_but_correct_files_open(name: str, tmp_path: Path) -> None:
    # a reader that refuses these refuses files that exporters write
    file = opened(tmp_path, ALLOWED[name])
    for key, entry in file.entries.items():
        assert file.raw(key).shape == entry.shape
        assert file.raw(key).nbytes == entry.nbytes


@given(st.binary(max_size=200))
def test_random_bytes_never_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    # whatever the bytes, the error is ours; in the second form they reach the header's parser
    folder = tmp_path_factory.mktemp("random")
    for data in (content, pack(b"{" + content), pack(b'{"a": ' + content + b"}")):
        with suppress(TinymoeError):
            opened(folder, data)


def test_every_dtype_is_read_as_the_library_writes_it(tmp_path: Path) -> None:
    # names and widths of dtypes against an independent writer
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.integers(0, 2 if name == "BOOL" else 100, (3, 2)).astype(dtype)
        for name, dtype in DTYPES.items()
        if name != "BF16" and not name.startswith("F8")  # NumPy has none of these
    }
    save_file(arrays, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        assert file.entries[name].dtype == name
        np.testing.assert_array_equal(file.raw(name), array)
