"""Chat templates: a program that came with the model, run in a sandbox, turns messages into text.

The dialect is the one that transformers gives templates: Jinja with `trim_blocks`,
`lstrip_blocks`, loop controls, `{% generation %}`, `raise_exception`, `strftime_now`, and a
`tojson` that neither escapes HTML nor sorts keys. A sandbox keeps a program from reaching out, but
not from running for ever or filling the memory: so it runs in a child process with limits, too
(`guard.py`). Import this module only when a template is used: Jinja is slow to import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tinymoe.core import TinymoeError
from tinymoe.guard import Guarded

MAX_TEMPLATE = 2**20  # bytes; the largest in use have about 30,000


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the model says; here it is plain text."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's body, with a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def read_templates(folder: Path, setting: object) -> dict[str, str]:
    """Templates by name: chat_template.jinja, else `setting` of tokenizer_config.json.

    `setting` is a string or a list of {name, template}; a lone template is called "default".
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        if file.stat().st_size > MAX_TEMPLATE:
            raise TinymoeError(f"{file}: expected at most {MAX_TEMPLATE:,} bytes")
        try:
            return {"default": file.read_text(encoding="utf-8")}
        except UnicodeDecodeError as error:
            raise TinymoeError(f"{file}: expected UTF-8 text: {error}") from None
    if isinstance(setting, str):
        return {"default": setting}
    if setting is None:
        return {}
    named: dict[str, str] = {}
    for item in setting if isinstance(setting, list) else [setting]:
        name, template = (
            (item.get("name"), item.get("template")) if isinstance(item, dict) else (None, None)
        )
        if not isinstance(name, str) or not isinstance(template, str):
            raise TinymoeError(
                f"{folder / 'tokenizer_config.json'}: expected 'chat_template' to be a string or "
                f"a list of {{name, template}}, found {item!r:.80}"
            )
        named[name] = template
    return named


class ChatTemplates:
    """The templates of one model."""

    def __init__(self, sources: Mapping[str, str], where: Path) -> None:
        """`sources`: template text by name; `where`: the model folder, for errors."""
        if not sources:
            raise TinymoeError(
                f"{where}: this model has no chat template (no chat_template.jinja, and no "
                "'chat_template' in tokenizer_config.json); give it plain text"
            )
        self._templates, self._where = dict(sources), where
        self._child = Guarded("chat", self._templates, where, "the chat template cannot be read")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """The text of a conversation. With tools, a template called "tool_use" is preferred."""
        wanted = "tool_use" if tools and "tool_use" in self._templates else "default"
        if wanted not in self._templates:
            raise TinymoeError(
                f"{self._where}: no chat template is called 'default'; there are: "
                f"{', '.join(self._templates)}"
            )
        values = {"documents": None, **variables}
        values |= {"messages": messages, "tools": tools}
        values["add_generation_prompt"] = add_generation_prompt
        return str(self._child.ask([wanted, values], "the chat template refuses these messages"))


def in_child(sources: Mapping[str, str]) -> Callable[[list[Any]], str]:
    """What `ChatTemplates` talks to: [name of a template, its variables] to text."""
    environment = _environment()
    templates = {name: environment.from_string(text) for name, text in sources.items()}
    return lambda request: templates[request[0]].render(request[1])
