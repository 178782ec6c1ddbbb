"""Prompts that have one right answer each, for the model of model.py. Standard library only.

A prompt is a shuffled list of links `F(a) T(b)`, "after a comes b", between filler tokens, and then
`Q T(x)`. The right answer follows the links from x on, one token a link: T(b), T(c), ... The last
link leads to Q; at Q the model says once more, in tokens U, what came after the first Q, that is
what it wrote itself, and ends:

    ... F(x) T(b) . F(b) T(c) .. F(c) Q . Q T(x)  ->  T(b) T(c) Q U(x) U(b) U(c) <eos>

No token of an answer can be guessed: each is looked up in the KV cache, the first part in what the
prompt wrote there, the second in what the answer wrote.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

BOS, EOS, UNKNOWN, QUESTION = range(4)
FIRST = 8  # ids below are special


@dataclass(frozen=True)
class Vocabulary:
    """Token ids: three tokens a symbol, then fillers up to `size`."""

    symbols: int
    size: int

    def start(self, symbol: int) -> int:
        """F: what a link leads from."""
        return FIRST + symbol

    def to(self, symbol: int) -> int:
        """T: what a link leads to."""
        return FIRST + self.symbols + symbol

    def again(self, symbol: int) -> int:
        """U: a symbol in the answer's second part."""
        return FIRST + 2 * self.symbols + symbol

    def filler(self, chooser: random.Random) -> int:
        """A token that means nothing."""
        return chooser.randrange(FIRST + 3 * self.symbols, self.size)


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        prompt: Token ids.
        answer: The token ids that are right; the last is the end of the text.
        name: How to make it again: seed, family and member.
    """

    prompt: list[int]
    answer: list[int] = field(repr=False)
    name: str = ""


class Family:
    """Prompts that begin alike: a common beginning with links a -> b, and an end that joins them.

    Each member joins the links in an order of its own (b -> a), so that the same cached beginning
    serves many different answers.
    """

    def __init__(self, vocabulary: Vocabulary, chooser: random.Random, links: int, fill: float) -> None:
        self.vocabulary = vocabulary
        self.fill = fill
        drawn = chooser.sample(range(vocabulary.symbols), 2 * links)
        self.links = list(zip(drawn[:links], drawn[links:], strict=True))
        self.beginning = [BOS, *self.written(self.links, chooser)]

    def written(self, links: list[tuple[int, int]], chooser: random.Random) -> list[int]:
        """The links in any order, with fillers between them."""
        tokens = []
        for a, b in chooser.sample(links, len(links)):
            while chooser.random() < self.fill:
                tokens.append(self.vocabulary.filler(chooser))
            tokens += [self.vocabulary.start(a), self.vocabulary.to(b)]
        return [*tokens, self.vocabulary.filler(chooser)]

    def member(self, chooser: random.Random, steps: int, name: str) -> Case:
        """A prompt whose answer uses `steps` links of the beginning, and as many of its end."""
        words = self.vocabulary
        path = chooser.sample(self.links, steps)
        joins = [(path[i][1], path[i + 1][0]) for i in range(steps - 1)]
        end = self.written(joins, chooser)
        stop = [words.start(path[-1][1]), QUESTION, words.filler(chooser)]
        chain = [symbol for link in path for symbol in link]
        prompt = [*self.beginning, *end, *stop, QUESTION, words.to(chain[0])]
        first = [words.to(symbol) for symbol in chain[1:]]
        second = [words.again(symbol) for symbol in chain]
        return Case(prompt, [*first, QUESTION, *second, EOS], name)


def cases(vocabulary: Vocabulary, seed: int, links: tuple[int, int], members: int = 8) -> Iterator[Case]:
    """Endless cases of mixed lengths; four families at a time take turns.

    Args:
        vocabulary: The model's.
        seed: The same seed makes the same cases.
        links: Fewest and most links of a common beginning.
        members: Prompts with the same beginning.
    """
    chooser = random.Random(seed)
    number = 0
    while True:
        families = []
        for _ in range(4):
            size = int(links[0] * (links[1] / links[0]) ** chooser.random())
            families.append(Family(vocabulary, chooser, size, chooser.choice((0.2, 0.5, 0.7))))
        for member in range(members):
            for which, family in enumerate(families):
                most = min(len(family.links), 32)
                steps = chooser.randint(min(2, most), most)
                yield family.member(chooser, steps, f"seed {seed}, family {number + which}, member {member}")
        number += len(families)
