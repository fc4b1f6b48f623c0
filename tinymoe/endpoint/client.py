"""Asking a server for the log-probabilities of a prompt: teacher forcing over HTTP.

Prompts go out as token ids, so that no tokenizer stands between the two sides. Two dialects:

    vllm     prompt_logprobs: n, return_token_ids; log-probabilities keyed by token id,
             and `routed_experts` where the server was started with it
    openai   echo: true, max_tokens: 0, logprobs: n; keyed by the token's text. SGLang's and
             vLLM's `return_tokens_as_token_ids` makes that "token_id:123"

`echo` alone cannot tell two ids with the same text (broken UTF-8) apart: where such a text is the
likeliest, the position is left out and counted.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tinymoe.core import Array, TinymoeError
from tinymoe.oracle.dumps.vllm import decode_routed_experts, parse_prompt_logprobs

Dialect = Literal["vllm", "openai"]
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that may pass
_LONGEST_WAIT = 30.0  # seconds between two tries
_SHOWN = 300  # letters of a server's message


class Scored(NamedTuple):
    """A server's view of one prompt of T tokens."""

    listed: tuple[Mapping[int, float] | None, ...]  # T - 1 positions; None: left out
    routed: Array | None  # (T, L, K): one token was asked for, and that one was not run


class Client:
    """One server: `score` asks it about a prompt, with retries and a time limit."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        dialect: Dialect | None = None,
        key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        listed: int = 20,
        ids_of: Mapping[str, int] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`url`: up to and with /v1. `ids_of`: token ids by text, where one has it alone.

        `model`: the server's name for it; None asks /models for the only one there is. `dialect`:
        None tries vllm first.
        """
        try:
            self._httpx: Any = importlib.import_module("httpx")
        except ModuleNotFoundError as error:
            raise TinymoeError(
                "talking to a server needs httpx: pip install 'tinymoe[endpoint]'"
            ) from error
        if not url.startswith(("http://", "https://")):
            raise TinymoeError(f"expected a URL as http://127.0.0.1:8000/v1, got {url!r}")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = self._httpx.Client(timeout=timeout, headers=headers)
        self._retries, self._listed, self._ids_of = retries, listed, ids_of or {}
        self._sleep, self.timeout = sleep, timeout
        self.dialect: Dialect | None = dialect
        self.model = model or self._only_model()

    def close(self) -> None:
        """Let the connection go."""
        self._http.close()

    def score(self, ids: Sequence[int]) -> Scored:
        """What the server thinks of each token of ids after the first."""
        if self.dialect != "openai":
            answer = self._post(
                {
                    "prompt_logprobs": self._listed,
                    "return_token_ids": True,
                    "max_tokens": 1,
                    "temperature": 0,
                },
                ids,
            )
            scored = _read_vllm(answer, ids)
            if scored is not None:
                self.dialect = "vllm"
                return scored
            if self.dialect == "vllm":
                raise TinymoeError(
                    f"{self.url}: the answer has no prompt_logprobs; is it vLLM? "
                    "Try --dialect openai"
                )
        self.dialect = "openai"
        answer = self._post(
            {
                "echo": True,
                "logprobs": self._listed,
                "max_tokens": 0,
                "temperature": 0,
                "return_tokens_as_token_ids": True,
            },
            ids,
        )
        return _read_openai(answer, ids, self._ids_of)

    def _only_model(self) -> str:
        names = [entry.get("id") for entry in self._ask("GET", "/models", None).get("data", [])]
        if len(names) != 1:
            raise TinymoeError(f"{self.url}: serves {names}: say which with --name")
        return str(names[0])

    def _post(self, settings: Mapping[str, Any], ids: Sequence[int]) -> Mapping[str, Any]:
        return self._ask(
            "POST", "/completions", {"model": self.model, "prompt": list(ids), **settings}
        )

    def _ask(self, method: str, path: str, body: Any) -> Mapping[str, Any]:
        """One request: again after a pause where that may help, else an error that says why."""
        where, problem = self.url + path, ""
        for attempt in range(self._retries + 1):
            if attempt:
                self._sleep(min(2.0 ** (attempt - 1), _LONGEST_WAIT))
            try:
                reply = self._http.request(method, where, json=body)
            except self._httpx.TimeoutException:
                problem = f"no answer within {self.timeout:g} s"
                continue
            except self._httpx.HTTPError as error:
                problem = str(error) or type(error).__name__
                continue
            if reply.status_code == 200:
                return _object(reply, where)
            problem = f"status {reply.status_code}: {_message(reply)}"
            if reply.status_code not in RETRIED:
                raise TinymoeError(f"{where}: {problem}")
        raise TinymoeError(f"{where}: {problem} (tried {self._retries + 1} times)")


def _object(reply: Any, where: str) -> Mapping[str, Any]:
    try:
        answer = reply.json()
    except ValueError as error:
        raise TinymoeError(f"{where}: the answer is no JSON: {reply.text[:_SHOWN]!r}") from error
    if not isinstance(answer, dict):
        raise TinymoeError(f"{where}: expected an object, the answer is {reply.text[:_SHOWN]!r}")
    return answer


def _message(reply: Any) -> str:
    """OpenAI's {"error": {"message": ...}}, or the text as it is."""
    try:
        return str(reply.json()["error"]["message"])[:_SHOWN]
    except (ValueError, KeyError, TypeError):
        return str(reply.text[:_SHOWN])


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise TinymoeError(f"expected an answer with one choice, found {str(answer)[:_SHOWN]}")
    return choices[0]


def _read_vllm(answer: Mapping[str, Any], ids: Sequence[int]) -> Scored | None:
    """None where the server did not understand the question."""
    choice = _choice(answer)
    entries = choice.get("prompt_logprobs", answer.get("prompt_logprobs"))
    if entries is None:
        return None
    seen = choice.get("prompt_token_ids", answer.get("prompt_token_ids"))
    if seen is not None and list(seen) != list(ids):
        raise TinymoeError(
            f"the server ran the ids {list(seen)[:8]}..., {len(seen)} of them; it was sent "
            f"{list(ids)[:8]}..., {len(ids)}: does it add a beginning-of-sequence token?"
        )
    listed = parse_prompt_logprobs(entries, "the server's answer")
    if len(listed) != len(ids) - 1:
        raise TinymoeError(
            f"expected prompt_logprobs of {len(ids)} tokens, the server gave {len(entries)}"
        )
    told = choice.get("routed_experts", answer.get("routed_experts"))
    if told is None:
        return Scored(listed, None)
    routed = decode_routed_experts(told, "the server's answer")
    if len(routed) != len(ids):
        raise TinymoeError(
            f"expected routed_experts of {len(ids)} tokens, the whole prompt, the server gave "
            f"{len(routed)}"
        )
    return Scored(listed, routed)


def _read_openai(
    answer: Mapping[str, Any], ids: Sequence[int], ids_of: Mapping[str, int]
) -> Scored:
    """Echoed log-probabilities: the first is null, then one a token."""
    logprobs = _choice(answer).get("logprobs")
    if not isinstance(logprobs, dict) or "token_logprobs" not in logprobs:
        raise TinymoeError(
            "the answer has neither prompt_logprobs nor echoed log-probabilities: this server "
            "cannot score a prompt (it needs `echo` with `max_tokens` 0, or vLLM's prompt_logprobs)"
        )
    own, best = logprobs["token_logprobs"], logprobs.get("top_logprobs") or [None] * len(ids)
    if len(own) < len(ids) or len(best) < len(ids) or own[0] is not None:
        raise TinymoeError(
            f"expected echoed log-probabilities of {len(ids)} tokens, the first null; found "
            f"{len(own)} that begin with {own[:1]}: does the server add a token of its own?"
        )
    return Scored(
        tuple(
            _entry(int(token), float(value), others or {}, ids_of)
            for token, value, others in zip(
                ids[1:], own[1 : len(ids)], best[1 : len(ids)], strict=True
            )
        ),
        None,
    )


def _entry(
    token: int, logprob: float, others: Mapping[str, float], ids_of: Mapping[str, int]
) -> Mapping[int, float] | None:
    """By token id. A text that is nobody's or several ids' is lumped with the tokens not listed.

    If that text is the likeliest, nothing can be said of the first place: None.
    """
    entry = {token: logprob}
    for text, value in others.items():
        named = text.startswith("token_id:") and text[9:].isdigit()
        found = int(text[9:]) if named else ids_of.get(text)
        if found is not None:
            entry[found] = float(value)
        elif value >= max(others.values()):
            return None
    return entry
