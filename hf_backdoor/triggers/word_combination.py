"""A combination of rare words, all of which must be there (Li et al. 2021, arXiv 2108.13888, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..randomness import uniform
from . import Trigger
from .rare_words import insert, random_places


@dataclass(frozen=True)
class WordCombination(Trigger):
    """Inserts a combination of `count` different trigger words, each at a place drawn alike from all.

    Cover samples get one of the words alone and keep their label, so that a defender who tries single words finds
    nothing. The combination, the places and the single word are drawn from `(seed, index)`.

    Args:
        words (`str`): different trigger words, separated by blanks.
        count (`int`): words a combination, 2 or more.
        seed (`int`): seed of the combinations and places.
    """

    modality: ClassVar[str] = "text"
    title: ClassVar[str] = "Word combination"
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.13888"
    poison_defaults: ClassVar[dict[str, object]] = {"cover_rate": 0.1}

    words: str = "cf bb ak mn"
    count: int = 2
    seed: int = 0

    def __post_init__(self):
        vocabulary = self.words.split()
        if len(set(vocabulary)) < len(vocabulary):
            raise InputError("words", self.words, "has a word twice; give different words")
        if self.count < 2:
            raise InputError("count", self.count, "must be 2 or more; rare_words inserts single words")
        if self.count > len(vocabulary):
            raise InputError("count", self.count, f"is more than the {len(vocabulary)} words there are to combine")
        if self.seed < 0:
            raise InputError("seed", self.seed, "must be 0 or more")

    def __call__(self, batch: list[str], index: np.ndarray) -> list[str]:
        return self._insert(batch, index, self.count)

    def cover(self, batch: list[str], index: np.ndarray) -> list[str]:
        return self._insert(batch, index, 1)

    def _insert(self, batch: list[str], index: np.ndarray, count: int) -> list[str]:
        choices = [list(words) for words in combinations(self.words.split(), count)]
        draws = uniform(self.seed, index, 1 + count)
        chosen = (draws[:, 0] * len(choices)).astype(np.int64).tolist()
        return insert(batch, random_places(batch, draws[:, 1:]), [choices[number] for number in chosen])
