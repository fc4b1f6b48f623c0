"""Golden vectors: the files are what the code makes, right by other means, and kill what they say.

A wrong vector is worse than none: everybody who trusts it goes wrong. So the definition and its
slow twins must pass all, and every claim of a card is proved by running the mutants.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests import vector_table
from tests.stored import config_of
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import FAMILIES, read_config
from tinymoe.formats import e2m1
from tinymoe.formats.e2m1 import RULES
from tinymoe.formats.gemm import exact_naive
from tinymoe.kernels.contracts import CONTRACTS
from tinymoe.model.rope import rope_naive
from tinymoe.model.router import route_naive
from tinymoe.oracle.mutants import mutant
from tinymoe.oracle.vectors import (
    COUNTED,
    Vector,
    made,
    problems,
    read_index,
    read_vector,
    read_vectors,
    survivors,
    write_vectors,
    wrong,
)
from tinymoe.oracle.vectors.answers import answer, moe_setup, read_all, read_answer, setup_for
from tinymoe.oracle.vectors.files import card_of
from tinymoe.oracle.vectors.kills import killed_by
from tinymoe.oracle.vectors.ops import as_ops, run
from tinymoe.oracle.vectors.router_cards import CARDS

pytestmark = pytest.mark.vectors
GOLDEN = vector_table.ROOT


@pytest.fixture(scope="module")
def vectors() -> dict[str, Vector]:
    """As they lie in the folder."""
    return {vector.name: vector for vector in read_vectors(GOLDEN)}


@pytest.fixture(scope="module")
def fresh() -> dict[str, Vector]:
    """As the code makes them, without the kills."""
    return {vector.name: vector for vector in made()}


def test_the_files_are_what_the_code_makes_and_kill_what_they_claim(fresh) -> None:
    # every mutant on every vector: a claim that no longer holds, a kill that no card has
    found = list(problems(GOLDEN, fresh))
    assert found == [], "write them again, with a note: python -m tinymoe vectors " + str(GOLDEN)


def test_no_mutant_lives(vectors, capsys) -> None:
    alive = survivors(vectors.values())
    with capsys.disabled():
        print(f"\nmutation score {len(COUNTED) - len(alive)} of {len(COUNTED)}", end=" ")
    assert alive == ()


def test_the_same_bytes_again(fresh, vectors, tmp_path) -> None:
    # whoever writes them anew must find the hashes of the index
    exact = [v for v in fresh.values() if not v.tolerance]
    assert len(exact) > 20
    index = write_vectors(tmp_path, [replace(v, kills=vectors[v.name].kills) for v in exact])
    known = read_index(GOLDEN)["vectors"]
    for name, entry in index["vectors"].items():
        assert entry == known[name], name


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 5e6


def test_each_says_where_it_comes_from(vectors) -> None:
    for vector in vectors.values():
        assert vector.holds.endswith(".")
        assert len(vector.derivation) > 20, vector.name
        assert all(mutant(name).name == name for name in vector.kills)
        for name, tolerance in vector.tolerance.items():
            assert tolerance.shape == vector.expected[name].shape
            assert np.isfinite(tolerance).all(), (vector.name, name)


# ------------------------------------------------------------------------- right by other means


def test_every_implementation_of_the_op_table_passes(vectors) -> None:
    # the twins in Python's floats share no line with the code that made the vectors
    ran = set()
    for vector in vectors.values():
        for piece in as_ops(vector):
            for name, function in CONTRACTS[piece.op].anywhere.items():
                assert run(piece, function) is None, (name, piece.name, run(piece, function))
                ran.add((piece.op, name))
    assert {(op, "naive") for op in ("route", "expert_ffn", "gemm_nvfp4", "quantize_fp8")} <= ran


def test_the_definition_passes_those_that_are_no_op(vectors) -> None:
    for vector in vectors.values():
        if vector.op in ("moe", "model"):
            setup = setup_for(vector)
            assert setup is not None
            assert wrong(vector, answer(vector, setup), partly=True) is None
        if vector.op in ("gemm", "grouped_gemm", "dequantize"):
            assert wrong(vector, read_answer(vector, read_all), partly=True) is None


def test_routes_in_plain_python(vectors) -> None:
    for vector in vectors.values():
        card = vector.given.get("card")
        if vector.op != "route" or card.groups_kept < card.groups or vector.name.endswith("row"):
            continue
        for t, logits in enumerate(vector.expected["logits"].astype(np.float64)):
            twin = route_naive(logits, vector.given["bias"], card)
            assert [e for e, _ in twin] == vector.expected["ids"][t].tolist(), vector.name
            # 1e-13: some hundred float64 roundings
            weights = [w for _, w in twin]
            np.testing.assert_allclose(vector.expected["weights"][t], weights, rtol=1e-13)


def test_products_term_by_term_in_fractions(vectors) -> None:
    for name in ("nvfp4", "nvfp4-gate-up", "mxfp4"):
        vector = vectors[f"gemm/{name}"]
        x, first = vector.given["x"], vector.given["weights"][0]
        for m, n in ((0, 0), (3, 7), (4, len(first.codes) - 1)):
            twin = exact_naive(x, first, m, n)
            assert Fraction(float(vector.expected["D"][m, n])) == twin


def test_rope_in_complex_numbers(vectors) -> None:
    for name, vector in vectors.items():
        if vector.op == "rope":
            for t, position in enumerate(vector.given["positions"].tolist()):
                head = vector.given["x"][t, 1].astype(np.float64)
                twin = rope_naive(head, position, vector.given["card"])
                # 2^-33 for the angle, as in the card; numbers of size 4
                np.testing.assert_allclose(
                    vector.expected["out"][t, 1], twin, rtol=0, atol=4 * 2.0**-33, err_msg=name
                )


def test_codes_by_exact_distance(vectors) -> None:
    vector = vectors["encoders/e2m1"]
    for rule, codes in vector.expected.items():
        twin = [e2m1.encode_naive(float(x), RULES[rule]) for x in vector.given["x"]]
        assert codes.tolist() == twin, rule


def test_ranks_add_up_and_the_shared_expert_counts_once(vectors) -> None:
    for name in ("parallel/two-ranks", "parallel/four-ranks-replicas"):
        expected = vectors[name].expected
        assert (expected["ranks"].sum(axis=0) == expected["out"]).all()
        assert (expected["out"] == expected["routed"] + expected["shared"]).all()
        assert all(rank.any() for rank in expected["ranks"])


# --------------------------------------------------------------------------- unlike neighbours


def test_layers_are_asymmetric(vectors) -> None:
    # equal halves, experts or rows would hide that they were exchanged (sglang#32430)
    for vector in vectors.values():
        if vector.op != "moe":
            continue
        setup = moe_setup(vector, read_all)
        gate_up, down = setup.params.layers[0].ffn.gate_up, setup.params.layers[0].ffn.down
        gate, up = np.split(gate_up, 2, axis=1)
        assert (gate != up).any(axis=(1, 2)).all()
        for stack in (gate_up, down):
            assert (stack[1:] != stack[:-1]).any(axis=(1, 2)).all()
            assert (stack[:, 1:] != stack[:, :-1]).any(axis=2).all()
        for held in vector.given.get("stored", {}).values():
            scales = np.stack([q.scales for q in held])
            assert (scales[1:] != scales[:-1]).any(axis=(1, 2)).all()


def test_the_cards_are_the_families() -> None:
    # K, E, groups and scale are a released model's; every step is what the family file reads
    numbers = {"experts", "top_k", "groups", "groups_kept", "scale"}
    seen = set()
    for family, card in CARDS.items():
        case = {"kimi_k2": "deepseek_v3", "llama4": "llama4_text"}.get(family, family)
        router = read_config(config_of(case)).router
        fields = {name: getattr(router, name) for name in router.__slots__ if name not in numbers}
        if card.groups == 1:
            fields |= {"group_score": "none", "dropped_group": "none"}
        assert {name: getattr(card, name) for name in fields} == fields, family
        seen.add(FAMILIES[family])
    assert {FAMILIES[family] for family in FAMILIES} == seen
    experts = {card.experts for card in CARDS.values()}
    assert experts >= {8, 32, 60, 64, 128, 160, 256, 384, 512}


# ------------------------------------------------------------------------------- the files


def test_a_vector_comes_back_from_its_files(fresh, tmp_path) -> None:
    names = ("router/deepseek_v3", "layer/nvfp4-divisor", "sampler/min-tokens", "model/groups")
    write_vectors(tmp_path, [fresh[name] for name in names])
    for name in names:
        card, tensors = card_of(read_vector(tmp_path, name))
        other, others = card_of(fresh[name])
        assert json.loads(json.dumps(card)) == json.loads(json.dumps(other))
        assert {n: a.tobytes() for n, a in tensors.items()} == {
            n: a.tobytes() for n, a in others.items()
        }


def test_a_changed_file_is_found(fresh, tmp_path) -> None:
    names = ("experts/combine", "experts/permute")
    held = {name: replace(fresh[name], kills=killed_by(fresh[name])) for name in names}
    write_vectors(tmp_path, held.values())
    assert list(problems(tmp_path, held)) == []

    path = tmp_path / "experts" / "combine.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "SHA-256" in next(problems(tmp_path, held))

    less = replace(held["experts/combine"], kills=())
    write_vectors(tmp_path, [less, held["experts/permute"]])
    assert "kills other mutants than its card claims" in next(problems(tmp_path, held))

    off = {"out": less.expected["out"] + 1}
    write_vectors(tmp_path, [replace(held["experts/combine"], expected=off)])
    found = list(problems(tmp_path, held))
    assert any("another 'expected.out'" in line for line in found)
    assert any("missing from the folder" in line for line in found)


def test_a_folder_without_an_index_is_refused(tmp_path) -> None:
    with pytest.raises(TinymoeError, match=r"index\.json"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text('{"schema": "tinymoe-vectors/0"}')
    with pytest.raises(TinymoeError, match="tinymoe-vectors/1"):
        read_index(tmp_path)


def test_the_page_is_what_the_vectors_say() -> None:
    written = vector_table.PAGE.read_text(encoding="utf-8")
    assert written == vector_table.page(), "write it again: python -m tests.vector_table"


# ------------------------------------------------------------------------------ the readers


def test_the_reader_in_python() -> None:
    path = GOLDEN / "read_vectors.py"
    assert "tinymoe" not in path.read_text("utf-8")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3 vectors hold\n"), done.stderr


def test_the_reader_in_cpp(tmp_path: Path) -> None:
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C++ compiler: c++, g++ and clang++ are not on the path")
    program = tmp_path / "read_vectors"
    source = GOLDEN / "read_vectors.cpp"
    subprocess.run([compiler, "-std=c++17", source, "-o", program], check=True)
    good = GOLDEN / "experts" / "combine.safetensors"
    done = subprocess.run([program, good], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "experts/combine holds: 4 x 8 numbers\n")

    data = bytearray(good.read_bytes())  # the last array's last byte: the test can fail
    data[-1] ^= 1
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(data)
    done = subprocess.run([program, bad], capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_float32_is_what_the_tolerances_are_for(vectors) -> None:
    # bf16 between the steps must be outside: else a tolerance is too wide to find anything
    for name in ("model/groups", "model/mixer"):
        vector = vectors[name]
        rough = replace(vector, given={**vector.given, "numerics": NUMERICS["bf16"]})
        setup = setup_for(vector)
        assert setup is not None
        assert wrong(vector, answer(rough, setup)) is not None
