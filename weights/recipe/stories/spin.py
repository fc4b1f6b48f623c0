"""Templates: `[one|two]` picks one of the alternatives, and the text around it is put right.

Plots write plain sentences with nested alternatives. After the alternatives are picked, `polish`
chooses between "a" and "an", closes gaps left by empty alternatives and starts each sentence with
a capital letter. A speech tag after `!"` or `?"` must begin with a verb of speaking, so that it
can be told from a new sentence.
"""

import random
import re

SPEAKING = ("said", "asked", "cried", "called", "shouted", "whispered", "answered")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w+))")
_START = re.compile(r"(^\"?|[.!?] \"?|[.!?]\" \"?|, \")([a-z]+)")
_SPACES = re.compile(r"  +| (?=[.,!?])")
_AN_WORDS = ("hour", "honest", "heir")
_A_WORDS = ("one", "once", "uni", "use", "ukulele")


def takes_an(word: str) -> bool:
    """Tell whether the indefinite article before this word is "an"."""
    lower = word.lower()
    if lower.startswith(_AN_WORDS):
        return True
    return lower[0] in "aeiou" and not lower.startswith(_A_WORDS)


def _fix_article(match: re.Match[str]) -> str:
    return match[1] + ("n " if takes_an(match[2]) else " ")


def _fix_start(match: re.Match[str]) -> str:
    before, word = match[1], match[2]
    if before in ('!" ', '?" ') and word in SPEAKING:
        return match[0]
    return before + word.capitalize()


def polish(text: str) -> str:
    """Repair spaces, articles and capital letters of a text without alternatives."""
    text = _SPACES.sub(lambda match: " " if len(match[0]) > 1 else "", text.strip())
    text = _SPACES.sub("", text)
    return _START.sub(_fix_start, _ARTICLE.sub(_fix_article, text))


def expand(template: str, rng: random.Random) -> str:
    """Pick one alternative of every choice, innermost first, and polish the result."""
    draw = rng.random

    def pick(match: re.Match[str]) -> str:
        options = match[1].split("|")
        return options[int(draw() * len(options))]

    while "[" in template:
        template = _CHOICE.sub(pick, template)
    return polish(template)
