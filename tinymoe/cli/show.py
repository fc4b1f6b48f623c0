"""How generated text reaches the screen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tinymoe.cli.prompts import Prompt
from tinymoe.cli.report import Style, is_terminal

# A model may say anything, also what moves a cursor or rings a bell; line breaks and tabs pass.
_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(0x7F, 0xA0)) if chr(c) not in "\n\t"}


class Screen:
    """Writes pieces of text to stdout at once; remembers whether a line is open."""

    def __init__(self) -> None:
        self.style = Style(sys.stdout)
        self.terminal = is_terminal(sys.stdout)
        self._open = False

    def write(self, text: str, look: Callable[[str], str] = str) -> None:
        """A piece of text. On a terminal control characters show as a replacement character."""
        if not text:
            return
        self._open = not text.endswith("\n")  # first: Ctrl-C may come between any two lines
        safe = text.translate(_CONTROLS) if self.terminal else text
        sys.stdout.write(look(safe))
        sys.stdout.flush()

    def title(self, text: str) -> None:
        """A line of its own, bold."""
        self.end_line()
        self.write(text, self.style.bold)
        self.write("\n")

    def end_line(self) -> None:
        """Close the line, if there is something on it."""
        if self._open:
            self.write("\n")


class InOrder:
    """Several answers on one screen: the first unfinished one is live, the others wait their turn.

    Several have labels. One has none: on a terminal it stands dim before its continuation.
    """

    def __init__(self, screen: Screen, prompts: Sequence[Prompt], echo: bool) -> None:
        self.screen, self.prompts = screen, prompts
        self.echo = echo and screen.terminal and len(prompts) == 1
        self._waiting = ["" for _ in prompts]
        self._done = [False for _ in prompts]
        self._live = -1  # nothing is shown before the first token: a bad prompt has no label

    def add(self, number: int, text: str, finished: bool) -> None:
        """New text of a prompt's answer."""
        self._done[number] = finished
        if self._live < 0:
            self._next()
        if number != self._live:
            self._waiting[number] += text
            return
        self.screen.write(text)
        while self._live < len(self.prompts) and self._done[self._live]:
            self._next()

    def close(self) -> None:
        """Show what still waits: the work was interrupted."""
        while 0 <= self._live < len(self.prompts):
            self._next()
        self.screen.end_line()

    def _next(self) -> None:
        """Close the live answer and show the next, with what it has so far."""
        self.screen.end_line()
        self._live += 1
        if self._live >= len(self.prompts):
            return
        prompt = self.prompts[self._live]
        if len(self.prompts) > 1:
            self.screen.write("\n" if self._live else "")
            self.screen.title(f"== {self._live + 1} of {len(self.prompts)}: {prompt.label}")
        if self.echo and prompt.text is not None:
            self.screen.write(prompt.text, self.screen.style.dim)
        self.screen.write(self._waiting[self._live])
