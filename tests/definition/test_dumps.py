"""Other engines' dumps: read without their software, and under a trace's names."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import numpy.ma as ma
import pytest
from safetensors.numpy import save_file

import tinymoe
from tinymoe.core import TinymoeError
from tinymoe.oracle.dumps import kind_of, presets, read_dump
from tinymoe.oracle.dumps.llama_cpp import read_eval_callback
from tinymoe.oracle.dumps.mapping import Rule, apply_mapping, read_mapping

SAMPLES = Path(__file__).parents[1] / "vectors" / "dumps"


def counted(*shape: int, first: int = 0) -> np.ndarray:
    """As `make_dumps.py` counts."""
    return ((np.arange(np.prod(shape)) + first) / 8).reshape(shape)


# ------------------------------------------------------------------------------- llama.cpp


def eval_callback(name: str, values: np.ndarray, op: str = "MUL_MAT", dtype: str = "f32") -> str:
    """Print an array as `common/debug.cpp` does: the corners, four decimals, the sum."""
    shape = (1,) * (4 - values.ndim) + values.shape
    sizes = ", ".join(map(str, shape[::-1]))
    lines = [
        f"common_debug_cb_eval: {name:>24} = ({dtype}) {op:>10}(a{{1}}, b{{2}}}}) = {{{sizes}}}"
    ]

    def ends(n: int) -> list[int | None]:
        return [*range(n)] if n <= 6 else [0, 1, 2, None, n - 3, n - 2, n - 1]

    for cube in values.reshape(shape):
        lines.append("    [")
        for z in ends(shape[1]):
            if z is None:
                lines.append("        ..., ")
                continue
            lines.append("        [")
            for y in ends(shape[2]):
                if y is None:
                    lines.append("            ..., ")
                    continue
                row = cube[z, y]
                texts = ["   ..." if x is None else f"{row[x]:12.4f}" for x in ends(shape[3])]
                lines.append("            [" + ", ".join(texts) + "  ],")
            lines.append("        ],")
        lines += ["    ]", f"    sum = {values.sum():f}"]
    return "\n".join(lines) + "\n"


def test_llama_cpp_prints_corners_and_the_rest_is_masked(tmp_path):
    logits, few = counted(5, 16) - 3, np.array([[1.5, float("nan")], [float("-inf"), -2.0]])
    text = "build: 1234\n" + eval_callback("ffn_moe_logits-0", logits) + "noise\n"
    text += eval_callback("Qcur-0", counted(9, 7, 8)) + eval_callback("few", few)
    (tmp_path / "out.txt").write_text(text)
    raw = read_eval_callback(tmp_path / "out.txt")
    shown = raw["ffn_moe_logits-0"]
    assert shown.shape == (5, 16)
    assert np.array_equal(~shown.mask, np.ones((5, 1)) * [i < 3 or i > 12 for i in range(16)])
    # Printed to four decimals, so within half of 1e-4; multiples of 1/8 are printed exactly.
    assert np.array_equal(shown.compressed(), logits[~shown.mask])
    assert (~raw["Qcur-0"].mask).sum() == 6 * 6 * 6
    assert np.array_equal(ma.getdata(raw["few"]), few, equal_nan=True)


def test_llama_cpp_names_become_taps_and_the_last_of_a_name_counts(tmp_path):
    ids = np.array([[3, 1], [0, 2]])
    text = eval_callback("Qcur-3", counted(2, 2, 4)) + eval_callback("Qcur-3", counted(2, 2, 4) + 1)
    text += eval_callback("Qcur-3 (view)", counted(2, 2, 4), op="VIEW")
    text += eval_callback("ffn_moe_topk-3", ids, op="VIEW", dtype="i32")
    (tmp_path / "out.log").write_text(text)
    taps = read_dump(tmp_path / "out.log")
    assert np.array_equal(taps["layers.3.attn.q"], counted(2, 2, 4) + 1)
    assert taps["layers.3.router.ids"].dtype == np.int64
    assert np.array_equal(taps["layers.3.router.ids"], ids)


def test_what_llama_cpp_really_printed_is_what_tinymoe_computes(tmp_path):
    """llama-eval-callback 0.5.0-dev (llama.cpp 0c1e570), f32, on the parity case's checkpoint.

    llama-eval-callback -m F32.gguf -p "hello there" -ctk f32 -ctv f32 -fa off
    """
    path = tmp_path / "out.txt"
    path.write_bytes(lzma.decompress((SAMPLES / "llama_cpp_qwen3_moe.txt.xz").read_bytes()))
    theirs = read_dump(path)
    model = tinymoe.load(SAMPLES.parent / "parity" / "qwen3_moe")
    ours = model.trace([258, 75, 75, 78, 260, 262])
    assert len(theirs) == 3 + 3 * 13  # embed, final_norm, logits; and of each layer what is mapped
    for name, value in theirs.items():
        assert value.shape == ours[name].shape, name
        off = np.abs(value - ours[name]).compressed().max()  # of nothing, an error
        # Half of the last printed decimal, and what two float32 engines may differ by (1e-4, see
        # test_parity.py).
        assert off <= (0 if name.endswith("ids") else 0.5e-4 + 1e-4), name


def test_llama_cpp_text_that_is_cut_or_something_else(tmp_path):
    path = tmp_path / "out.txt"
    text = eval_callback("l_out-0", counted(4, 4))
    lines = text.splitlines()
    path.write_text("\n".join(lines[:5] + lines[6:]))
    with pytest.raises(TinymoeError, match="expected 16 printed numbers, found 12"):
        read_eval_callback(path)
    path.write_text("hello")
    with pytest.raises(TinymoeError, match="expected the output of llama-eval-callback"):
        read_eval_callback(path)


# ------------------------------------------------------------------------------- mappings


def test_the_steps_of_a_rule():
    x = counted(1, 3, 8)
    tensors = {"qkv.4": x.astype(np.float32), "res.4": np.ones((1, 3, 8), np.float32)}
    rules = [
        Rule(match=r"qkv\.(\d)", tap="layers.{1}.attn.q", squeeze=True, columns=":4", heads=2,
             also=True),
        Rule(match=r"qkv\.(\d)", tap="layers.{1}.attn.k", squeeze=True, columns="4:6", rows="1:",
             also=True),
        Rule(match=r"qkv\.(\d)", tap="layers.{1}.out", plus="res.{1}", squeeze=True,
             transpose=(1, 0), also=True),
        Rule(match=r"qkv\.(\d)", tap="layers.{1}.attn.mix", join=3),
        Rule(match=r"res\..*"),
    ]  # fmt: skip
    taps = apply_mapping(tensors, rules)
    assert np.array_equal(taps["layers.4.attn.q"], x[0, :, :4].reshape(3, 2, 2))
    assert np.array_equal(taps["layers.4.attn.k"], x[0, 1:, 4:6])
    assert np.array_equal(taps["layers.4.out"], x[0].T + 1)
    assert taps["layers.4.attn.mix"].shape == (24,)
    assert taps.unknown == ()


def test_the_layer_before():
    """Residuals come out of the norm of the layer after."""
    taps = apply_mapping(
        {"res.12": counted(2, 3)}, [Rule(match=r"res\.(\d+)", tap="layers.{1-1}.out")]
    )
    assert set(taps) == {"layers.11.out"}


def test_bits_seen_as_another_type():
    bits = np.array([0x3F80, 0xC000], np.uint16)
    taps = apply_mapping({"a": bits}, [Rule(match="a", tap="embed", view="bfloat16")])
    assert np.array_equal(taps["embed"], [1.0, -2.0])
    whole = np.array([1.0, -2.0], np.float32).view(np.int32)
    taps = apply_mapping({"a": whole}, [Rule(match="a", tap="embed", view="float32")])
    assert np.array_equal(taps["embed"], [1.0, -2.0])
    with pytest.raises(TinymoeError, match="bfloat16 has 2 bytes"):
        apply_mapping({"a": whole}, [Rule(match="a", tap="embed", view="bfloat16")])


@pytest.mark.parametrize(
    ("tensors", "rule", "says"),
    [
        ({"a": 1, "b": 1}, Rule(match="[ab]", tap="embed"), "both 'a' and 'b'"),
        ({"c": 1}, Rule(match="a", tap="embed"), "no rule matches any"),
        ({"a": 1}, Rule(match="a", tap="layers.{2}"), "a group that"),
        ({"a": 1}, Rule(match="(a)", tap="layers.{1-1}"), "no number in 'a'"),
        ({"a": 1}, Rule(match="a", tap="embed", plus="b"), "not in the dump"),
        ({"a": 1}, Rule(match="a", tap="embed", heads=3), "no 3 equal heads"),
        ({"a": 1}, Rule(match="a", tap="embed", transpose=(1, 0, 2)), "no order"),
        ({"a": 1}, Rule(match="a", tap="embed", join=4), "no 4 axes"),
    ],
)
def test_rules_that_cannot_be_followed(tensors, rule, says):
    arrays = {name: np.zeros((2, 4)) for name in tensors}
    with pytest.raises(TinymoeError, match=says):
        apply_mapping(arrays, [rule])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "tables"),
        ("x = ", "in TOML"),
        ("[[tensor]]\ntap = 'embed'", "with `match`"),
        ("[[tensor]]\nmatch = '('", "regular expression"),
        ("[[tensor]]\nmatch = 'a'\nrename = 'b'", "unknown key 'rename'"),
        ("[[tensor]]\nmatch = 'a'\ntap = 5", "tap must be a str"),
        ("[[tensor]]\nmatch = 'a'\ncolumns = 'x'", "expected a slice"),
        ("[[tensor]]\nmatch = 'a'\ntranspose = [1]", "order of axes"),
        ("[[tensor]]\nmatch = 'a'\n[other]\n", "found other"),
    ],
)
def test_mapping_files_that_are_none(tmp_path, text, says):
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(TinymoeError, match=says):
        read_mapping(tmp_path / "m.toml")


def test_every_preset_is_a_mapping():
    assert set(presets.names()) == {
        "llama_cpp",
        "sglang_dumper",
        "sglang_hooks",
        "transformers",
        "vllm",
    }
    for name in presets.names():
        assert presets.preset(name)
    with pytest.raises(TinymoeError, match="there are llama_cpp"):
        presets.preset("nothing")


def test_plain_files_with_a_mapping_of_ones_own(tmp_path):
    save_file({"h.0": counted(2, 3).astype(np.float32)}, tmp_path / "x.safetensors")
    (tmp_path / "m.toml").write_text("[[tensor]]\nmatch = 'h\\.(\\d+)'\ntap = 'layers.{1}.out'\n")
    taps = read_dump(tmp_path / "x.safetensors", tmp_path / "m.toml")
    assert np.array_equal(taps["layers.0.out"], counted(2, 3))
    assert set(read_dump(tmp_path / "x.safetensors")) == {"h.0"}
    np.savez(tmp_path / "x.npz", embed=counted(2, 3))
    assert np.array_equal(read_dump(tmp_path / "x.npz")["embed"], counted(2, 3))
    np.save(tmp_path / "embed.npy", np.array([{}], dtype=object))
    with pytest.raises(TinymoeError, match="arrays of numbers"):
        read_dump(tmp_path)
    with pytest.raises(TinymoeError, match="no such file, and no preset"):
        read_dump(tmp_path / "x.npz", "nothing")


def test_what_is_no_dump(tmp_path):
    with pytest.raises(TinymoeError, match="no such file"):
        kind_of(tmp_path / "x.pt")
    with pytest.raises(TinymoeError, match="expected Pass00000.pt"):
        kind_of(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(TinymoeError, match="which kind of dump"):
        kind_of(tmp_path / "x.bin")
