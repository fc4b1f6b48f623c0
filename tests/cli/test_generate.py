"""`generate`: what comes out is what the model says, whatever way it was asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tinymoe import load
from tinymoe.api import Model

GREEDY = ("--temperature", "0", "--max-tokens", "12", "--ignore-eos")
DRAWN = ("--temperature", "1", "--seed", "11", "--max-tokens", "12", "--ignore-eos")


def answers(ran) -> list[dict]:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["answers"]


def test_the_text_is_the_models(run, model):
    ran = run("generate", "Hello", "--model", model, *GREEDY)
    tokens = load(model).generate("Hello", temperature=0, max_tokens=12, ignore_eos=True)
    expected = "".join(token.text for token in tokens)
    assert ran.code == 0
    assert ran.out == expected + ("" if expected.endswith("\n") else "\n")
    assert ran.err == ""


def test_json_has_ids_and_reasons_and_nothing_else_on_stdout(run, model):
    whole = json.loads(run("generate", "Hello", "--model", model, "--json", *DRAWN).out)
    answer = whole["answers"][0]
    assert whole["seed"] == 11
    assert answer["prompt_ids"] == load(model).encode("Hello")
    assert len(answer["token_ids"]) == answer["stats"]["new_tokens"] == 12
    assert answer["finish_reason"] == "length"
    assert "logprobs" not in answer


def test_expert_load_counts_every_choice_of_every_layer(run, model):
    whole = json.loads(run("generate", "Hello", "Tom", "--model", model, "--json", *DRAWN).out)
    card, stats = load(model).config.router, whole["stats"]
    # the last token of an answer is never run through the model
    run_through = stats["prompt_tokens"] + stats["new_tokens"] - len(whole["answers"])
    assert [len(layer) for layer in stats["expert_load"]] == [card.experts] * 3
    assert [sum(layer) for layer in stats["expert_load"]] == [run_through * card.top_k] * 3
    busiest = [max(layer) * card.experts / sum(layer) for layer in stats["expert_load"]]
    assert stats["expert_imbalance"] == pytest.approx(busiest, rel=1e-15)  # two roundings


def test_a_seed_repeats_and_is_told(run, model):
    first = json.loads(run("generate", "Hello", "--model", model, "--json").out)
    again = run("generate", "Hello", "--model", model, "--json", "--seed", str(first["seed"]))
    assert answers(again)[0]["token_ids"] == first["answers"][0]["token_ids"]
    other = run("generate", "Hello", "--model", model, "--json", "--seed", str(first["seed"] + 1))
    assert answers(other)[0]["token_ids"] != first["answers"][0]["token_ids"]


def test_several_prompts_give_what_each_gives_alone(run, model):
    # vllm#53257 and its like: a neighbour in the batch must not change a text
    prompts = ["Hello", "Tom had a red ball and", "x"]
    together = answers(run("generate", *prompts, "--model", model, "--json", *DRAWN))
    for prompt, answer in zip(prompts, together, strict=True):
        alone = answers(run("generate", prompt, "--model", model, "--json", *DRAWN))[0]
        assert answer["token_ids"] == alone["token_ids"]
        assert answer["text"] == alone["text"]


def test_several_prompts_are_told_apart(run, model):
    ran = run("generate", "Hello", "Tom", "--model", model, *GREEDY)
    parts = ran.out.split("== ")
    assert [part.splitlines()[0] for part in parts[1:]] == ["1 of 2: Hello", "2 of 2: Tom"]
    alone = run("generate", "Tom", "--model", model, *GREEDY)
    assert parts[2].partition("\n")[2] == alone.out


def test_prompts_from_files_stdin_and_ids_are_the_same_prompt(run, model, tmp_path):
    text = "Été, he said."
    file, numbers = tmp_path / "prompt.txt", tmp_path / "ids.txt"
    file.write_text(text + "\n", encoding="utf-8")
    ids = load(model).encode(text)
    numbers.write_text("\n".join(map(str, ids)), encoding="utf-8")
    tail = ("--model", model, "--json", *DRAWN)
    first = answers(run("generate", text, *tail))[0]["token_ids"]
    for ran in (
        run("generate", "--file", str(file), *tail),
        run("generate", "--file", "-", *tail, stdin=text + "\n"),
        run("generate", *tail, stdin=text + "\r\n"),
        run("generate", "--ids", ",".join(map(str, ids)), *tail),
        run("generate", "--ids", f"@{numbers}", *tail),
    ):
        assert answers(ran)[0]["token_ids"] == first


def test_chat_wraps_the_message_by_the_models_template(run, model):
    tail = ("--model", model, "--json", *GREEDY)
    answer = answers(run("generate", "--chat", "Hi", "--system", "Be brief.", *tail))[0]
    tokenizer = load(model).tokenizer
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert answer["prompt_ids"] == tokenizer.encode(tokenizer.chat(messages), special=False)
    assert answer["prompt"] == "Hi"


def test_stop_ends_a_text_before_it(run, model):
    whole = run("generate", "Hello", "--model", model, *GREEDY).out
    stop = whole[5:7]
    answer = answers(run("generate", "Hello", "--model", model, *GREEDY, "--stop", stop, "--json"))
    assert answer[0]["text"] == whole[: whole.index(stop)]
    assert answer[0]["finish_reason"] == "stop"


def test_logprobs_go_with_the_tokens(run, model):
    ran = run("generate", "Hello", "--model", model, *GREEDY, "--logprobs", "2", "--json")
    answer = answers(ran)[0]
    for token, logprob, best in zip(
        answer["token_ids"], answer["logprobs"], answer["top_logprobs"], strict=True
    ):
        assert len(best) == 2
        assert best[0][1] >= best[1][1]
        assert [logprob for i, p in best if i == token] in ([logprob], [])
        assert logprob <= best[0][1] < 0


def test_stats_and_logprobs_stay_off_stdout(run, model):
    plain = run("generate", "Hello", "--model", model, *DRAWN)
    ran = run("generate", "Hello", "--model", model, *DRAWN, "--stats", "--logprobs", "2")
    assert ran.out == plain.out
    for word in ("seed 11", "TTFT", "ITL p95", "expert load", "max/mean", "logprob"):
        assert word in ran.err


def test_numerics_reach_the_model(run, model):
    whole = run("generate", "Hello", "--model", model, "--numerics", "exact", "--json", *GREEDY)
    assert json.loads(whole.out)["numerics"] == "exact"


def test_a_model_without_tokenizer_speaks_in_ids(run, model, tmp_path):
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copy(f"{model}/{name}", tmp_path)
    ran = run("generate", "--ids", "5,6,7", "--model", str(tmp_path), *GREEDY)
    expected = [t.id for t in load(model).generate([5, 6, 7], temperature=0, max_tokens=12,
                                                   ignore_eos=True)]  # fmt: skip
    assert [int(word) for word in ran.out.split()] == expected
    assert "no tokenizer.json" in ran.err


def test_ctrl_c_keeps_what_there_is(run, model, monkeypatch):
    # a long answer that is cut short must not be lost to the program that reads the JSON
    whole = Model.generate_many

    def interrupted(self, *args, **kwargs):
        steps = whole(self, *args, **kwargs)
        yield next(steps)
        yield next(steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "generate_many", interrupted)
    ran = run("generate", "Hello", "--model", model, "--json", "--stats", *DRAWN)
    assert ran.code == 130
    result = json.loads(ran.out)
    assert result["interrupted"]
    assert len(result["answers"][0]["token_ids"]) == 2
    assert result["answers"][0]["finish_reason"] is None
    assert "interrupted" in ran.err


def test_positions_for_a_sequence_longer_than_the_short_factors_have(run, model):
    phi = ("--model", str(Path(model).with_name("phimoe")), "--ids", ",".join(["5"] * 40))
    ran = run("generate", *phi, *GREEDY)
    assert ran.code == 2
    assert "--positions N" in ran.err
    ran = run("generate", *phi, "--positions", "52", "--json", *GREEDY)
    assert len(json.loads(ran.out)["answers"][0]["token_ids"]) == 12
    ran = run("generate", *phi, "--positions", "129", *GREEDY)
    assert ran.code == 2
    assert "from 1 to the model's 128" in ran.err
