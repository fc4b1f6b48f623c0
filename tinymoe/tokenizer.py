"""Text to token ids and back, by the files that came with the model.

The `tokenizers` library does the work (`tokenizer_file.py`); it is imported when a tokenizer is
opened, so that importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinymoe.checkpoint import read_end_ids
from tinymoe.core import TinymoeError
from tinymoe.strict_json import read_object

if TYPE_CHECKING:
    from tinymoe.chat import ChatTemplates
    from tinymoe.tokenizer_file import Backend

_SPECIAL = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    "additional_special_tokens",
)
_BROKEN = "\ufffd"  # what a decoder shows for bytes that are not (yet) UTF-8
_INCOMPLETE = 3  # a UTF-8 character has up to 4 bytes: at most 3 wait for more
_CONTEXT = 8  # tokens kept in a stream's window
_WIDEST = 64  # the window never grows past this


class Tokenizer:
    """The tokenizer of one model folder."""

    def __init__(
        self,
        backend: Backend,
        settings: Mapping[str, Any],
        eos_ids: tuple[int, ...],
        folder: Path,
        room: int | None,
    ) -> None:
        """Use `Tokenizer.open`. `settings`: tokenizer_config.json; `room`: the model's tokens."""
        self._room = room
        self._backend, self._settings, self._folder = backend, settings, folder
        self.special_tokens = _special_tokens(settings)
        end = self.special_tokens.get("eos_token")
        end_id = backend.token_to_id(end) if isinstance(end, str) else None
        self.eos_ids = eos_ids or (() if end_id is None else (end_id,))
        self._bos = self._missing_bos()
        self._chat: ChatTemplates | None = None

    @classmethod
    def open(cls, path: str | Path) -> Tokenizer:
        """Read tokenizer.json, and tokenizer_config.json and the model's configs if they exist."""
        from tinymoe.tokenizer_file import open_backend

        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise TinymoeError(f"{folder}: expected a model folder with tokenizer.json, found none")
        names = ("tokenizer_config.json", "generation_config.json", "config.json")
        settings, generation, config = (
            read_object(folder / name) if (folder / name).is_file() else {} for name in names
        )
        vocab_size = config.get("vocab_size")
        room = vocab_size if type(vocab_size) is int else None
        backend = open_backend(file, room)
        return cls(backend, settings, read_end_ids(generation, config), folder, room)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text. `special`: begin as the model expects (with its bos, if any).

        The beginning comes from tokenizer.json's template, or from `add_bos_token` where the
        template has none. Text that a chat template wrote needs `special=False`: it has its own.
        """
        try:
            ids = self._backend.encode(text, special)
        except (TypeError, UnicodeError) as error:
            raise TinymoeError(f"expected text to encode, found {text!r:.80}: {error}") from None
        if self._room is not None and ids and max(ids) >= self._room:  # from a template of ids
            raise TinymoeError(
                f"{self._folder}: the tokenizer gives the id {max(ids)}, but config.json says that "
                f"the model knows {self._room} tokens"
            )
        return [*self._bos, *ids] if special else ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of token ids. An id past the tokenizer's vocabulary gives nothing.

        (A model's vocabulary is often padded past its tokenizer's.) A negative id is an error.
        """
        numbers = [int(number) for number in ids]
        if numbers and min(numbers) < 0:
            raise TinymoeError(f"token ids are 0 or more, found {min(numbers)}")
        known = [number for number in numbers if number < 2**32]  # the library's own limit
        return self._backend.decode(known, skip_special)

    @property
    def vocab_size(self) -> int:
        """Tokens it knows, added ones included; a model's vocabulary may be padded past it."""
        return self._backend.size()

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a conversation, by the model's template; encode it with `special=False`.

        `messages`: {"role": ..., "content": ...} each. `variables` reach the template as they
        are (`enable_thinking=False`). Errors: no template, or one that refuses the messages.
        """
        from tinymoe import chat

        if not all(isinstance(message, Mapping) and "role" in message for message in messages):
            raise TinymoeError("expected messages like {'role': 'user', 'content': 'Hello'}")
        if self._chat is None:
            sources = chat.read_templates(self._folder, self._settings.get("chat_template"))
            self._chat = chat.ChatTemplates(sources, self._folder)
        known = {**self.special_tokens, **variables}
        return self._chat.render(messages, tools, add_generation_prompt, known)

    def _missing_bos(self) -> list[int]:
        """The bos that `add_bos_token` asks for, where tokenizer.json's template lacks it.

        DeepSeek's tokenizer.json has no template: without this its model sees no beginning.
        """
        bos = self.special_tokens.get("bos_token")
        if self._settings.get("add_bos_token") is not True or not isinstance(bos, str):
            return []
        bos_id = self._backend.token_to_id(bos)
        if bos_id is None:
            raise TinymoeError(f"{self._folder}: add_bos_token is set, but {bos!r} is no token")
        template = self._backend.encode("", True)
        return [] if bos_id in template else [bos_id]


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """bos_token and the others, as text; a token may be written as an object with `content`."""

    def text(value: Any) -> Any:
        return value.get("content") if isinstance(value, Mapping) else value

    found: dict[str, str | list[str]] = {}
    for name in _SPECIAL:
        value = settings.get(name)
        if isinstance(value, list):
            found[name] = [item for item in map(text, value) if isinstance(item, str)]
        elif isinstance(text(value), str):
            found[name] = text(value)
    return found


class TextStream:
    """Token ids in, one at a time; text out, as soon as no later token can change it.

    Held back: a character whose bytes are not all there yet, and text that may be the
    beginning of a stop string. The pieces together are the decoded text up to the first stop.
    Only a short window of tokens is decoded for each new one, however long the output is.
    (Where bytes are broken for good, a SentencePiece decoder would turn whole characters beside
    them into U+FFFD, too; the stream has shown those by then.)
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), skip_special: bool = True
    ) -> None:
        """`stop`: strings that end the text; they are not part of it."""
        if isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
            raise TinymoeError(f"expected a sequence of stop strings, none empty; found {stop!r}")
        self._tokenizer, self._stop, self._skip = tokenizer, tuple(stop), skip_special
        self._window: list[int] = []  # the latest tokens
        self._taken = 0  # characters of the window's text that went to `_pending`
        self._pending = ""  # final text that may begin a stop string
        self.stopped = False  # a stop string was met

    def push(self, token_id: int) -> str:
        """The text that is safe to show after this token: perhaps none, perhaps several words."""
        if self.stopped:
            return ""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window, self._skip)
        ready = len(text.rstrip(_BROKEN))
        if len(self._window) >= _WIDEST:  # nothing but broken bytes for so long
            ready = max(ready, len(text) - _INCOMPLETE)
        fresh = text[self._taken : ready]
        self._taken = max(self._taken, ready)
        self._slide(text)
        return self._release(fresh)

    def finish(self) -> str:
        """What was held back, now that no more tokens come."""
        if self.stopped:
            return ""
        text = self._release(self._tokenizer.decode(self._window, self._skip)[self._taken :])
        rest, self._pending, self._window, self._taken = self._pending, "", [], 0
        return text + rest

    def _slide(self, text: str) -> None:
        """Forget old tokens, once all is shown and the newest do not begin inside a character.

        (From inside one, a SentencePiece decoder gives U+FFFD for every byte that follows.)
        """
        waiting, full = len(text) - self._taken, len(self._window) >= _WIDEST
        if len(self._window) < 2 * _CONTEXT or (waiting and not full):
            return
        for keep in range(_CONTEXT, _CONTEXT + 4):  # one of 4 neighbours begins a character
            rest = self._tokenizer.decode(self._window[-keep:], self._skip)
            if full or not rest.startswith(_BROKEN):
                self._window = self._window[-keep:]
                self._taken = max(0, len(rest) - waiting)
                return

    def _release(self, fresh: str) -> str:
        """Add final text; give out what no stop string can still claim.

        Of several stop strings the one that is complete first counts, so that the result does
        not depend on how the text was cut into tokens.
        """
        self._pending += fresh
        found = [(at + len(s), at) for s in self._stop if (at := self._pending.find(s)) >= 0]
        if found:
            self.stopped = True
            shown, self._pending = self._pending[: min(found)[1]], ""
            return shown
        held = max(
            (n for s in self._stop for n in range(1, len(s)) if self._pending.endswith(s[:n])),
            default=0,
        )
        cut = len(self._pending) - held
        shown, self._pending = self._pending[:cut], self._pending[cut:]
        return shown
