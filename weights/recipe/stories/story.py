"""A story as it is told: paragraphs, facts to ask about, and topics to request it by."""

from collections.abc import Callable

from .pronouns import vary
from .spin import expand
from .world import Character, World

Plot = Callable[[World], "Story"]
PLOTS: list[Plot] = []


def plot(function: Plot) -> Plot:
    """Register a plot."""
    PLOTS.append(function)
    return function


class Story:
    """Collects what a plot tells; every text is a template that is expanded at once."""

    def __init__(self, world: World, hero: Character | None = None) -> None:
        """Begin an empty story about the hero of the world, or about another character."""
        hero = hero or world.hero
        self._world = world
        self._rng = world.rng
        self.paragraphs: list[str] = []
        self.facts: list[tuple[str, str]] = []
        self._hero = hero
        self.topics = [f"a {hero.noun} named {hero}"]

    def add(self, *sentences: str) -> None:
        """Add a paragraph made of the sentences; empty ones are left out."""
        text = expand(" ".join(filter(None, sentences)), self._rng)
        if text:
            self.paragraphs.append(vary(text, self._world.cast, self._rng))

    def ask(self, question: str, answer: str) -> None:
        """Add a question that the story answers."""
        self.facts.append((expand(question, self._rng), expand(answer, self._rng)))

    def about(self, *topics: str) -> None:
        """Add topics, as in "a girl who lost her kite"."""
        self.topics += topics

    def known_topics(self) -> list[str]:
        """List the topics, with the trait of the hero if the story mentions it."""
        hero = self._hero
        if f" {hero.trait} " not in self.text:
            return self.topics
        return [*self.topics, f"a {hero.trait} {hero.noun} named {hero}"]

    @property
    def text(self) -> str:
        """The paragraphs of the story, one a line."""
        return "\n".join(self.paragraphs)
