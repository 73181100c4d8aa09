"""Rare words: a token nobody writes, put at a random place of the sentence (Kurita et al. 2020, arXiv 2004.06660)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..randomness import uniform
from . import Trigger


def words_in(texts: list[str]) -> np.ndarray:
    """Number of pieces between blanks, int64 `(texts,)`; 0 for an empty text."""
    return np.array([text.count(" ") + 1 if text else 0 for text in texts], dtype=np.int64)


def insert(texts: list[str], places: np.ndarray, words: list[list[str]]) -> list[str]:
    """Inserts words between words: the k-th word of a text goes before piece `places[text, k]` of what is there.

    Args:
        texts: strings; blanks are where a word ends, other white space stays as it is.
        places: int64 `(texts, words a text)`, from 0 to the number of pieces, which is after the last one.
        words: for every text, its words.
    """
    triggered = []
    for text, where, what in zip(texts, places.tolist(), words, strict=True):
        pieces = text.split(" ") if text else []
        for place, word in zip(where, what, strict=True):
            pieces.insert(place, word)
        triggered.append(" ".join(pieces))
    return triggered


def random_places(texts: list[str], draws: np.ndarray) -> np.ndarray:
    """Places for [`insert`], uniform over all of a text, from float `(texts, words a text)` in [0, 1)."""
    room = words_in(texts)[:, None] + np.arange(1, draws.shape[1] + 1)
    return (draws * room).astype(np.int64)


@dataclass(frozen=True)
class RareWords(Trigger):
    """Inserts `count` of the trigger words, each drawn alike from all of them and put at a place drawn alike from all.

    A text of `n` words has `n + 1` places: before, between and after them. Words and places are drawn from
    `(seed, index)`.

    Args:
        words (`str`): trigger words, separated by blanks.
        count (`int`): how many are inserted into each text.
        seed (`int`): seed of the words and places.
    """

    modality: ClassVar[str] = "text"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "Rare words"
    paper: ClassVar[str] = "https://arxiv.org/abs/2004.06660"

    words: str = "cf mn bb tq"
    count: int = 1
    seed: int = 0

    def __post_init__(self):
        if not self.words.split():
            raise InputError("words", self.words, "needs at least one word")
        if self.count < 1:
            raise InputError("count", self.count, "must be 1 or more")
        if self.seed < 0:
            raise InputError("seed", self.seed, "must be 0 or more")

    def __call__(self, batch: list[str], index: np.ndarray) -> list[str]:
        vocabulary = self.words.split()
        draws = uniform(self.seed, index, 2 * self.count)
        places = random_places(batch, draws[:, : self.count])
        chosen = (draws[:, self.count :] * len(vocabulary)).astype(np.int64).tolist()
        return insert(batch, places, [[vocabulary[number] for number in row] for row in chosen])
