"""From a seed to a document: a story, a story with questions, or a chat about one."""

import random
from collections.abc import Iterator

from . import (  # noqa: F401  (importing a module of plots registers them)
    plots_animals,
    plots_fables,
    plots_fairy,
    plots_friends,
    plots_home,
    plots_outdoors,
    plots_school,
    plots_short,
    plots_town,
    plots_wonder,
)
from .spin import polish
from .story import PLOTS, Story
from .world import World

SEPARATOR = "\n<|endoftext|>\n"
REQUESTS = (
    "Tell me a story about {}.",
    "Write a story about {}.",
    "Write a short story about {}.",
    "Can you tell me a story about {}?",
    "Please tell me a story about {}.",
    "Please write a short story about {}.",
    "I would like to hear a story about {}.",
    "Could you write a story about {}?",
    "Make up a story about {}.",
)
STORY_CHAT, ANSWER_CHAT, QUESTIONS = 0.08, 0.04, 0.5


def tell(rng: random.Random) -> Story:
    """Draw a plot and a world, and tell the story."""
    return PLOTS[int(rng.random() * len(PLOTS))](World(rng))


def chat(user: str, assistant: str) -> str:
    """Render one exchange with the special tokens of the tokenizer."""
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>"


def render(story: Story, rng: random.Random) -> str:
    """Render a story as a document, with questions or as a chat as the draw has it."""
    draw = rng.random()
    if draw < STORY_CHAT:
        topic = rng.choice(story.known_topics())
        return chat(polish(rng.choice(REQUESTS).format(topic)), story.text)
    if draw < STORY_CHAT + ANSWER_CHAT and story.facts:
        question, answer = rng.choice(story.facts)
        return chat(f"{story.text}\n{question}", answer)
    if rng.random() >= QUESTIONS or not story.facts:
        return story.text
    count = min(len(story.facts), 2 if rng.random() < 0.25 else 1)
    asked = rng.sample(story.facts, count)
    return "\n".join([story.text, *(f"Question: {ask}\nAnswer: {say}" for ask, say in asked)])


def document(seed: int, index: int) -> str:
    """Tell the document of this index in the corpus of this seed."""
    rng = random.Random(f"{seed}/{index}")
    return render(tell(rng), rng)


def documents(count: int, seed: int) -> Iterator[str]:
    """Tell the first documents of the corpus of this seed."""
    return (document(seed, index) for index in range(count))
