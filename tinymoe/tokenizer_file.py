"""tokenizer.json, checked before it is used, and opened where it cannot hang.

The `tokenizers` library trusts the file: it takes ids past the model's vocabulary, panics on some
merges, and runs any regular expression. So ids and merges are checked here, and a file with an
expression that is not one of those in wide use is run in a process that can be stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tinymoe.core import TinymoeError
from tinymoe.guard import Guarded
from tinymoe.strict_json import read_object

MOST_IDS = 2**24  # where config.json does not say how many the model knows

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# expressions of tokenizers in use: each step of theirs takes a character, none is tried twice
KNOWN = frozenset(
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}"
    for digits in (r"\p{N}", r"\p{N}{1,3}")  # Qwen; Llama-3
) | {
    r"\p{N}{1,3}",  # DeepSeek-V3, three in a row
    "[一-龥\u3040-ゟ゠-ヿ]+",  # noqa: RUF001 - Chinese and Japanese
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    rf""" ?[\p{{P}}\p{{S}}]+[\r\n]*|{_END}""".replace('[!"', r"[!\""),
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|"  # o200k: gpt-oss, Llama-4
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}",
}
# steps whose work and whose result grow with the text alone
_PLAIN_STEPS = frozenset(
    {
        *("Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "Split"),
        *("ByteLevel", "ByteFallback", "Fuse", "Strip", "Metaspace", "Digits"),
        *("Whitespace", "WhitespaceSplit", "Punctuation", "TemplateProcessing"),
    }
)
_MOST_STEPS = 16
_MOST_TEXT = 8  # characters that one step may put in


class Backend(Protocol):
    """What `Tokenizer` needs of the library."""

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids."""
        ...

    def decode(self, ids: list[int], skip_special: bool) -> str:
        """Their text."""
        ...

    def token_to_id(self, token: str) -> int | None:
        """None for an unknown one."""
        ...

    def size(self) -> int:
        """Tokens, added ones included."""
        ...


def open_backend(file: Path, room: int | None) -> Backend:
    """The tokenizer of a file; `room`: how many tokens the model knows, if its config says."""
    content = read_object(file)
    _check_ids(content, file, room)
    _check_merges(content, file)
    return Local(str(file)) if is_plain(content) else Remote(file)


def _check_ids(content: Mapping[str, Any], file: Path, room: int | None) -> None:
    """Every id is one that the model has a row for."""
    most = MOST_IDS if room is None else room
    for token, number in _ids(content, file):
        if type(number) is not int or not 0 <= number < most:
            known = "" if room is None else f"config.json says that the model knows {room}: "
            raise TinymoeError(
                f"{file}: token {token!r:.80}: expected an id from 0 to {most - 1}, found "
                f"{number!r:.80}. {known}is it another model's tokenizer?"
            )


def _ids(content: Mapping[str, Any], file: Path) -> Iterator[tuple[object, object]]:
    model, added = content.get("model"), content.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(added, list):
        raise TinymoeError(f"{file}: expected an object 'model' and a list 'added_tokens'")
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        yield from vocab.items()
    elif isinstance(vocab, list):  # Unigram: the id is the place
        yield "the last", max(len(vocab) - 1, 0)
    else:
        raise TinymoeError(f"{file}: expected 'vocab' to be an object or a list")
    for token in added:
        if not isinstance(token, dict):
            raise TinymoeError(f"{file}: expected added_tokens to be objects, found {token!r:.80}")
        yield token.get("content"), token.get("id")


def _check_merges(content: Mapping[str, Any], file: Path) -> None:
    """Both pieces of a merge, and what they make, are tokens; with a prefix the library checks."""
    model = content["model"]
    vocab, merges = model["vocab"], model.get("merges") or []
    if model.get("continuing_subword_prefix") or not isinstance(vocab, dict):
        return
    for place, merge in enumerate(merges if isinstance(merges, list) else [merges]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(p) is str for p in pair):
            raise TinymoeError(f"{file}: merge {place}: expected two pieces, found {merge!r:.80}")
        for piece in (*pair, "".join(pair)):
            if piece not in vocab:
                raise TinymoeError(
                    f"{file}: merge {place}, {merge!r:.80}: the piece {piece!r:.80} is no token"
                )


def is_plain(content: Mapping[str, Any]) -> bool:
    """Whether the file asks for nothing whose work could get out of hand.

    Its expressions are KNOWN, its steps few and of known kinds, and each puts in little.
    """
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    steps = [step for name in names for step in _steps(content.get(name))]
    model = content["model"]
    bpe = model.get("type", "BPE") == "BPE" and not model.get("continuing_subword_prefix")
    return bpe and len(steps) <= _MOST_STEPS and all(map(_is_plain_step, steps))


def _steps(part: object) -> Iterator[Mapping[str, Any]]:
    """A part of the pipeline and the parts in it."""
    if isinstance(part, dict):
        yield part
        for name in ("normalizers", "pretokenizers", "processors", "decoders"):
            inner = part.get(name)
            for item in inner if isinstance(inner, list) else []:
                yield from _steps(item)


def _is_plain_step(step: Mapping[str, Any]) -> bool:
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if regex is not None and not (isinstance(regex, str) and regex in KNOWN):
        return False
    text = (step.get(name, "") for name in ("content", "prepend", "replacement"))
    short = all(isinstance(part, str) and len(part) <= _MOST_TEXT for part in text)
    empty = isinstance(pattern, dict) and pattern.get("String") == ""  # matches everywhere
    kind = step.get("type")
    return isinstance(kind, str) and kind in _PLAIN_STEPS and short and not empty


class Local:
    """The library in this process."""

    def __init__(self, file: str) -> None:
        """Padding and truncation that the file asks for are for training: none here."""
        import tokenizers

        try:
            self._library = tokenizers.Tokenizer.from_file(file)
        except BaseException as error:  # the library's own panics are no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise TinymoeError(f"{file}: not a tokenizer that can be read: {error}") from None
        self._library.no_padding()
        self._library.no_truncation()

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids."""
        ids: list[int] = self._library.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: list[int], skip_special: bool) -> str:
        """Their text."""
        return self._library.decode(ids, skip_special_tokens=skip_special)

    def token_to_id(self, token: str) -> int | None:
        """None for an unknown one."""
        return self._library.token_to_id(token)

    def size(self) -> int:
        """Tokens, added ones included."""
        return self._library.get_vocab_size(with_added_tokens=True)


class Remote:
    """The library in a child process, for a file that is not plain."""

    def __init__(self, file: Path) -> None:
        self._child = Guarded("tokenizer_file", str(file), file, "cannot be read")
        self.size()  # opened now: a file that cannot be read is an error of `open`

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._child.ask([method, *arguments], "the tokenizer fails")

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids."""
        ids: list[int] = self._ask("encode", text, special)
        return ids

    def decode(self, ids: list[int], skip_special: bool) -> str:
        """Their text."""
        return str(self._ask("decode", ids, skip_special))

    def token_to_id(self, token: str) -> int | None:
        """None for an unknown one."""
        number: int | None = self._ask("token_to_id", token)
        return number

    def size(self) -> int:
        """Tokens, added ones included."""
        return int(self._ask("size"))


def in_child(file: str) -> Callable[[list[Any]], Any]:
    """What `Remote` talks to."""
    backend = Local(file)
    return lambda request: getattr(backend, request[0])(*request[1:])
