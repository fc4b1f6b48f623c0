"""Text to ids, ids to text, and chat templates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

from tinymoe.core import TinymoeError
from tinymoe.tokenizer import Tokenizer

pytestmark = pytest.mark.definition

QWEN = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"


@pytest.fixture(scope="module")
def qwen() -> Tokenizer:
    return Tokenizer.open(QWEN)


def folder_with(
    folder: Path, settings: dict[str, Any], template: bool = False, **files: Any
) -> Path:
    """A folder with a byte-level tokenizer: bytes 0..255 by value, then <s> 256 and </s> 257."""
    alphabet = bytes_to_characters()
    vocab = {character: byte for byte, character in enumerate(alphabet)}
    backend = Backend(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 256)]
        )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def bytes_to_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte, in the order of the bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    stand_in = {byte: chr(byte) for byte in shown}
    stand_in |= {byte: chr(256 + place) for place, byte in enumerate(rest)}
    return [stand_in[byte] for byte in range(256)]


# ------------------------------------------------------------------------------- encode, decode


def test_import_is_cheap() -> None:
    # the oracle's commands start in an environment without these libraries
    code = (
        "import sys, tinymoe.tokenizer; "
        "sys.exit(any(name in sys.modules for name in ('tokenizers', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bos_comes_once(tmp_path: Path) -> None:
    # from the template (Mixtral) or from add_bos_token (DeepSeek), never from both, and never
    # before text that a chat template wrote: two of them shift every position
    bos = {"bos_token": "<s>", "add_bos_token": True}
    for settings, template, wanted in (
        ({"bos_token": "<s>"}, False, [104]),
        (bos, False, [256, 104]),
        (bos, True, [256, 104]),
        ({}, True, [256, 104]),
        ({"bos_token": {"content": "<s>"}, "add_bos_token": True}, False, [256, 104]),
    ):
        tokenizer = Tokenizer.open(folder_with(tmp_path, settings, template))
        assert tokenizer.encode("h") == wanted
        assert tokenizer.encode("h", special=False) == [104]


def test_ids_past_the_vocabulary_decode_to_nothing(qwen: Tokenizer) -> None:
    # a model's vocabulary is often padded past its tokenizer's, and it can pick such an id
    assert qwen.decode([39, 340, 10**12, 68]) == qwen.decode([39, 68])
    assert qwen.decode([]) == ""
    with pytest.raises(TinymoeError, match="-1"):
        qwen.decode([39, -1])


def test_skip_special_keeps_added_tokens_that_are_not_special(qwen: Tokenizer) -> None:
    # <think> and <tool_call> are added tokens, but part of the text
    ids = qwen.encode("<think>a</think><|im_end|>")
    assert qwen.decode(ids, skip_special=True) == "<think>a</think>"
    assert qwen.decode(ids) == "<think>a</think><|im_end|>"


def test_text_that_is_no_unicode_is_an_error(qwen: Tokenizer) -> None:
    with pytest.raises(TinymoeError, match="expected text"):
        qwen.encode("\ud800")  # half a surrogate pair, as a broken command line gives
    with pytest.raises(TinymoeError, match="expected text"):
        qwen.encode(b"bytes")  # type: ignore[arg-type]


def test_end_ids_by_file(tmp_path: Path) -> None:
    settings = {"eos_token": "</s>"}
    assert Tokenizer.open(folder_with(tmp_path, settings)).eos_ids == (257,)
    folder_with(tmp_path, settings, config={"eos_token_id": 5})
    assert Tokenizer.open(tmp_path).eos_ids == (5,)
    folder_with(tmp_path, settings, generation_config={"eos_token_id": [6, 7]})
    assert Tokenizer.open(tmp_path).eos_ids == (6, 7)


def test_folders_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(TinymoeError, match=r"tokenizer\.json, found none"):
        Tokenizer.open(tmp_path)
    folder_with(tmp_path, {}, config={"vocab_size": 100})
    with pytest.raises(TinymoeError, match=r"from 0 to 99, found.*knows 100"):
        Tokenizer.open(tmp_path)
    folder_with(tmp_path, {"bos_token": "<bos>", "add_bos_token": True}, config={})
    with pytest.raises(TinymoeError, match="'<bos>' is no token"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": 3}}')
    with pytest.raises(TinymoeError, match="two pieces"):
        Tokenizer.open(tmp_path)


# ------------------------------------------------------------------------------- chat templates

HELLO = [{"role": "user", "content": "Hello"}]


def chat_of(folder: Path, template: Any, **settings: Any) -> Tokenizer:
    return Tokenizer.open(folder_with(folder, {"chat_template": template, **settings}))


def test_template_dialect(tmp_path: Path) -> None:
    # what hub templates rely on, against texts worked out by hand from the dialect's rules
    cases = {
        # trim_blocks, lstrip_blocks: a line that holds only a tag leaves nothing
        "{% if true %}\n  {% set x = 1 %}\na\n{% endif %}\nb": "a\nb",
        "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}": "1",
        "{% for i in [1, 2] %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}": "2",
        "a{% generation %}b{{ 1 }}{% endgeneration %}c": "ab1c",
        # Jinja's own tojson would write \\u003c and sort the keys: other tokens
        "{{ {'b': '<&é>', 'a': [1, none]} | tojson }}": '{"b": "<&é>", "a": [1, null]}',
        "{{ {'b': 1} | tojson(indent=2) }}": '{\n  "b": 1\n}',
        "{{ strftime_now('%Y') | length }}": "4",
        "{{ bos_token }}{{ messages[0].content }}{{ '<' }}{{ eos_token }}": "<s>Hello<</s>",
        "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}": "TrueTrueTrue",
    }
    for template, wanted in cases.items():
        tokenizer = chat_of(tmp_path, template, bos_token="<s>", eos_token={"content": "</s>"})
        assert tokenizer.chat(HELLO) == wanted, template


def test_variables_reach_the_template(tmp_path: Path) -> None:
    template = "{{ enable_thinking is defined and enable_thinking is false }}"
    tokenizer = chat_of(tmp_path, template)
    assert tokenizer.chat(HELLO) == "False"
    assert tokenizer.chat(HELLO, enable_thinking=False) == "True"


def test_file_wins_over_setting_and_tools_have_their_own(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    tokenizer = chat_of(tmp_path, named)
    assert (tokenizer.chat(HELLO), tokenizer.chat(HELLO, tools=[{}])) == ("d", "t")
    (tmp_path / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert chat_of(tmp_path, named).chat(HELLO) == "file"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",  # the way out of a plain environment
        "{{ messages.append(1) }}",  # a template may not change the caller's messages
        "{{ messages.clear() }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_templates_stay_in_the_sandbox(tmp_path: Path, template: str) -> None:
    messages = list(HELLO)
    with pytest.raises(TinymoeError, match="refuses"):
        chat_of(tmp_path, template).chat(messages)
    assert messages == HELLO


def test_errors_of_templates(tmp_path: Path) -> None:
    with pytest.raises(TinymoeError, match="roles must alternate"):
        chat_of(tmp_path, "{{ raise_exception('roles must alternate') }}").chat(HELLO)
    with pytest.raises(TinymoeError, match="cannot be read"):
        chat_of(tmp_path, "{% if %}").chat(HELLO)
    with pytest.raises(TinymoeError, match="no chat template"):
        Tokenizer.open(folder_with(tmp_path, {})).chat(HELLO)
    with pytest.raises(TinymoeError, match=r"'default'.*other"):
        chat_of(tmp_path, [{"name": "other", "template": "x"}]).chat(HELLO)
    for wrong in (3, [{"name": "default"}], ["x"]):
        with pytest.raises(TinymoeError, match="chat_template"):
            chat_of(tmp_path, wrong).chat(HELLO)
    with pytest.raises(TinymoeError, match="role"):
        chat_of(tmp_path, "x").chat([{"content": "Hello"}])
