"""Who and what a story is about: characters with their pronouns, drawn without repetition."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from . import words

Value = TypeVar("Value")
_SHE = ("she", "her", "her", "girl")
_HE = ("he", "him", "his", "boy")


@dataclass(frozen=True)
class Character:
    """Somebody in a story; formatting one gives the name."""

    name: str
    noun: str
    he: str
    him: str
    his: str
    trait: str

    def __str__(self) -> str:
        return self.name

    @property
    def full(self) -> str:
        """The name with what the character is, as in "Pip the fox"."""
        return f"{self.name} the {self.noun}"

    @property
    def himself(self) -> str:
        """The reflexive pronoun."""
        return self.him + "self"


@dataclass(frozen=True)
class Place:
    """A place, being there, and one spot in it; formatting one gives the name."""

    name: str
    there: str
    spot: str

    def __str__(self) -> str:
        return self.name


class World:
    """The cast and the properties of one story, all drawn from one source of randomness."""

    def __init__(self, rng: random.Random) -> None:
        """Draw the main characters; everything else is drawn when a plot asks for it."""
        self.rng = rng
        self._used: set[str] = set()
        self.cast: list[Character] = []
        self.hero = self.child()
        self.friend = self.child()
        self.place = self.somewhere()
        self.parent = self.family("mom dad mother father grandma grandpa aunt uncle")

    def one(self, options: Sequence[Value]) -> Value:
        """Draw one of the options."""
        return options[int(self.rng.random() * len(options))]

    def fresh(self, options: Sequence[str]) -> str:
        """Draw an option that this story has not used yet."""
        choice = self.one(options)
        while choice in self._used:
            choice = self.one(options)
        self._used.add(choice)
        return choice

    def chance(self, probability: float = 0.5) -> bool:
        """Tell whether something with this probability happens."""
        return self.rng.random() < probability

    def trait(self) -> str:
        """Draw a trait."""
        return self.fresh(words.TRAITS)

    def enter(self, character: Character) -> Character:
        """Add a character to the cast."""
        self.cast.append(character)
        return character

    def child(self) -> Character:
        """Draw a girl or a boy."""
        girl = self.chance()
        he, him, his, noun = _SHE if girl else _HE
        name = self.fresh(words.GIRLS if girl else words.BOYS)
        return self.enter(Character(name, noun, he, him, his, self.trait()))

    def family(self, nouns: str = "mom dad") -> Character:
        """Draw a grown-up of the hero's family, as in "her mom"."""
        noun = self.one(nouns.split())
        female = noun in ("mom", "mother", "grandma", "aunt", "sister")
        he, him, his, _ = _SHE if female else _HE
        name = f"{self.hero.his} {noun}"
        return self.enter(Character(name, noun, he, him, his, self.trait()))

    def grown_up(self, noun: str) -> Character:
        """Make a grown-up known by a job, as in "the baker"."""
        he, him, his, _ = _HE if noun.endswith("man") or self.chance() else _SHE
        return self.enter(Character(f"the {noun}", noun, he, him, his, self.trait()))

    def neighbor(self) -> Character:
        """Draw a neighbor, as in "Mrs. Bell"."""
        female = self.chance()
        he, him, his, _ = _SHE if female else _HE
        name = ("Mrs. " if female else "Mr. ") + self.fresh(words.SURNAMES)
        return self.enter(Character(name, "neighbor", he, him, his, self.trait()))

    def animal(self, nouns: Sequence[str] = words.FOREST_ANIMALS) -> Character:
        """Draw an animal with a name, of a kind that this story has not used."""
        name, noun = self.fresh(words.ANIMAL_NAMES), self.fresh(nouns)
        female = noun in words.FEMALES or (noun not in words.MALES and self.chance())
        he, him, his, _ = _SHE if female else _HE
        return self.enter(Character(name, noun, he, him, his, self.trait()))

    def pet(self, nouns: Sequence[str] = words.PETS) -> Character:
        """Draw a pet with a name."""
        he, him, his, _ = _SHE if self.chance() else _HE
        name = self.fresh(words.PET_NAMES)
        return self.enter(Character(name, self.fresh(nouns), he, him, his, self.trait()))

    def somewhere(self) -> Place:
        """Draw a place and a spot in it."""
        name, there, spots = self.one(words.PLACES)
        return Place(name, there, self.one(spots.split("|")))

    def outdoors(self) -> Place:
        """Draw a place in nature and a spot in it."""
        name, there, spots = self.one(words.NATURE)
        return Place(name, there, self.one(spots.split("|")))

    def color(self) -> str:
        """Draw a color that this story has not used."""
        return self.fresh(words.COLOURS)

    def look(self) -> str:
        """Draw how a thing looks: a color or another plain adjective."""
        return self.fresh(words.COLOURS if self.chance() else words.LOOKS)

    def toy(self) -> str:
        """Draw a toy."""
        return self.fresh(words.TOYS)

    def thing(self) -> str:
        """Draw a small thing that can be carried."""
        return self.fresh(words.THINGS)
