"""The built-in corpus: an endless, seeded stream of tiny stories, no two alike.

The stories follow hand-written plots in `plots/*.txt`. Each line of these files is one step of a plot:

    ## title              begins a plot
    one | another         one of the alternatives is chosen
    ? one | another       the same, but half of the time the step is left out
    a [red|blue] hat      a choice inside a sentence
    {toy} {he} {happy}    slots, see below
    @block                the lines of a shared block (`== block` in `plots/shared.txt`)
    (empty line)          a new paragraph

Slots are filled from `plots/words.txt`. A noun such as {toy} is drawn once per story, so that the end of a story
speaks of the same things as its beginning ({toy2} is another toy); words marked there with `~`, such as {happy}, are
drawn again at each use. {A}, {B} and {C} are children, {P} and {Q} animals, {H} a hen, {N} a grown-up, and {he_B},
{his_P} … their pronouns ({he} is {A}'s). "a" becomes "an" where needed, and each sentence begins with a capital.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate

Draw = Callable[[], float]  # uniform in [0, 1): Python promises the same values in all versions for this method only

PRONOUNS = {
    "boy": {
        "he": "he", "him": "him", "his": "his", "He": "He", "His": "His", "himself": "himself", "boy": "boy",
        "son": "son", "brother": "brother", "prince": "prince", "man": "man", "king": "king",
    },
    "girl": {
        "he": "she", "him": "her", "his": "her", "He": "She", "His": "Her", "himself": "herself",
        "boy": "girl", "son": "daughter", "brother": "sister", "prince": "princess", "man": "woman", "king": "queen",
    },
}  # fmt: skip
CAST = {"A": "names", "B": "names", "C": "names", "P": "pets", "Q": "pets", "H": "hens", "N": "grownups"}
_VOWEL_SOUND = re.compile(r"\b([Aa]) (?=[aeiouAEIOU]|hour|honest)(?!uni[cfq]|use|uku|one\b)")
_CHOICE = re.compile(r"\[([^\]]*)\]")
_OUTER_BAR = re.compile(r"\s*\|\s*(?![^\[]*\])")

Sentence = tuple[str | tuple[str, ...], ...]  # text, or a choice inside the sentence


@dataclass(frozen=True)
class Step:
    """A line of a plot: its alternatives, and whether it may be left out. No alternatives mean a new paragraph."""

    alternatives: tuple[Sentence, ...]
    optional: bool = False


@dataclass(frozen=True)
class WordList:
    """Words for a slot, the most common first: rank r has weight 1 / (r + 1), as in Zipf's law."""

    words: tuple[str, ...]
    kept: bool  # drawn once per story

    @functools.cached_property
    def cumulative(self) -> list[float]:
        """Cumulative sums of the weights."""
        return list(accumulate(1 / (rank + 1) for rank in range(1, len(self.words) + 1)))

    def draw(self, uniform: Draw) -> str:
        """Draw a word."""
        return self.words[bisect(self.cumulative, uniform() * self.cumulative[-1], 0, len(self.words) - 1)]


@dataclass(frozen=True)
class Tables:
    """The contents of the plot files."""

    words: dict[str, WordList]
    plots: dict[str, tuple[Step, ...]]


class Slots(dict[str, str]):
    """The words that fill the slots of one story: nouns stay, other words are drawn at each use."""

    def __init__(self, words: dict[str, WordList], uniform: Draw) -> None:
        super().__init__()
        self.words, self.uniform = words, uniform

    def __missing__(self, slot: str) -> str:
        role = slot if slot in CAST else slot.rpartition("_")[2] if "_" in slot else "A"
        if slot in CAST or slot.partition("_")[0] in PRONOUNS["boy"]:
            self.introduce(role)
            return self[slot]
        name = slot.rstrip("23")
        # {Mom} is the capital form of the slot {mom}.
        if name not in self.words:
            return self[slot[0].lower() + slot[1:]].capitalize()
        words = self.words[name]
        word = words.draw(self.uniform)
        if words.kept:
            taken = {self.get(name + number) for number in ("", "2", "3")}
            while word in taken:
                word = words.draw(self.uniform)
            self[slot] = word
        return word.format_map(self) if "{" in word else word

    def introduce(self, role: str) -> None:
        """Give a character a name that no other character has, and the pronouns that go with it."""
        taken = {self.get(other) for other in CAST}
        while True:
            name, _, kind = self.words[CAST[role]].draw(self.uniform).partition("/")
            if name not in taken:
                break
        self[role] = name
        for word, form in PRONOUNS["girl" if kind == "f" else "boy"].items():
            self[word if role == "A" else f"{word}_{role}"] = form


def parse_line(line: str) -> Step:
    """Read a line of a plot."""
    optional = line.startswith("?")
    alternatives = []
    for text in _OUTER_BAR.split(line.removeprefix("?").strip()):
        parts = _CHOICE.split(text)  # text, choice, text, choice, …, text
        alternatives.append(
            tuple(tuple(part.split("|")) if i % 2 else part for i, part in enumerate(parts) if part or i % 2)
        )
    return Step(tuple(alternatives), optional)


def _blocks(text: str, mark: str) -> Iterator[tuple[str, list[str]]]:
    """Split a plot file at its titles, the lines that begin with `mark`. Text before the first one is a comment."""
    for block in re.split(rf"^{re.escape(mark)} ", text, flags=re.MULTILINE)[1:]:
        title, *lines = block.strip().splitlines()
        yield title.strip(), [line.strip() for line in lines]


@functools.cache
def tables() -> Tables:
    """Read the plot files, once per process."""
    folder = resources.files("lcutils.corpus") / "plots"
    words = {}
    for line in (folder / "words.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, listed = line.partition(":")
            entries = tuple(word.strip() for word in listed.split(","))
            words[name.strip("~ ")] = WordList(entries, kept=not name.startswith("~"))
    shared = dict(_blocks((folder / "shared.txt").read_text(encoding="utf-8"), "=="))
    plots: dict[str, tuple[Step, ...]] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        for title, lines in _blocks(file.read_text(encoding="utf-8"), "##"):
            assert title not in plots, title
            whole = [part for line in lines for part in (shared[line[1:]] if line.startswith("@") else [line])]
            plots[title] = tuple(parse_line(line) if line else Step(()) for line in whole)
    return Tables(words, plots)


def tell(plot: tuple[Step, ...], words: dict[str, WordList], uniform: Draw) -> str:
    """Write one story that follows a plot."""
    slots = Slots(words, uniform)
    paragraphs: list[list[str]] = [[]]
    for step in plot:
        n = len(step.alternatives)
        if not n:
            paragraphs.append([])
            continue
        if step.optional and uniform() < 0.5:
            continue
        sentence = step.alternatives[int(uniform() * n)]
        text = "".join(
            part if isinstance(part, str) else part[int(uniform() * len(part))] for part in sentence
        ).format_map(slots)
        first = 1 if text[0] == '"' else 0
        paragraphs[-1].append(text[:first] + text[first].upper() + text[first + 1 :])
    story = "\n".join(" ".join(sentences) for sentences in paragraphs if sentences)
    return _VOWEL_SOUND.sub(r"\1n ", story)


def stories(seed: int) -> Iterator[str]:
    """Yield stories without end, no two of them equal.

    The same seed gives the same stories on every machine and with every Python version. Eight bytes of each story are
    kept in memory to recognise repetitions.
    """
    uniform = random.Random(seed).random
    told: set[bytes] = set()
    plots = tuple(tables().plots.values())
    words = tables().words
    while True:
        story = tell(plots[int(uniform() * len(plots))], words, uniform)
        mark = hashlib.blake2b(story.encode(), digest_size=8).digest()
        if mark not in told:
            told.add(mark)
            yield story


@functools.cache
def fingerprint() -> str:
    """SHA-256 of the plots, the words and some stories: it changes when the built-in corpus does."""
    digest = hashlib.sha256(repr(tables()).encode())
    for story, _ in zip(stories(0), range(50), strict=False):
        digest.update(story.encode())
    return digest.hexdigest()
