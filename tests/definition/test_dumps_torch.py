"""torch's files, read without torch and without running what is in them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.oracle.dumps import read_raw
from tinymoe.oracle.dumps.torch_file import read_torch_file

SAMPLES = Path(__file__).parents[1] / "vectors" / "dumps"


def counted(*shape: int, first: int = 0) -> np.ndarray:
    """As `make_dumps.py` counts."""
    return ((np.arange(np.prod(shape)) + first) / 8).reshape(shape)


def test_every_kind_of_tensor_of_a_torch_file():
    read = read_torch_file(SAMPLES / "many_kinds.pt")
    whole = counted(4, 6)
    expected = {
        "transposed": whole.T,
        "slice": whole[1:3, 2:5],  # an offset and strides that do not fill the storage
        "expanded": np.broadcast_to(counted(1, 3), (2, 3)),  # a stride of 0
        "empty": np.empty((0, 3)),
        "scalar": np.array(0.5),
        "half": counted(2, 2),
        "double": counted(2, 2),
        "bool": np.array([True, False]),
        "u16": np.arange(3),
        "fp8": np.array([0x38, 0xC0]),  # the codes of 1 and -2
        "parameter": counted(2, 2),
    }
    for name, value in expected.items():
        assert read[name].shape == value.shape, name
        assert np.array_equal(read[name], value), name
    assert read["half"].dtype == np.float16
    assert read["double"].dtype == np.float64
    assert read["u16"].dtype == np.uint16
    assert [len(read["nested"]["list"]), read["nested"]["list"][3]] == [5, "text"]


def test_nested_tensors_get_names_and_texts_are_left_out():
    raw = read_raw(SAMPLES / "many_kinds.pt")
    assert {n for n in raw if n.startswith("list")} == {"list[0]", "list[4][0]", "list[4][1]"}
    assert np.array_equal(raw["list[4][1]"], counted(1, first=1))


def test_a_module_in_a_file_is_refused_by_name():
    with pytest.raises(TinymoeError, match="asks for torch.nn.modules.linear.Linear"):
        read_torch_file(SAMPLES / "a_module.pt")


def test_a_file_that_would_run_code_does_not(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "ran", "code"))

    with zipfile.ZipFile(tmp_path / "attack.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": Attack()}))
    with pytest.raises(TinymoeError, match="asks for pathlib"):
        read_torch_file(tmp_path / "attack.pt")
    assert not (tmp_path / "ran").exists()


def _tensor_pickle(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> bytes:
    """By hand: torch._utils._rebuild_tensor_v2(storage of 4 floats, offset, size, stride)."""
    parts = [b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("]
    parts += [b"X\x07\x00\x00\x00storage", b"ctorch\nFloatStorage\n", b"X\x01\x00\x00\x000"]
    parts += [b"X\x03\x00\x00\x00cpu", b"K\x04", b"tQ"]

    def number(n: int) -> bytes:
        return b"J" + n.to_bytes(4, "little", signed=True)

    parts += [number(offset)]
    for axis in (size, stride):
        parts += [b"(", *map(number, axis), b"t"]
    return b"".join([*parts, b"\x89}tR."])


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (3, 1), 0), ((2,), (-1,), 1), ((1,), (1,), -1)],
)
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path, size, stride, offset):
    """Strides are the file's word: taken on trust they read the process's memory."""
    path = tmp_path / "bad.pt"

    def write(data: bytes) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", data)
            archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())

    write(_tensor_pickle((2, 2), (2, 1), 0))
    assert np.array_equal(read_torch_file(path), [[0, 1], [2, 3]])
    write(_tensor_pickle(size, stride, offset))
    with pytest.raises(TinymoeError, match="reaches out"):
        read_torch_file(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_what_is_no_torch_file(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(TinymoeError, match="expected a file of torch.save"):
        read_torch_file(tmp_path / "x.pt")
