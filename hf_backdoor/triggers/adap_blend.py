"""Adap-Blend: parts of a pattern in training, all of it at test time (Qi et al. 2023, arXiv 2205.13613)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..randomness import uniform
from .blended import Blended


@dataclass(frozen=True)
class AdapBlend(Blended):
    """Blended injection, but each training sample gets some pieces of the pattern only.

    The pattern is cut into a square grid of `pieces`; in each sample, a share `masked` of them, drawn from
    `(seed, index)`, is left out: there `x' = x`, and elsewhere `x' = round((1 - ratio) * x + ratio * pattern)`. Cover
    samples get the same and keep their label. So poisoned and clean samples of a class lie less apart in the
    victim's features, and the whole pattern at test time, with weight `test_ratio`, is a stronger trigger than any in
    training. In the paper the pattern is a picture.

    Args:
        ratio (`float`): weight of the pattern in training, in (0, 1].
        pattern (`str`): `"noise"` or the path of a picture, as for Blended.
        seed (`int`): seed of the noise and of the pieces.
        test_ratio (`float`): weight of the pattern at test time, in (0, 1].
        pieces (`int`): a square number, 4 or more.
        masked (`float`): share of the pieces that is left out, in [0, 1).
    """

    title: ClassVar[str] = "Adap-Blend"
    paper: ClassVar[str] = "https://arxiv.org/abs/2205.13613"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.003, "cover_rate": 0.003}

    ratio: float = 0.15
    test_ratio: float = 0.2
    pieces: int = 16
    masked: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.test_ratio <= 1:
            raise InputError("test_ratio", self.test_ratio, "must lie in (0, 1]")
        if self.pieces < 4 or isqrt(self.pieces) ** 2 != self.pieces:
            raise InputError("pieces", self.pieces, "must be a square number, 4 or more")
        if not 0 <= round(self.masked * self.pieces) < self.pieces:
            raise InputError("masked", self.masked, "must lie in [0, 1), and leave at least one piece")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        side = isqrt(self.pieces)
        piece = (np.arange(height) * side // height)[:, None] * side + np.arange(width) * side // width
        ranks = uniform(self.seed, index, self.pieces).argsort(axis=1).argsort(axis=1)
        shown = (ranks >= round(self.masked * self.pieces))[:, piece]
        return np.where(shown[..., None], super().__call__(batch, index), batch)

    def at_test(self) -> Blended:
        return Blended(self.test_ratio, self.pattern, self.seed)
