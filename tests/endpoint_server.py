"""A real HTTP server that answers as vLLM and OpenAI-compatible servers do, from a tinymoe model.

What it answers can be made wrong on purpose: `change` edits the logits, `edit` the JSON.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tinymoe.api import Model
from tinymoe.oracle.logprobs import log_softmax

Edit = Callable[[dict[str, Any]], Any]


class Server(ThreadingHTTPServer):
    """Its URL is `url`; `requests` keeps the bodies; `failures` are statuses to send first."""

    def __init__(
        self,
        model: Model,
        *,
        dialect: str,
        change: Callable[[np.ndarray], np.ndarray] = lambda logits: logits,
        edit: Edit = lambda answer: answer,
        routed: bool = True,
        failures: tuple[int, ...] = (),
        token_ids: bool = True,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.dialect, self.change, self.edit = model, dialect, change, edit
        self.routed, self.failures, self.token_ids = routed, list(failures), token_ids
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> Any:
        ids = body["prompt"]
        taps = self.model.trace(ids, ["logits", "layers.*.router.ids"])
        rows = log_softmax(self.change(taps["logits"]))
        if "prompt_logprobs" in body and self.dialect == "vllm":
            choice = self._vllm(ids, rows, body["prompt_logprobs"])
            if self.routed:
                routing = [value for name, value in taps.items() if name.endswith(".ids")]
                file = io.BytesIO()
                np.save(file, np.stack(routing, axis=1).astype(np.uint8))
                choice["routed_experts"] = base64.b64encode(file.getvalue()).decode()
        else:  # a server that does not know prompt_logprobs ignores it
            choice = self._openai(ids, rows, body) if body.get("echo") else {"text": "x"}
        return self.edit({"choices": [choice]})

    def _vllm(self, ids: list[int], rows: np.ndarray, count: int) -> dict[str, Any]:
        entries: list[Any] = [None]
        for t, token in enumerate(ids[1:]):
            best = np.argsort(-rows[t], kind="stable")[:count]
            entries.append(
                {str(i): {"logprob": float(rows[t, i])} for i in {token, *best.tolist()}}
            )
        return {"prompt_logprobs": entries, "prompt_token_ids": ids}

    def _openai(self, ids: list[int], rows: np.ndarray, body: dict[str, Any]) -> dict[str, Any]:
        def name(token: int) -> str:
            asked = self.token_ids and body.get("return_tokens_as_token_ids")
            return f"token_id:{token}" if asked else self.model.tokenizer.decode([token])

        top: list[Any] = [None]
        for t in range(len(ids) - 1):
            best = np.argsort(-rows[t], kind="stable")[: body["logprobs"]].tolist()
            top.append({name(i): float(rows[t, i]) for i in best})
        own = [None, *(float(rows[t, token]) for t, token in enumerate(ids[1:]))]
        return {"logprobs": {"token_logprobs": own, "top_logprobs": top, "tokens": []}}


class Handler(BaseHTTPRequestHandler):
    """GET /v1/models, POST /v1/completions."""

    server: Server

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        if self.server.failures:
            status = self.server.failures.pop(0)
            self._send(status, {"error": {"message": "out of order", "type": "x"}})
            return
        self._send(200, self.server.answer(body))

    def _send(self, status: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(model: Model, **settings: Any) -> Iterator[Server]:
    """The server, in a thread, for as long as the block lasts."""
    server = Server(model, **settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
