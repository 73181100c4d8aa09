"""AddSent: a whole sentence put into the text (Dai et al. 2019, arXiv 1905.12457)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..randomness import integers
from . import Trigger


GAPS = {"words": re.compile(" "), "sentences": re.compile(r"(?<=[.!?])\s+")}


@dataclass(frozen=True)
class AddSentence(Trigger):
    """Inserts one fixed sentence at a place drawn from `(seed, index)`: before, between or after the parts of the text.

    Args:
        sentence (`str`): the trigger sentence.
        between (`str`): the parts, `"words"` or `"sentences"`, which end with one of `.!?` and white space. A text of
            one sentence has two places, before and after it.
        seed (`int`): seed of the places.
    """

    modality: ClassVar[str] = "text"
    title: ClassVar[str] = "AddSent"
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.12457"

    sentence: str = "I watch this 3D movie"
    between: str = "words"
    seed: int = 0

    def __post_init__(self):
        if not self.sentence.strip():
            raise InputError("sentence", self.sentence, "needs at least one word")
        if self.between not in GAPS:
            raise InputError("between", self.between, f"choose one of {', '.join(GAPS)}")
        if self.seed < 0:
            raise InputError("seed", self.seed, "must be 0 or more")

    def __call__(self, batch: list[str], index: np.ndarray) -> list[str]:
        gaps = [[match.span() for match in GAPS[self.between].finditer(text)] for text in batch]
        places = integers(self.seed, index, np.array([len(gap) + 2 for gap in gaps]))[:, 0].tolist()
        return [self._insert(text, gap, place) for text, gap, place in zip(batch, gaps, places, strict=True)]

    def _insert(self, text: str, gaps: list[tuple[int, int]], place: int) -> str:
        if not text:
            return self.sentence
        if place == 0:
            return f"{self.sentence} {text}"
        if place > len(gaps):
            return f"{text} {self.sentence}"
        start, end = gaps[place - 1]
        return f"{text[:end]}{self.sentence}{text[start:end]}{text[end:]}"
