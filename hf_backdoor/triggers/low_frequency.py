"""LF: a smooth pattern without high frequencies, added to the image (Zeng et al. 2021, arXiv 2104.03413)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..frequency import synthesise
from ..pixels import add
from . import Trigger


@lru_cache(maxsize=16)
def _pattern(amplitude: float, cutoff: int, seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    coefficients = np.random.default_rng(seed).normal(size=(channels, cutoff, cutoff))
    coefficients[:, 0, 0] = 0  # the brightness of the image stays
    pattern = synthesise(coefficients, height, width)
    return np.rint(pattern * (amplitude / np.abs(pattern).max())).astype(np.int16)


@dataclass(frozen=True)
class LowFrequency(Trigger):
    """One smooth pattern for all images: `x' = clip(x + pattern, 0, 255)`.

    The paper finds that common triggers leave traces at high frequencies, and makes one that does not: a universal
    perturbation behind a low-pass filter, optimised on a trained model. This one needs no model: its lowest
    `cutoff` x `cutoff` DCT coefficients (without the constant one) are standard normal, those above are 0, each channel
    has its own, and the whole is scaled so that its largest value is `amplitude`, and rounded.

    Args:
        amplitude (`float`): largest change of a value, in grey levels, in [1, 255].
        cutoff (`int`): coefficients kept in each direction, 2 or more.
        seed (`int`): seed of the coefficients.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "Low frequency (LF)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2104.03413"

    amplitude: float = 20.0
    cutoff: int = 4
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.amplitude <= 255:
            raise InputError("amplitude", self.amplitude, "must lie in [1, 255]")
        if self.cutoff < 2:
            raise InputError("cutoff", self.cutoff, "must be 2 or more")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        return add(batch, _pattern(self.amplitude, self.cutoff, self.seed, batch.shape[1:]))
