"""The recipe's data side, which needs no torch: tokenizer, encoded files, windows, schedule."""

from __future__ import annotations

import datetime
import json
import lzma
from pathlib import Path

import jinja2
import numpy as np
import pytest
from tokenizers import Tokenizer

from weights.recipe import prepare_data, train_tokenizer
from weights.recipe.corpus import find_domains, read_documents, write_atomically
from weights.recipe.data import Sampler, Stream, evaluation_windows
from weights.recipe.schedule import COOLDOWN, FLOOR, Schedule, clock_time
from weights.recipe.shape import END_OF_TEXT, SPECIAL_TOKENS

pytestmark = pytest.mark.properties

TALE = 'Once upon a time, the old king had 3 sons.\n\n"Who is there?" she said.\n'
CHAT = "<|im_start|>user\nWho came?<|im_end|>\n<|im_start|>assistant\nLily<|im_end|>\n"


def write_corpus(root: Path, domain: str, documents: list[str]) -> None:
    folder = root / domain
    folder.mkdir(parents=True)
    text = "".join(f"{document}\n{END_OF_TEXT}\n" for document in documents)
    for split in ("train", "valid", "test"):
        with lzma.open(folder / f"{split}.txt.xz", "wt") as file:
            file.write(text)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizer")
    write_corpus(root / "corpus", "tales", [TALE] * 20)
    write_corpus(root / "corpus", "stories", [CHAT] * 20)
    train_tokenizer.main(
        [
            "--corpus",
            str(root / "corpus"),
            "--out",
            str(root / "out"),
            "--vocab",
            "300",
        ]
    )
    return root / "out"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))


@pytest.mark.parametrize(
    "text",
    [TALE, CHAT, "", "  two  spaces\t\n\n", "12+345=357", "naïve ☃ \x00\x7f", "<|im_start", "\r\n"],
)
def test_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_have_their_fixed_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    ids = tokenizer.encode(CHAT).ids
    assert [i for i in ids if i < 4] == [2, 3, 2, 3]


def test_no_token_joins_two_digits_or_part_of_a_special_token(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("2026").ids) == 4
    for token in tokenizer.get_vocab():
        digits = sum(c.isdigit() for c in token)
        assert digits == 0 or len(token) == 1, token
        assert token in SPECIAL_TOKENS or "im_" not in token


def test_chat_template_writes_chatml(tokenizer_folder: Path) -> None:
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    messages = [
        {"role": "user", "content": "Who came?"},
        {"role": "assistant", "content": "Lily"},
    ]
    template = jinja2.Environment(autoescape=False).from_string(config["chat_template"])
    assert template.render(messages=messages) == CHAT
    rendered = template.render(messages=messages[:1], add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nWho came?<|im_end|>\n<|im_start|>assistant\n"


def test_files_describe_one_model(tokenizer_folder: Path) -> None:
    config = json.loads((tokenizer_folder / "config.json").read_text())
    generation = json.loads((tokenizer_folder / "generation_config.json").read_text())
    assert config["model_type"] == "qwen3_moe"
    assert config["vocab_size"] == 300
    assert generation["eos_token_id"] == [0, 3]


def test_documents_are_separated_by_end_of_text(
    tmp_path: Path, tokenizer: Tokenizer, tokenizer_folder: Path
) -> None:
    write_corpus(tmp_path / "corpus", "tales", [TALE, "The end."])
    file = tokenizer_folder / "tokenizer.json"
    counts = prepare_data.prepare([tmp_path / "corpus"], file, tmp_path / "data")
    ids = np.fromfile(tmp_path / "data" / "tales.train.u16", dtype=np.uint16).tolist()
    assert len(ids) == counts["tales"]["train"]
    # A text's own last line end is kept; only the separator's is not part of it.
    expected = [0, *tokenizer.encode(TALE).ids, 0, *tokenizer.encode("The end.").ids, 0]
    assert ids == expected


def test_a_later_corpus_replaces_a_domain(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a", "tales", ["old"])
    write_corpus(tmp_path / "a", "plays", ["kept"])
    write_corpus(tmp_path / "b", "tales", ["new"])
    found = find_domains([tmp_path / "a", tmp_path / "b"])
    assert read_documents(found["tales"] / "train.txt.xz") == ["new"]
    assert read_documents(found["plays"] / "train.txt.xz") == ["kept"]


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no DOMAIN"):
        find_domains([tmp_path])


def test_a_failed_write_keeps_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("count", "context"), [(1000, 16), (129, 64), (33, 16), (4097, 256)])
def test_an_epoch_predicts_every_token_once(count: int, context: int) -> None:
    ids = np.arange(count, dtype=np.uint16)
    stream = Stream(ids, (1, 0), context)
    windows = [stream.draw() for _ in range(len(stream.starts(0)))]
    assert stream.epoch == 0
    targets = np.sort(np.concatenate([w[1:] for w in windows]))
    assert (np.diff(targets) == 1).all()
    assert count - len(targets) < 2 * context
    assert all((np.diff(w) == 1).all() for w in windows)
    stream.draw()
    assert (stream.epoch, stream.index) == (1, 1)


def test_epochs_differ_in_order_and_phase() -> None:
    stream = Stream(np.arange(5000, dtype=np.uint16), (1, 0), 50)
    phases = {int(stream.starts(epoch).min()) for epoch in range(10)}
    assert len(phases) > 5
    assert not np.array_equal(stream.starts(0), np.sort(stream.starts(0)))


def write_ids(folder: Path) -> None:
    random = np.random.default_rng(0)
    for domain, count in (("tales", 900), ("stories", 400), ("code", 20)):
        ids = random.integers(0, 64, count).astype(np.uint16)
        write_atomically(folder / f"{domain}.train.u16", ids.tobytes())


def test_a_restored_sampler_draws_the_same_batches(tmp_path: Path) -> None:
    write_ids(tmp_path)
    through = Sampler(tmp_path, seed=7, context=16)
    for _ in range(37):
        through.draw(5)
    state = json.loads(json.dumps(through.state()))
    resumed = Sampler(tmp_path, seed=7, context=16)
    resumed.restore(state)
    for step in range(60):
        if step == 30:
            through.set_context(32)
            resumed.set_context(32)
        assert np.array_equal(through.draw(5), resumed.draw(5))
    again = Sampler(tmp_path, seed=7, context=16)
    again.restore(through.state())
    assert np.array_equal(again.draw(5), through.draw(5))


def test_a_domain_too_short_for_a_window_is_left_out(tmp_path: Path) -> None:
    write_ids(tmp_path)
    assert set(Sampler(tmp_path, seed=7, context=16).streams) == {"tales", "stories"}


def test_evaluation_windows_do_not_overlap() -> None:
    windows = evaluation_windows(np.arange(1000, dtype=np.uint16), 64, 6)
    targets = windows[:, 1:].ravel()
    assert windows.shape == (6, 65)
    assert len(set(targets.tolist())) == len(targets)
    assert len(evaluation_windows(np.arange(200, dtype=np.uint16), 64, 6)) == 3


def test_the_clock_brings_the_run_down_in_time() -> None:
    schedule = Schedule(started=1000.0, until=2000.0, tokens=None, warmup_steps=10)
    assert schedule.progress(1500.0, 0) == 0.5
    assert schedule.speed(0.0, 0) == 0.1
    assert schedule.speed(1 - COOLDOWN, 10) == pytest.approx(1.0)
    assert schedule.speed(1 - COOLDOWN / 2, 10) == pytest.approx(0.5)
    assert schedule.speed(1.2, 10) == FLOOR
    assert Schedule(**schedule.state()) == schedule


def test_tokens_can_be_the_budget() -> None:
    schedule = Schedule(started=0.0, until=None, tokens=400, warmup_steps=1)
    assert schedule.progress(1e9, 100) == 0.25


def test_an_hour_that_is_past_means_tomorrow() -> None:
    now = datetime.datetime(2026, 1, 1, 12, 0)
    assert clock_time("12:30", now) - now.timestamp() == 1800
    assert clock_time("11:30", now) - now.timestamp() == 23.5 * 3600
