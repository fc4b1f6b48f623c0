"""Rules on tokenizer and special tokens against the embedding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tinymoe.core import TinymoeError
from tinymoe.oracle.lint.registry import Found, many, rule
from tinymoe.oracle.lint.subject import Subject
from tinymoe.strict_json import read_object

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


class Words(NamedTuple):
    """tokenizer.json as JSON: no tokenizer is built of it."""

    ids: dict[str, int]  # token -> id, added ones too
    by_id: Counter[int]  # how many different tokens have it
    problem: str  # why it could not be read; "" if it was


def words_of(subject: Subject) -> Words | None:
    """None where there is no tokenizer.json."""
    file = subject.path / "tokenizer.json"
    return _read(file, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=1)
def _read(file: Path, _changed: int) -> Words:
    try:
        whole = read_object(file)
    except TinymoeError as error:
        return Words({}, Counter(), str(error))
    model = whole.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = dict[str, int]()
    if isinstance(vocab, dict):  # BPE, WordPiece, WordLevel
        ids = {token: number for token, number in vocab.items() if type(number) is int}
    elif isinstance(vocab, list):  # Unigram: [token, score], in order
        ids = {str(row[0]): n for n, row in enumerate(vocab) if isinstance(row, list) and row}
    else:
        says = f"{file}: expected model.vocab to be an object or a list, found {type(vocab)}"
        return Words({}, Counter(), says)
    added = whole.get("added_tokens")
    pairs = set(ids.items())
    for row in added if isinstance(added, list) else []:
        if isinstance(row, dict) and type(row.get("id")) is int:
            pairs.add((str(row.get("content")), row["id"]))
            ids[str(row.get("content"))] = row["id"]
    return Words(ids, Counter(number for _, number in pairs), "")


def _vocab_size(subject: Subject) -> int | None:
    if subject.model is not None:
        return subject.model.vocab_size
    inner = subject.config.get("text_config")
    for source in (subject.config, inner):
        value = source.get("vocab_size") if isinstance(source, dict) else None
        if type(value) is int:
            return value
    return None


def _stated(subject: Subject) -> Iterator[tuple[str, int]]:
    """(where it stands, id) of every special id of both configs."""
    sources = {
        "config.json": subject.config,
        "generation_config.json": subject.checkpoint.generation,
    }
    for file, source in sources.items():
        for name in _SPECIAL:
            value = source.get(name)
            for number in value if isinstance(value, list) else [value]:
                if type(number) is int:
                    yield f"{file}: {name}", number


@rule(
    "tokenizer-unread",
    "warning",
    *("tokenizers#1506",),
    engine="fails at start, or falls back to another tokenizer",
)
def tokenizer_unread(subject: Subject) -> Iterator[Found]:
    """tokenizer.json is no JSON, or has no vocabulary: the rules about tokens could not look."""
    words = words_of(subject)
    if words is not None and words.problem:
        yield Found(words.problem + ". Ids and special tokens were not looked at")


@rule(
    "token-past-the-end",
    "error",
    *("tokenizers#1609",),
    engine="reads past the embedding: another tensor's numbers, or a device-side assert",
)
def token_past_the_end(subject: Subject) -> Iterator[Found]:
    """The tokenizer gives ids for which the embedding has no row."""
    words, size = words_of(subject), _vocab_size(subject)
    if words is None or size is None:
        return
    past = sorted((n, token) for token, n in words.ids.items() if not 0 <= n < size)
    if past:
        says = f"vocab_size {size:,} does not reach {many(len(past), 'token')}, whose ids go up to "
        tokens = [f"{token!r} = {number}" for number, token in past]
        yield Found(says + f"{past[-1][0]:,}", tokens, {"tokens": len(past), "vocab_size": size})


@rule(
    "vocabulary-padding",
    "note",
    *("vllm#340", "NeMo-RL#237"),
    engine="may sample an id that no token has: a decoder that expects none fails",
)
def vocabulary_padding(subject: Subject) -> Iterator[Found]:
    """The embedding has rows for which the tokenizer has no token."""
    words, size = words_of(subject), _vocab_size(subject)
    if words is None or words.problem or size is None:
        return
    used = sum(0 <= number < size for number in words.by_id)
    if used < size:
        says = f"the tokenizer has {used:,} tokens, vocab_size is {size:,}: "
        yield Found(says + f"{many(size - used, 'row')} without a token",
                    numbers={"tokens": used, "vocab_size": size})  # fmt: skip


@rule(
    "token-id-twice",
    "warning",
    *("gpt-oss#286", "tiktoken#457"),
    engine="decodes one of them as the other",
)
def token_id_twice(subject: Subject) -> Iterator[Found]:
    """Two different tokens of the tokenizer have the same id."""
    words = words_of(subject)
    twice = {n for n, count in words.by_id.items() if count > 1} if words is not None else set()
    if words is not None and twice:
        names = [f"{token!r} = {n}" for token, n in words.ids.items() if n in twice]
        yield Found(f"{many(len(twice), 'id stands', 'ids stand')} for more than one token", names)


@rule(
    "special-id",
    "error",
    *("QwenLM/Qwen3#927", "transformers#7275"),
    engine="never stops, or starts with a row that is not there",
)
def special_id(subject: Subject) -> Iterator[Found]:
    """A special id of a config is past the embedding's end, or stands for no token."""
    words, size = words_of(subject), _vocab_size(subject)
    # -1 is what some exporters write for "none"
    stated = [(f"{where} = {n}", n) for where, n in _stated(subject) if n != -1]
    past = [says for says, n in stated if size is not None and not 0 <= n < size]
    if past:
        yield Found(f"{many(len(past), 'special id')} not below vocab_size {size:,}", past)
    if words is None or words.problem:
        return
    nameless = [says for says, n in stated if n not in words.by_id and says not in past]
    if nameless:
        says = f"{many(len(nameless), 'special id')} without a token in tokenizer.json"
        yield Found(says, nameless, severity="warning")


@rule(
    "special-token",
    "warning",
    *("QwenLM/Qwen3#927", "open-r1#663"),
    engine="stops at the id of the one file while the model ends its turns with the other's: it "
    "never stops",
)
def special_token(subject: Subject) -> Iterator[Found]:
    """tokenizer_config.json's tokens against tokenizer.json and the end ids of the configs."""
    words, file = words_of(subject), subject.path / "tokenizer_config.json"
    if words is None or words.problem or not file.is_file():
        return
    said = read_object(file)
    strange = []
    for name in ("bos_token", "eos_token", "pad_token"):
        token = _content(said.get(name))
        if token is not None and token not in words.ids:
            strange.append(f"{name} {token!r}")
    if strange:
        says = (
            f"tokenizer_config.json names {many(len(strange), 'token')} that tokenizer.json lacks"
        )
        yield Found(says, strange)
    end = words.ids.get(_content(said.get("eos_token")) or "")
    ends = sorted({n for where, n in _stated(subject) if where.endswith("eos_token_id")})
    if end is not None and ends and end not in ends:
        says = f"tokenizer_config.json ends with {_content(said['eos_token'])!r}, id {end}; the "
        says += f"configs' eos_token_id: {', '.join(map(str, ends))}"
        yield Found(says, numbers={"tokenizer": end, "configs": ends})


def _content(token: Any) -> str | None:
    """A token, written as text or as an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
