"""What vLLM says of a request: its routing, and log-probabilities of the prompt."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.endpoint_server import serving
from tinymoe.api import load, shipped_model
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.endpoint.check import check, runs
from tinymoe.endpoint.client import Client
from tinymoe.oracle.diff import diff
from tinymoe.oracle.dumps import read_dump
from tinymoe.oracle.dumps.vllm import parse_answer, read_answer, routing_taps

pytestmark = pytest.mark.definition

SAMPLES = Path(__file__).parents[1] / "vectors" / "dumps"
MODEL = "e364e0ed47be658df4f4833033dfcf2bb213c7a2a23f76a32987273c8b85ca18"  # sha256 of its weights
IDS = [3, 17, 42, 5, 9, 30, 2, 11, 8, 25, 6, 40]


def npy(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def shipped():
    """The model that the recordings are of, if it is still the one that vLLM ran."""
    found = hashlib.sha256((shipped_model() / "model.safetensors").read_bytes()).hexdigest()
    assert found == MODEL, "the shipped weights have changed: record vllm_*.json anew (README.md)"
    return load()


@pytest.mark.parametrize("version", ["0.30.0", "0.32.0"])
def test_what_vllm_really_answered_is_what_tinymoe_computes(shipped, version):
    """The whole way of check-endpoint, with vLLM's own answer coming over HTTP, in float32."""
    recorded = json.loads((SAMPLES / f"vllm_{version}.json").read_text())
    prompts = [IDS]
    exact, emulated = (runs(None, n, prompts, lambda: None) for n in ("exact", "fp32"))
    with serving(shipped, dialect="vllm", edit=lambda _: recorded) as server:
        client = Client(server.url, model="tiny")
        found = check(client, prompts, exact, emulated)
        client.close()
    assert found.agrees
    assert found.dialect == "vllm"
    if version == "0.30.0":
        assert found.routing is not None
        assert found.routing.same == len(IDS) * len(shipped.config.layers)
        assert found.routing.wrong == found.routing.ties == 0
    else:  # without a GPU this version tells no experts
        assert found.routing is None


@pytest.mark.parametrize("name", ["vllm_0.30.0", "vllm_0.30.0_three_tokens"])
def test_the_experts_that_vllm_really_told(shipped, name):
    """Of the prompt and of what was written, but the last token, which was never run."""
    taps = read_dump(SAMPLES / f"{name}.json")
    written = [12, 5, 17][:-1] if "three" in name else []
    assert taps["tokens"].tolist() == [*IDS, *written]
    report = diff(shipped.params, shipped.config, taps, NUMERICS["fp32"])
    assert report.agrees, report.first
    assert report.flips == ()
    ours = shipped.trace(taps["tokens"].tolist(), ["layers.*.router.ids"])
    assert len(ours) == len(shipped.config.layers)
    for tap, ids in ours.items():  # in an order of its own
        assert np.array_equal(np.sort(taps[tap]), np.sort(ids)), tap


def test_vllm_answer(tmp_path):
    routed = np.arange(2 * 2 * 2, dtype=np.uint8).reshape(2, 2, 2)
    logprobs = [None, {"7": {"logprob": -0.5, "rank": 1}, "9": {"logprob": -9999.0, "rank": 2}}]
    choice = {"prompt_logprobs": logprobs, "routed_experts": npy(routed), "token_ids": [4]}
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"choices": [{**choice, "prompt_token_ids": [5, 7]}]}))
    answer = read_answer(path)
    assert answer.tokens == (5, 7)
    assert answer.written == (4,)
    assert answer.logprobs == ({7: -0.5, 9: -np.inf},)  # -inf is sent as -9999
    assert answer.routed is not None
    assert answer.routed.dtype == np.int64
    assert np.array_equal(answer.routed, routed)


def test_vllm_routing_is_a_dump(tmp_path):
    routed = np.arange(2 * 2 * 2, dtype=np.uint8).reshape(2, 2, 2)
    path = tmp_path / "answer.json"
    told = {"prompt_token_ids": [5, 7], "token_ids": [9], "routed_experts": npy(routed)}
    path.write_text(json.dumps(told))
    taps = read_dump(path)
    assert taps["tokens"].tolist() == [5, 7]  # the last token written was never run
    assert np.array_equal(taps["layers.1.router.ids"], routed[:, 1])
    path.write_text(json.dumps(told | {"routed_experts": npy(routed[1:])}))
    with pytest.raises(TinymoeError, match=r"of 2 tokens.*found 1: .*routed_experts_prompt_start"):
        read_dump(path)
    path.write_text(json.dumps({"prompt_logprobs": [None]}))
    with pytest.raises(TinymoeError, match="check-endpoint"):
        read_dump(path)


def test_vllm_numbers_all_layers_or_those_with_experts():
    routed = np.arange(2 * 3 * 1).reshape(2, 3, 1)
    taps = routing_taps(routed, [1, 2])
    assert np.array_equal(taps["layers.2.router.ids"], routed[:, 2])
    taps = routing_taps(routed, [1, 2, 3])
    assert np.array_equal(taps["layers.3.router.ids"], routed[:, 2])
    with pytest.raises(TinymoeError, match="has 3 layers"):
        routing_taps(routed, [1, 4])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"choices": [{}, {}]}, "one choice"),
        ({"text": "x"}, "prompt_logprobs or routed_experts"),
        ({"routed_experts": "%%"}, "base64"),
        ({"routed_experts": npy(np.zeros((2, 2)))}, "whole numbers"),
        ({"prompt_logprobs": [{"1": {}}]}, "begins with null"),
        ({"prompt_logprobs": [None, {"1": {}}]}, r"prompt_logprobs\[1\]"),
        ({"prompt_logprobs": [None], "prompt_token_ids": "5"}, "prompt_token_ids"),
    ],
)
def test_vllm_answers_that_are_none(answer, says):
    with pytest.raises(TinymoeError, match=says):
        parse_answer(answer, "answer")


def test_routed_experts_are_never_unpickled():
    objects = np.array([[[{}]]], dtype=object)
    with pytest.raises(TinymoeError, match="base64 of a .npy"):
        parse_answer({"routed_experts": npy(objects)}, "answer")
