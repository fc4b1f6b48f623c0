"""Checkpoints made to do harm: each is refused by name, before it costs memory or time.

The malformed safetensors files are in test_safetensors_file.py, indexes and JSON in
test_checkpoint.py, contradictory configs in test_families.py, random damage in
test_damaged_folder.py. Here: tokenizers, templates, sizes, links and code.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stored import ROOT
from tinymoe import guard
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import load_params, read_config
from tinymoe.families.memory import GROUPS
from tinymoe.tokenizer import Tokenizer
from tinymoe.tokenizer_file import Local, is_plain

pytestmark = pytest.mark.definition

QWEN = ROOT / "qwen3_moe"
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model folder."""
    for name in (*FILES, "model.safetensors", "chat_template.jinja"):
        shutil.copy(QWEN / name, tmp_path)
    return tmp_path


def change(file: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def use(folder: Path) -> None:
    """All that loading does, and the first that follows it."""
    checkpoint = Checkpoint.open(folder)
    load_params(checkpoint, read_config(checkpoint.config), NUMERICS["fp32"])
    tokenizer = Tokenizer.open(folder)
    tokenizer.decode(tokenizer.encode("Hello, 12 worlds  "))


# ------------------------------------------------------------------------------- the tokenizer

Edit = Callable[[dict[str, Any]], Any]


def split(expression: str) -> dict[str, Any]:
    return {
        **{"type": "Split", "pattern": {"Regex": expression}},
        **{"behavior": "Isolated", "invert": False},
    }


TOKENIZERS: dict[str, tuple[Edit, str]] = {
    "id below 0": (lambda t: t["model"]["vocab"].update(zzz=-1), "'zzz'.*found -1"),
    "id past the model's": (lambda t: t["model"]["vocab"].update(zzz=10**9), "found 1000000000"),
    "id as text": (lambda t: t["model"]["vocab"].update(zzz="3"), "found '3'"),
    "added id past the model's": (lambda t: t["added_tokens"][0].update(id=10**6), "found 1000000"),
    "added token is text": (lambda t: t["added_tokens"].append("x"), "added_tokens"),
    "no vocabulary": (lambda t: t["model"].pop("vocab"), "vocab"),
    "no model": (lambda t: t.pop("model"), "'model'"),
    "merge of an unknown piece": (lambda t: t["model"]["merges"].append(["a", "zzzz"]), "'zzzz'"),
    "merge to an unknown piece": (lambda t: t["model"]["merges"].append(["a", "\n"]), "no token"),
    "merge of one piece": (lambda t: t["model"]["merges"].append("a"), "two pieces"),
    "merge of numbers": (lambda t: t["model"]["merges"].append([1, 2]), "two pieces"),
    "expression that is none": (lambda t: t.update(pre_tokenizer=split("(?")), "cannot be read"),
    # in the library: a panic, which no `except Exception` catches
    "merge that panics": (
        lambda t: t["model"].update(continuing_subword_prefix="####", merges=[["a", "b"]]),
        "cannot be read|fails",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_malformed_tokenizer_is_refused(name: str, folder: Path) -> None:
    edit, says = TOKENIZERS[name]
    change(folder / "tokenizer.json", edit)
    with pytest.raises(TinymoeError, match=f"tokenizer.json.*({says})"):
        Tokenizer.open(folder)


def test_a_template_of_ids_past_the_vocabulary_is_refused(folder: Path) -> None:
    # the ids of a template are in no vocabulary: only its result shows them
    template = {
        **{"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "B", "type_id": 0}}]},
        "single": [
            {"SpecialToken": {"id": "x", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "special_tokens": {"x": {"id": "x", "ids": [10**6], "tokens": ["x"]}},
    }
    change(folder / "tokenizer.json", lambda t: t.update(post_processor=template))
    tokenizer = Tokenizer.open(folder)
    with pytest.raises(TinymoeError, match="gives the id 1000000"):
        tokenizer.encode("a")


def test_padding_and_truncation_are_not_taken_from_the_file(folder: Path) -> None:
    # left in by training: prompts would be cut to 3 tokens, or filled up to 99
    wanted = Tokenizer.open(folder).encode("A long, long text")
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    pad = {
        **{"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
    }
    change(folder / "tokenizer.json", lambda t: t.update(truncation=cut, padding=pad))
    assert Tokenizer.open(folder).encode("A long, long text") == wanted


def test_an_expression_that_backtracks_without_end_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the library gives one attempt 10^7 steps, but every place in the text has one of its own
    monkeypatch.setattr(guard, "SECONDS", 1.0)
    slow = "(?:a|a){22}[cd]"  # 2^22 ways at each of 300 places: over a minute
    change(folder / "tokenizer.json", lambda t: t.update(pre_tokenizer=split(slow)))
    tokenizer = Tokenizer.open(folder)
    with pytest.raises(TinymoeError, match=r"tokenizer.json: the tokenizer fails: stopped"):
        tokenizer.encode("a" * 300 + "bd")
    assert tokenizer.decode(tokenizer.encode("b")) == "b"  # a new process: still of use


def test_text_that_grows_beyond_memory_is_stopped(folder: Path) -> None:
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    steps = {"type": "Sequence", "normalizers": [grow] * 5}
    change(folder / "tokenizer.json", lambda t: t.update(normalizer=steps))
    with pytest.raises(TinymoeError, match="the tokenizer fails"):
        Tokenizer.open(folder).encode("a")


@pytest.mark.parametrize("place", [("type",), ("pattern",), ("pattern", "Regex")])
def test_a_step_of_no_known_kind_is_not_plain(folder: Path, place: tuple[str, ...]) -> None:
    # a list where a name should be is no key of a set: the question itself failed
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    step = content["pre_tokenizer"]["pretokenizers"][0]
    assert is_plain(content)
    for name in place[:-1]:
        step = step[name]
    step[place[-1]] = []
    assert is_plain(content) is (place == ("pattern",))  # which then is no pattern at all


def test_a_child_gives_the_same_ids(folder: Path) -> None:
    # an expression that only looks unlike a known one
    text = "Hello  world, it's 12 o'clock\n\n naïve 日本"
    wanted = Tokenizer.open(folder).encode(text)

    def other(content: dict[str, Any]) -> None:
        first = content["pre_tokenizer"]["pretokenizers"][0]
        first["pattern"]["Regex"] = f"(?:{first['pattern']['Regex']})"
        assert not is_plain(content)

    change(folder / "tokenizer.json", other)
    tokenizer = Tokenizer.open(folder)
    assert not isinstance(tokenizer._backend, Local)
    assert tokenizer.encode(text) == wanted
    assert tokenizer.decode(wanted) == text


@pytest.mark.parametrize("case", [f.parent.name for f in sorted(ROOT.glob("*/tokenizer.json"))])
def test_tokenizers_in_use_need_no_child(case: str) -> None:
    assert is_plain(json.loads((ROOT / case / "tokenizer.json").read_text(encoding="utf-8")))


# ------------------------------------------------------------------------------- the template

BOMBS = {
    "a loop in a loop": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a loop of 10**9": "{% for i in range(10**9) %}{% endfor %}",
    "a long text": "{{ 'a' * 10**10 }}",
    "text that doubles": "{% set n = namespace(x='a') %}{% for i in range(64) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "a wide field": "{{ 'a' | center(10**10) }}",
    "a large power": "{{ 9 ** (9 ** 9) }}",
    "a long answer": "{{ 'a' * 10**8 }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_never_ends_or_fills_the_memory_is_stopped(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SECONDS", 1.0)
    (folder / "chat_template.jinja").write_text(BOMBS[name], encoding="utf-8")
    tokenizer = Tokenizer.open(folder)
    with pytest.raises(TinymoeError, match="the chat template"):
        tokenizer.chat([{"role": "user", "content": "hi"}])


def test_messages_that_are_no_json_are_refused() -> None:
    with pytest.raises(TinymoeError, match="as in JSON: found object"):
        Tokenizer.open(QWEN).chat([{"role": "user", "content": object()}])


# ------------------------------------------------------------------------------- sizes

SIZES = [
    *("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim"),
    *("num_attention_heads", "num_experts", "num_experts_per_tok", "num_hidden_layers"),
    *("max_position_embeddings", "num_key_value_heads"),
]


@pytest.mark.parametrize("value", [10**6, 2**31 - 2, 10**30, -1, 0, 1.5, True, "8", None, [8]])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_costs_nothing_before_it_is_checked(name: str, value: Any, folder: Path) -> None:
    # 2^31 rows of 2^31 would be asked of the machine before the tensors contradict them
    change(folder / "config.json", lambda config: config.update({name: value}))
    says = ""
    tracemalloc.start()
    try:
        checkpoint = Checkpoint.open(folder)
        load_params(checkpoint, read_config(checkpoint.config), NUMERICS["fp32"])
    except TinymoeError as error:
        says = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # a number that says nothing about the tensors may pass
    silent = name in ("max_position_embeddings", "intermediate_size", "num_experts_per_tok")
    assert "config.json" in says or "tensor" in says or silent
    # its own weights in float32 (twice the BF16 file), read one tensor at a time, and lists of
    # names: 8 times the file is plenty, and 2^20 rows of anything would be more
    assert peak < 8 * (folder / "model.safetensors").stat().st_size


# ------------------------------------------------------------------------------- paths and code


def test_files_may_be_links_but_names_may_not_lead_out(folder: Path, tmp_path: Path) -> None:
    # hub caches link every file of a snapshot into ../../blobs
    snapshot = tmp_path / "snapshots" / "x"
    snapshot.mkdir(parents=True)
    for name in (*FILES, "model.safetensors"):
        (snapshot / name).symlink_to(folder / name)
    use(snapshot)
    (snapshot / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "../../model.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TinymoeError, match="without any path"):
        Checkpoint.open(snapshot)


def test_nothing_is_unpickled_and_no_code_runs(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trap,)

    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    (folder / "modeling_qwen.py").write_text(f"open({str(trap)!r}, 'w')")
    names = {"AutoConfig": "modeling_qwen.Config", "AutoModelForCausalLM": "modeling_qwen.Model"}
    change(folder / "config.json", lambda config: config.update(auto_map=names))
    change(folder / "tokenizer_config.json", lambda config: config.update(auto_map=names))
    with pytest.warns(UserWarning, match="auto_map.*not run"):
        use(folder)
    assert not trap.exists()


def test_only_files_of_the_folder_are_opened(folder: Path) -> None:
    # in a process of its own, where every file that Python opens is noted
    program = """
import sys, warnings
from tests.definition.test_hostile import use
from pathlib import Path
folder, opened = Path(sys.argv[1]), []
use(folder)  # imports are done
sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == "open" else None)
use(folder)
print(*sorted(set(opened)), sep="\\n")
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    opened = [Path(line) for line in done.stdout.split("\n") if line]
    assert folder / "config.json" in opened
    # and, whatever the folder says, where the system tells how much memory is left
    system = {Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/proc/self/status")}
    others = [path for path in opened if path not in system and GROUPS not in path.parents]
    assert {path.parent for path in others} == {folder}
