"""Text that grows token by token: nothing shown too early, nothing lost, stop strings obeyed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from tinymoe.core import TinymoeError
from tinymoe.tokenizer import TextStream, Tokenizer

pytestmark = pytest.mark.definition

QWEN = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"


@pytest.fixture(scope="module")
def qwen() -> Tokenizer:
    return Tokenizer.open(QWEN)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes 0..255 by value, as SentencePiece falls back to them, and <tool> 256."""
    folder = tmp_path_factory.mktemp("letters")
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    backend = Backend(models.BPE(vocab, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_tokens(["<tool>"])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.open(folder)


def streamed(stream: TextStream, ids: list[int]) -> str:
    return "".join(map(stream.push, ids)) + stream.finish()


TEXT = "Naïve 专家 \N{SLIGHTLY SMILING FACE} routers — ẹ́ end."


def test_characters_appear_when_they_are_whole(qwen: Tokenizer) -> None:
    # each token is one byte of a character here: showing them one by one prints U+FFFD
    stream = TextStream(qwen)
    pieces = [stream.push(number) for number in qwen.encode(TEXT)]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + stream.finish() == TEXT
    assert max(map(len, pieces)) < 5  # shown as they come, not all at the end


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_whole(qwen: Tokenizer, seed: int) -> None:
    # random ids, most of them broken UTF-8, some past the vocabulary: nothing lost or doubled,
    # also where the window slides
    rng = random.Random(seed)
    ids = [rng.randrange(344) for _ in range(rng.choice([1, 17, 33, 300]))]
    for skip in (True, False):
        assert streamed(TextStream(qwen, skip_special=skip), ids) == qwen.decode(ids, skip)


def test_byte_fallback_shows_whole_characters(letters: Tokenizer) -> None:
    # SentencePiece spells unknown characters in bytes, and its decoder gives U+FFFD for all bytes
    # of a run as long as one character in it is not whole: shown text may not be taken for new
    stream = TextStream(letters)
    text = "专家 路由 \N{SLIGHTLY SMILING FACE}ẹ́" * 9 + "专家" * 30
    pieces = [stream.push(byte) for byte in text.encode()]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) == 1


def test_cost_does_not_grow_with_the_output(
    qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # decoding everything at each token makes long outputs quadratic
    longest = 0
    decode = Tokenizer.decode

    def watched(self: Tokenizer, ids: list[int], skip_special: bool = False) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(self, ids, skip_special)

    monkeypatch.setattr(Tokenizer, "decode", watched)
    ids = qwen.encode(TEXT) * 20
    assert streamed(TextStream(qwen), ids) == TEXT * 20
    assert longest < 32
    stream = TextStream(qwen)
    shown = [stream.push(127) for _ in range(500)]  # first bytes of characters, never a second
    assert longest <= 64
    assert 500 - 64 <= len("".join(shown)) < 500  # shown in time; the last may still change


def by_letters(tokenizer: Tokenizer, text: str, stop: list[str]) -> tuple[list[str], TextStream]:
    """Push `text` byte by byte; the pieces shown and the stream."""
    stream = TextStream(tokenizer, stop)
    pieces = [stream.push(byte) for byte in text.encode()]
    return [*pieces, stream.finish()], stream


def test_stop_string_ends_the_text_before_itself(letters: Tokenizer) -> None:
    pieces, stream = by_letters(letters, "one END two", ["END"])
    assert "".join(pieces) == "one "
    assert stream.stopped
    assert stream.push(65) == stream.finish() == ""  # nothing after it, either


def test_beginning_of_a_stop_string_is_held_back(letters: Tokenizer) -> None:
    # a stream cannot take back what it has shown
    pieces, stream = by_letters(letters, "aab", ["ab!"])
    assert pieces == ["", "a", "", "ab"]  # the first a is shown once "aa" rules it out
    assert not stream.stopped


def test_first_complete_stop_string_wins(letters: Tokenizer) -> None:
    # "bc" is complete before "abcd": the same in letters and in one piece
    pieces, _ = by_letters(letters, "xabcd", ["abcd", "bc"])
    assert "".join(pieces) == "xa"
    pieces, _ = by_letters(letters, "xabc", ["bc", "abc"])
    assert "".join(pieces) == "x"  # both at once: the longer one
    stream = TextStream(letters, ["<tool>", "oo"])
    assert stream.push(256) == "<t"


def test_stop_string_across_tokens_and_characters(qwen: Tokenizer) -> None:
    ids = qwen.encode("路由 router 专家 stop")
    for stop, wanted in (("专家", "路由 router "), ("r 专", "路由 route"), ("路", "")):
        stream = TextStream(qwen, [stop])
        assert streamed(stream, ids) == wanted
        assert stream.stopped


def test_stop_strings_must_be_strings(qwen: Tokenizer) -> None:
    # a lone string would be taken letter by letter, an empty one would stop at once
    for wrong in ("END", [""], [3]):
        with pytest.raises(TinymoeError, match="stop strings"):
            TextStream(qwen, wrong)  # type: ignore[arg-type]
