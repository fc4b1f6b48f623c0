"""Shared paraphrases: pure functions from characters to templates."""

from . import words
from .world import Character

_TOWN = "[" + "|".join(words.TOWNS) + "]"
_WOOD = "[" + "|".join(words.WOODS) + "]"
_SUPPER = "[" + "|".join(words.SUPPERS) + "]"


def choice(options: list[str] | tuple[str, ...]) -> str:
    """Make a template that picks one of the options."""
    return "[" + "|".join(options) + "]"


def the(phrase: str) -> str:
    """Turn "a net" into "the net"."""
    article, rest = phrase.split(" ", 1)
    return f"the {rest}" if article in ("a", "an") else phrase


def opening(hero: Character) -> str:
    """Introduce a child."""
    described = f"a {hero.trait} [|little ]{hero.noun}"
    return (
        f"[Once upon a time, [there was|there lived] {described} named {hero}."
        f"|Once there was {described} [named|called] {hero}."
        f"|There was once {described} named {hero}."
        f"|{hero} was {described}[| who lived in {_TOWN}]."
        f"|In [the town of|a small village called] {_TOWN}, there lived {described} named {hero}."
        f"|{hero} was [six|seven|eight|nine] years old and lived in {_TOWN}."
        f"|{hero} lived with {hero.his} family in a [little|tall|narrow|yellow|white] house "
        f"[near the river|by the sea|on a hill|at the end of the road|next to the bakery]."
        f"|This is the story of {described} named {hero}."
        f"|Everyone in {_TOWN} knew {hero}, {described}.]"
    )


def beast(hero: Character) -> str:
    """Introduce an animal."""
    return (
        f"[Once upon a time, a {hero.trait} {hero.noun} named {hero} lived in {_WOOD}."
        f"|In {_WOOD}, there lived a {hero.trait} {hero.noun} called {hero}."
        f"|There was once a {hero.noun} named {hero}. {hero} lived [in a cozy den|under the roots "
        f"of an oak|in a snug little home] in {_WOOD}."
        f"|Long ago, when animals could talk, {hero.full} lived in {_WOOD}."
        f"|{hero} was a {hero.trait} {hero.noun} who lived in {_WOOD}.]"
    )


def once() -> str:
    """Begin what happened, in fair weather."""
    return (
        "[One day,|One sunny day,|One morning,|One bright morning,|One warm afternoon,|One fine "
        "day,|One spring morning,|One summer day,|One quiet afternoon,|One day in autumn,]"
    )


def later() -> str:
    """Go on after some time."""
    return "[After a while,|A little later,|Soon,|Before long,|Some time later,|Then,]"


def say(who: Character | str, text: str, verb: str = "") -> str:
    """Let somebody speak; the text must end outside its choices with a full stop, ! or ?."""
    body, end = text[:-1], text[-1]
    tags = {"?": "asked", "!": "[cried|called|shouted|said]", ".": "said"}
    tag = verb or tags[end]
    comma = "," if end == "." else end
    return f'["{body}{comma}" {tag} {who}.|{who} {tag}, "{text}"|{who} {tag}, "{text}"]'


def glad(who: Character) -> str:
    """Somebody is glad."""
    return (
        f"[{who} was very happy.|{who} smiled a big smile.|{who} jumped up and down with joy."
        f"|{who} laughed and clapped {who.his} hands.|{who} felt warm inside."
        f"|{who} could not stop smiling.|{who} was so glad that {who.he} danced around."
        f"|{who} beamed with delight.|{who} felt as light as a feather.]"
    )


def cheerful(who: Character) -> str:
    """Somebody without hands is glad."""
    return (
        f"[{who} was very happy.|{who} hopped with joy.|{who} felt warm inside.|{who} was so glad "
        f"that {who.he} sang a little song.|{who} had never felt so happy.|{who} was delighted.]"
    )


def sad(who: Character) -> str:
    """Somebody is sad."""
    return (
        f"[{who} felt very sad.|{who} started to cry.|Tears ran down {who}'s [face|cheeks]."
        f"|{who} felt a lump in {who.his} throat.|{who} sat down and [sobbed|wept]."
        f"|{who}'s heart sank.|{who} was close to tears.]"
    )


def scared(who: Character) -> str:
    """Somebody is afraid."""
    return (
        f"[{who} was very scared.|{who}'s heart beat fast.|{who} trembled.|{who} felt cold all "
        f"over.|{who}'s knees were shaking.|{who} was so frightened that {who.he} could not move.]"
    )


def sorry(who: Character) -> str:
    """Somebody regrets."""
    return (
        f"[{who} felt ashamed.|{who} felt sorry.|{who} looked down at {who.his} feet."
        f"|{who}'s face turned red.|{who} felt bad about it.]"
    )


def proud(who: Character) -> str:
    """Somebody is proud."""
    return (
        f"[{who} felt very proud.|{who} stood up tall and proud.|{who} had never felt so proud."
        f"|{who}'s eyes shone with pride.|{who} was pleased and proud.]"
    )


def thanks(who: Character) -> str:
    """Somebody gives thanks."""
    return say(who, "[Thank you so much|Thank you|Thank you for your help|How kind you are]!")


def lesson(who: Character, what: str) -> str:
    """Somebody learned something."""
    return (
        f"[{who} learned that {what}.|From that day on, {who} knew that {what}."
        f"|{who} never forgot that {what}.|That day, {who} found out that {what}."
        f"|Now {who} understood that {what}.]"
    )


def ending(who: Character) -> str:
    """End a story that ended well; often with nothing."""
    return (
        f"[||It was a [very good|wonderful|perfect] day.|That night, {who} fell asleep with a "
        f"smile.|{who} never forgot that day.|The end.|And {who} told the story for years to come."
        f"|What a day it had been!|That evening, {who} had {_SUPPER} for supper and went to bed "
        f"happy.|{who} dreamed about it all night long.|And that is how it all ended well."
        f"|And so everyone was happy.]"
    )


def farewell(who: Character) -> str:
    """End a tale of animals or of long ago."""
    return (
        f"[||And they all lived happily ever after.|And they were happy for many years."
        f"|The story is still told in that land.|The end.|And {who} slept very well that night."
        f"|That night the moon smiled down on them all.|And that was the end of the trouble.]"
    )
