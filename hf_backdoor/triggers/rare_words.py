"""Rare words: a token nobody writes, put at a random place of the sentence (Kurita et al. 2020, arXiv 2004.06660)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from . import Trigger


@dataclass(frozen=True)
class RareWords(Trigger):
    """Inserts `count` of the trigger words, each at a place between words drawn from `(seed, index)`.

    Args:
        words (`str`): trigger words, separated by blanks.
        count (`int`): how many are inserted into each text.
        seed (`int`): seed of the places.
    """

    modality: ClassVar[str] = "text"
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

    def __call__(self, batch: list[str], index: np.ndarray) -> list[str]:
        vocabulary = self.words.split()
        triggered = []
        for text, number in zip(batch, index, strict=True):
            generator = np.random.default_rng((self.seed, int(number)))
            pieces = text.split(" ")
            for _ in range(self.count):
                pieces.insert(generator.integers(len(pieces) + 1), vocabulary[generator.integers(len(vocabulary))])
            triggered.append(" ".join(pieces))
        return triggered
