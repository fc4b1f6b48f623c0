"""Put pronouns where a name would be repeated and nobody else could be meant."""

import random
import re
from collections.abc import Iterable

from .world import Character

_SENTENCES = re.compile(r"(?<=[.!?])(?<!Mr\.)(?<!Mrs\.) (?=[A-Z])")
_ANSWER = re.compile(
    r"(\?\"(?: asked [^.\"]{1,30}\.)? (?:\"[^\"?!]*,\"|(?!The story)[^.\"]{1,25})) said\b"
)
_OTHERS = re.compile(
    r"\b(king|queen|giant|woman|man|driver|guard|dragon|wizard|fairy|librarian|judges?|conductor"
    r"|mother|father|grandma|grandpa|baby)\b"
)
REPLACED, ANSWERED = 0.65, 0.6


def vary(text: str, cast: Iterable[Character], rng: random.Random) -> str:
    """Replace some names at the start of a sentence, and some "said" after a question."""
    people = list(cast)
    sentences = _SENTENCES.split(text)
    subject = _subject(sentences[0], people)
    for index in range(1, len(sentences)):
        sentence = sentences[index]
        if subject and rng.random() < REPLACED:
            sentences[index] = _replace(sentence, subject)
        following = _subject(sentence, people)
        if following is None and subject and sentence.startswith(subject.he.title() + " "):
            following = subject if _alone(sentence, subject, people) else None
        subject = following
    return _ANSWER.sub(
        lambda match: match[1] + (" answered" if rng.random() < ANSWERED else " said"),
        " ".join(sentences),
    )


def _replace(sentence: str, subject: Character) -> str:
    for name, pronoun in ((f"{subject}'s ", subject.his), (f"{subject} ", subject.he)):
        if sentence.startswith(name):
            return f"{pronoun.title()} {sentence.removeprefix(name)}"
    return sentence


def _alone(sentence: str, subject: Character, people: list[Character]) -> bool:
    """Tell whether a sentence without speech is about this character and nobody else."""
    if '"' in sentence or _OTHERS.search(sentence):
        return False
    return not any(other.name in sentence for other in people if other is not subject)


def _subject(sentence: str, people: list[Character]) -> Character | None:
    """Find the one character that a sentence is about."""
    for person in people:
        name = person.name
        if (
            (sentence.startswith(name) and person.name[0].isupper())
            or f"named {name}" in sentence
            or f"called {name}" in sentence
            or f"knew {name}," in sentence
        ):
            return person if _alone(sentence, person, people) else None
    return None
