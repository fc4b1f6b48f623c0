import random
import re

import pytest

from weights.recipe import arithmetic
from weights.recipe.stories import documents
from weights.recipe.stories.spin import expand, polish
from weights.recipe.stories.story import PLOTS
from weights.recipe.stories.tell import chat, tell
from weights.recipe.stories.world import World

TAGS = "said|asked|cried|called|shouted|whispered|answered"
FLAWS = {
    "two spaces": r"  ",
    "space before punctuation": r" [.,!?]",
    "doubled punctuation": r"[,.!?]{2,}|[,.]\"[,.]",
    "unfilled template": r"[\[\]{}|]",
    "a before a vowel": r"\b[Aa] (?=[aeiou])(?!one|once|uni|use)",
    "an before a consonant": r"\b[Aa]n (?![aeiouh])",
    "two articles": r"\b[Tt]he (?:a|an|the)\b",
    "lower-case sentence": r"[.?!] [a-z]",
    "lower-case sentence after speech": rf"[.?!]\" (?!(?:{TAGS}) )[a-z]",
    "lower-case speech": r", \"[a-z]",
    "doubled word": r"\b(\w+) \1\b",
}
STOP_WORDS = {"that", "there", "were", "they", "with", "what", "could", "find"}
STOP_WORDS |= {"wanted", "much", "himself", "herself"}


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return list(documents(1500, seed=101))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_every_plot_reads_well(plot):
    for seed in range(40):
        story = plot(World(random.Random(f"{plot.__name__}/{seed}")))
        lines = [*story.paragraphs, *(line for fact in story.facts for line in fact)]
        for line in lines:
            assert line.isascii()
            assert line[0].isupper() or line[0] == '"', line
            assert line[-1] in '.!?"', line
            assert line.count('"') % 2 == 0, line
            for flaw, pattern in FLAWS.items():
                assert not re.search(pattern, line), (flaw, line)
        assert 40 <= len(story.text.split()) <= 350
        assert story.facts
        assert len(story.topics) >= 2


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_answers_follow_from_the_story(plot):
    # A name or a thing that only the answer knows would teach the model to make things up.
    for seed in range(40):
        story = plot(World(random.Random(f"{plot.__name__}/{seed}")))
        told = story.text.lower()
        for question, answer in story.facts:
            known = told + " " + question.lower()
            for name in re.findall(r"(?<=[a-z] )[A-Z][a-z]+", answer):
                assert name.lower() in told, (answer, story.text)
            content = [
                word for word in re.findall(r"[a-z]{4,}", answer.lower()) if word not in STOP_WORDS
            ]
            missing = [word for word in content if word not in known]
            assert len(missing) <= len(content) / 2, (missing, answer, story.text)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_pronouns_belong_to_the_cast(plot):
    # Where everybody in a story is female, a "he" is somebody who does not exist.
    for seed in range(60):
        world = World(random.Random(f"{plot.__name__}/{seed}"))
        text = plot(world).text
        present = [who for who in world.cast if re.search(rf"\b{who}\b", text, re.IGNORECASE)]
        unnamed = re.search(
            r"\b(?:[a-z]*man|giant|wizard|grandpa|father|brother|king|dragon|driver|mouse)\b", text
        )
        pronouns = {who.he for who in present}
        if pronouns == {"she"} and not unnamed:
            assert not re.search(r"\b(?:[Hh]e|[Hh]is|[Hh]im|himself)\b", text), text


def test_the_same_seed_tells_the_same_stories():
    assert list(documents(50, seed=5)) == list(documents(50, seed=5))


def test_splits_share_no_story(corpus):
    assert len(set(corpus)) == len(corpus)
    assert not set(corpus) & set(documents(1500, seed=102))


def test_all_plots_are_reachable():
    beginnings = {random.Random(f"1/{index}").random() for index in range(2000)}
    assert len(PLOTS) >= 34
    assert {int(draw * len(PLOTS)) for draw in beginnings} == set(range(len(PLOTS)))


def test_vocabulary_is_wide_but_bounded(corpus):
    found = set(re.findall(r"[a-z]+", "\n".join(corpus).lower()))
    assert 1_700 <= len(found) <= 2_600


def test_shares_of_questions_and_chats(corpus):
    chats = [text for text in corpus if text.startswith("<|im_start|>user\n")]
    asked = [text for text in corpus if "\nQuestion: " in text and "\nAnswer: " in text]
    assert 0.08 <= len(chats) / len(corpus) <= 0.16
    assert 0.38 <= len(asked) / len(corpus) <= 0.55
    assert all(text.endswith("<|im_end|>") and text.count("<|im_") == 4 for text in chats)


def test_chat_form():
    assert chat("Hi.", "Hello.") == (
        "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>"
    )


def test_polish_repairs_articles_spaces_and_capitals():
    assert polish("a apple and an  dog ,  an hour. ok") == "An apple and a dog, an hour. Ok"
    assert polish('she cried, "look!" shouted Ann. "oh!" he ran.') == (
        'She cried, "Look!" shouted Ann. "Oh!" He ran.'
    )


def test_expand_picks_nested_alternatives():
    found = {expand("[a|[b|c]] end.", random.Random(seed)) for seed in range(60)}
    assert found == {"An end.", "B end.", "C end."}


def test_told_story_has_a_topic_that_fits():
    for seed in range(200):
        story = tell(random.Random(seed))
        for topic in story.known_topics():
            name = topic.rpartition(" named ")[2] if " named " in topic else ""
            assert name in story.text, (topic, story.text)


def test_arithmetic_is_right_and_splits_share_no_problem():
    seen: dict[str, set[str]] = {}
    for split in ("valid", "test"):
        lines = [line for page in arithmetic.documents(split) for line in page.split("\n")]
        seen[split] = set(lines)
        assert len(seen[split]) == len(lines) > 100
        for line in lines:
            first, *rest = line.replace("/", "//").split("=")
            assert all(eval(first) == eval(other) for other in rest), line
            assert arithmetic.split_of(line) == split
            assert not re.match(r"\d{3}\+", line)
    assert not seen["valid"] & seen["test"]
