"""`check-endpoint` against a server that runs here, right and wrong in known ways."""

from __future__ import annotations

import base64
import io
import json
import socket

import numpy as np
import pytest

from tests.endpoint_server import serving
from tinymoe.api import load
from tinymoe.core import TinymoeError
from tinymoe.endpoint.check import read_prompts
from tinymoe.endpoint.client import Client

IDS = [[3, 17, 42, 5, 9, 30, 2, 11, 8, 25, 6, 40], [7, 7, 1, 33, 20, 4, 12, 19]]


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


ONE_ROW = npy(np.zeros((1, 2, 2), np.uint8))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"ids": ids}) for ids in IDS) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def engine(model):
    return load(model, numerics="bf16")


@pytest.mark.parametrize("dialect", ["vllm", "openai"])
def test_a_right_engine_agrees_in_either_dialect(run, model, prompts, engine, dialect):
    with serving(engine, dialect=dialect) as server:
        ran = run("check-endpoint", server.url, "--model", model, "--prompts", prompts, "--json")
    found = json.loads(ran.out)
    assert ran.code == 0, ran.out + ran.err
    assert found["dialect"] == dialect
    assert found["positions"] == sum(len(ids) - 1 for ids in IDS)
    assert found["top1_wrong"] == found["positions_left_out"] == 0
    assert (found["routing"] is not None) == (dialect == "vllm")
    assert server.requests[0]["prompt"] == IDS[0]


def test_token_texts_are_resolved_where_they_are_unique(run, model, prompts, engine):
    with serving(engine, dialect="openai", token_ids=False) as server:
        ran = run("check-endpoint", server.url, "--model", model, "--prompts", prompts, "--json")
    found = json.loads(ran.out)
    assert ran.code == 0, ran.out + ran.err
    assert found["positions"] + found["positions_left_out"] == sum(len(ids) - 1 for ids in IDS)
    assert found["positions"]


def test_a_wrong_engine_is_told_apart_and_named(run, model, prompts, engine):
    with serving(engine, dialect="vllm", change=lambda x: x / 0.7) as server:
        ran = run("check-endpoint", server.url, "--model", model, "--prompts", prompts)
    assert ran.code == 1
    assert "DIFFERS" in ran.out
    assert "temperature 0.7" in ran.out


def test_wrong_experts_are_found_though_the_numbers_are_right(run, model, prompts, engine):
    """The experts that an engine reports are compared by themselves."""

    def edit(answer):
        choice = answer["choices"][0]
        routed = np.load(io.BytesIO(base64.b64decode(choice["routed_experts"])))
        choice["routed_experts"] = npy((routed + 1) % engine.config.router.experts)
        return answer

    with serving(engine, dialect="vllm", edit=edit) as server:
        ran = run("check-endpoint", server.url, "--model", model, "--prompts", prompts, "--json")
    found = json.loads(ran.out)
    assert ran.code == 1
    assert found["kl_bound_mean"] <= found["kl_bound_mean_allowed"]
    assert found["routing"]["wrong"] > 0
    assert "layers.0.router.ids" in found["routing"]["first_wrong"]


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(engine):
    waits = []
    with serving(engine, dialect="vllm", failures=(503, 429)) as server:
        client = Client(server.url, sleep=waits.append)
        assert len(client.score(IDS[0]).listed) == len(IDS[0]) - 1
        assert waits == [1.0, 2.0]
        server.failures = [400]
        with pytest.raises(TinymoeError, match="status 400: out of order"):
            client.score(IDS[0])
        server.failures = [500, 500]
        with pytest.raises(TinymoeError, match=r"status 500.*tried 2 times"):
            Client(server.url, retries=1, sleep=waits.append).score(IDS[0])
        client.close()


def test_a_server_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(TinymoeError, match=r"no answer within 0.2 s \(tried 2 times\)"):
            Client(url, timeout=0.2, retries=1, sleep=lambda _: None)
    with pytest.raises(TinymoeError, match="tried 1 times"):  # nobody listens there any more
        Client(url, retries=0)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda a: b"<html>", "no JSON"),
        (lambda a: [], "expected an object"),
        (lambda a: {"choices": []}, "one choice"),
        (lambda a: _with(a, prompt_token_ids=[1, *IDS[0]]), "beginning-of-sequence"),
        (lambda a: _with(a, prompt_logprobs=[None]), "prompt_logprobs of 12 tokens"),
        (lambda a: _with(a, routed_experts=ONE_ROW), "routed_experts of 12 tokens"),
    ],
)
def test_answers_that_are_none(engine, edit, says):
    with serving(engine, dialect="vllm", edit=edit) as server:
        client = Client(server.url)
        with pytest.raises(TinymoeError, match=says):
            client.score(IDS[0])
        client.close()


def _with(answer, **fields):
    answer["choices"][0].update(fields)
    return answer


def test_a_server_that_cannot_score_a_prompt(engine):
    with serving(engine, dialect="openai", edit=lambda a: {"choices": [{"text": "x"}]}) as server:
        client = Client(server.url)
        with pytest.raises(TinymoeError, match="cannot score a prompt"):
            client.score(IDS[0])
        client.close()
        client = Client(server.url, dialect="vllm")
        with pytest.raises(TinymoeError, match="is it vLLM"):
            client.score(IDS[0])
        client.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "holds no prompt"), ('{"ids": ["a"]}', "line 1: expected"), ("{", "line 1")],
)
def test_prompt_files_that_are_none(tmp_path, text, says):
    (tmp_path / "p").write_text(text)
    with pytest.raises(TinymoeError, match=says):
        read_prompts(tmp_path / "p")


def test_prompts_in_words_and_ids(tmp_path):
    (tmp_path / "p").write_text('One day\n\n{"prompt": "{x"}\n{"ids": [1, 2]}\n')
    assert read_prompts(tmp_path / "p") == ["One day", "{x", [1, 2]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ftp://x", "--prompts", "P"], "expected a URL"),
        (["http://x/v1", "--prompts", "P", "--dialect", "x"], "vllm or openai"),
        (["http://x/v1", "--prompts", "nowhere"], "nowhere"),
    ],
)
def test_nonsense(run, model, prompts, arguments, says):
    arguments = [prompts if argument == "P" else argument for argument in arguments]
    ran = run("check-endpoint", *arguments, "--model", model, "--retries", "0")
    assert ran.code == 2
    assert says in ran.err
