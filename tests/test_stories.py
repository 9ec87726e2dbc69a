"""The built-in corpus: grammar, variety, a Zipf-like frequency curve, repeatability."""

import hashlib
import itertools
import random
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from lcutils.corpus.stories import CAST, PRONOUNS, Slots, Step, fingerprint, parse_line, stories, tables, tell


@pytest.fixture(scope="module")
def many() -> list[str]:
    return list(itertools.islice(stories(0), 6_000))


def constant(value: float):
    return lambda: value


def test_a_line_is_read_as_its_notation_says():
    assert parse_line("One [red|blue] hat. | Two.") == Step((("One ", ("red", "blue"), " hat."), ("Two.",)))
    assert parse_line("? Maybe.") == Step((("Maybe.",),), optional=True)


def test_a_story_has_pronouns_articles_capitals_and_paragraphs():
    plot = tuple(parse_line(line) if line else Step(()) for line in ("{A} saw a [owl].", "", "{he} gave a {toy}."))
    words = tables().words
    assert tell(plot, words, constant(0.0)) == "Lily saw an owl.\nShe gave a ball."


def test_nouns_are_kept_and_differ_while_other_words_are_drawn_anew():
    draws = iter([0.0, 0.0, 0.99, 0.0, 0.99])
    slots = Slots(tables().words, lambda: next(draws))
    assert slots["toy"] == slots["toy"] != slots["toy2"]
    assert slots["happy"] != slots["happy"]


def test_characters_of_a_story_have_different_names():
    for seed in range(50):
        slots = Slots(tables().words, random.Random(seed).random)
        names = [slots[role] for role in CAST]
        assert len(set(names)) == len(names)
        assert {slots["he"], slots["his_B"]} <= {"he", "she", "his", "her"}


@pytest.mark.parametrize("title", tables().plots)
def test_each_sentence_of_a_plot_can_be_filled(title: str):
    plot = tables().plots[title]
    assert len([step for step in plot if step.alternatives]) >= 10
    for step in plot:
        for sentence in step.alternatives:
            choices = [(part,) if isinstance(part, str) else part for part in sentence]
            for parts in itertools.islice(itertools.product(*choices), 50):
                text = tell((Step((tuple(parts),)),), tables().words, random.Random(0).random)
                assert re.search(r'[.!?:]"?$', text), text
                assert not re.search(r"[{}\[\]|~@#/_]|  | [.,!?]", text), text
                assert text.count('"') % 2 == 0, text


def test_stories_are_clean_text(many):
    for story in many[:2_000]:
        assert story == story.strip()
        assert not re.search(r"[^A-Za-z0-9 \n.,!?:\"'-]", story), story
        for paragraph in story.split("\n"):
            assert paragraph.count('"') % 2 == 0, paragraph
            assert re.match(r'"?[A-Z]', paragraph), paragraph
            assert not re.search(r"[.!?] [a-z]", paragraph), paragraph
        assert not re.search(r"\b[Aa] [aeiou]", story), story
        assert not re.search(r"\b[Aa]n [^aeiouAEIOh]", story), story


@pytest.mark.parametrize("title", ["the child who could not sleep", "the wishing star"])
def test_pronouns_agree_with_the_name(title: str):
    """Plots whose only person is the hero: a sentence with the name has no pronoun of the other kind."""
    kinds = dict(name.split("/") for name in tables().words["names"].words)
    for seed in range(40):
        story = tell(tables().plots[title], tables().words, random.Random(seed).random)
        name = next(word for word in re.findall(r"[A-Z][a-z]+", story) if word in kinds)
        wrong = r"\b(he|him|his)\b" if kinds[name] == "f" else r"\b(she|her)\b"
        assert not any(name in part and re.search(wrong, part) for part in re.split(r"[.!?\n]", story)), story


def test_no_story_comes_twice_in_a_million_tokens(many):
    assert len(set(many)) == len(many)
    words = sum(len(story.split()) for story in many)
    assert words > 1_000_000  # and a word is one GPT-2 token at least


def test_at_least_fifteen_hundred_word_types_and_a_zipf_curve(many):
    counts = Counter(word for story in many for word in re.findall(r"[A-Za-z]+(?:['-][A-Za-z]+)*", story))
    assert len({word.lower() for word in counts}) >= 1_500
    frequencies = np.array(sorted(counts.values(), reverse=True)[:1_000])
    rank, frequency = np.log(np.arange(1, 1_001)), np.log(frequencies)
    slope, _ = np.polyfit(rank, frequency, 1)
    assert -1.2 < slope < -0.8
    assert np.corrcoef(rank, frequency)[0, 1] ** 2 > 0.97


def test_at_least_forty_plots_and_the_names_of_table_5(many):
    assert len(tables().plots) >= 40
    text = " ".join(many[:2_000])
    for name in ("Anna", "Tim", "Lily", "Tom", "Ben", "Mia", "Max", "Sue", "Sam", "Jack"):
        assert f"{name} " in text


def test_names_and_things_are_referred_back_to_over_long_range():
    names = {name.partition("/")[0] for name in tables().words["names"].words}
    toys = tables().words["toy"].words
    for seed in range(20):
        story = tell(tables().plots["the lost toy"], tables().words, random.Random(seed).random)
        first, last = story[: len(story) // 3], story[-len(story) // 3 :]
        assert any(name in first and name in last for name in names), story
        assert any(toy in first and toy in story[len(story) // 3 :] for toy in toys), story


def test_every_role_has_names_with_pronouns():
    for words in CAST.values():
        assert all(re.fullmatch(r"[A-Z][\w. ]*/[mf]", name) for name in tables().words[words].words)
    assert PRONOUNS["boy"].keys() == PRONOUNS["girl"].keys()


def test_a_seed_gives_the_same_stories_in_every_process_and_another_seed_others():
    code = (
        "import itertools, hashlib; from lcutils.corpus.stories import stories;"
        "print(hashlib.sha256(''.join(itertools.islice(stories(7), 200)).encode()).hexdigest())"
    )
    here = hashlib.sha256("".join(itertools.islice(stories(7), 200)).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here
    assert not set(itertools.islice(stories(1), 300)) & set(itertools.islice(stories(2), 300))


def test_the_fingerprint_is_stable():
    assert fingerprint() == fingerprint.__wrapped__()


def test_at_least_a_hundred_thousand_words_a_second():
    start = time.process_time()
    words = sum(len(story.split()) for story in itertools.islice(stories(3), 1_000))
    assert words / (time.process_time() - start) > 100_000
