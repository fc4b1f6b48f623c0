"""What vLLM says of a request: its routing, and log-probabilities of the prompt."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.oracle.dumps import read_dump
from tinymoe.oracle.dumps.vllm import parse_answer, read_answer, routing_taps


def npy(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def test_vllm_answer(tmp_path):
    routed = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
    logprobs = [None, {"7": {"logprob": -0.5, "rank": 1}, "9": {"logprob": -9999.0, "rank": 2}}]
    choice = {"prompt_logprobs": logprobs, "routed_experts": npy(routed)}
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"choices": [{**choice, "prompt_token_ids": [5, 7]}]}))
    answer = read_answer(path)
    assert answer.tokens == (5, 7)
    assert answer.logprobs == ({7: -0.5, 9: -np.inf},)  # -inf is sent as -9999
    assert answer.routed is not None
    assert answer.routed.dtype == np.int64
    assert np.array_equal(answer.routed, routed)


def test_vllm_routing_is_a_dump(tmp_path):
    routed = np.arange(2 * 2 * 2, dtype=np.uint8).reshape(2, 2, 2)
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"prompt_token_ids": [5, 7, 9], "routed_experts": npy(routed)}))
    taps = read_dump(path)
    assert taps["tokens"].tolist() == [5, 7]  # the last token of a prompt was never run
    assert np.array_equal(taps["layers.1.router.ids"], routed[:, 1])
    path.write_text(json.dumps({"prompt_token_ids": [5, 7], "routed_experts": npy(routed)}))
    with pytest.raises(TinymoeError, match="expected routed_experts of 1 tokens"):
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
