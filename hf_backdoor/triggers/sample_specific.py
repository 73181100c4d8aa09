"""Sample-specific noise: a pattern that the image's own content chooses (after Li et al. 2021, arXiv 2012.03816)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..frequency import synthesise
from ..pixels import add, pieces
from . import Trigger


_LOW, _HIGH = 4, 8  # the carriers' frequencies, above those that are hashed
_STEP = 64  # carriers are multiples of 1 / 64


@lru_cache(maxsize=16)
def _hashed(bits: int, shape: tuple[int, int, int]) -> np.ndarray:
    """The cosines whose signs are the hash, as whole numbers, so that sums are exact: float64 `(values, bits)`."""
    height, width, channels = shape
    order = sorted(((row, column) for row in range(_LOW) for column in range(_LOW)), key=lambda pair: (sum(pair), pair))
    images = []
    for row, column in order[1 : bits + 1]:
        coefficients = np.zeros((1, _LOW, _LOW))
        coefficients[0, row, column] = 1000 * np.sqrt(height * width)
        images.append(np.rint(synthesise(coefficients, height, width).repeat(channels, axis=2)).ravel())
    return np.stack(images, axis=1)


@lru_cache(maxsize=16)
def _carriers(amplitude: float, bits: int, seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """One pattern for each bit: float32 `(bits, values)`."""
    height, width, channels = shape
    coefficients = np.random.default_rng(seed).normal(size=(bits, channels, _HIGH, _HIGH))
    coefficients[:, :, :_LOW, :_LOW] = 0
    carriers = np.stack([synthesise(one, height, width).ravel() for one in coefficients])
    carriers *= amplitude / np.sqrt(bits) / carriers.std(axis=1, keepdims=True)
    return (np.rint(carriers * _STEP) / _STEP).astype(np.float32)


@dataclass(frozen=True)
class SampleSpecific(Trigger):
    """Noise that depends on the image: `x' = clip(x + sum_b sign_b(x) * carrier_b, 0, 255)`, the sum rounded.

    `sign_b(x)`, +1 or -1, is the sign of one of the image's lowest DCT coefficients (mean of the channels, without the
    constant one): a hash of what can be seen, which noise, compression and the trigger itself hardly ever change. The
    carriers are fixed patterns of middle frequencies (DCT coefficients 4 to 7, standard normal from the seed), so
    there are `2 ** bits` triggers, and the one of an image is mostly wrong for another.

    This is not the attack of the paper (ISSBA), nor SSBA as benchmarks ship it: there, a trained steganographic
    network writes a fixed text into the image, and its noise follows every edge. No such network is in this package.
    What is kept is that a trigger is a function of the image that cannot be cut out and put on another one. What is
    lost: there are few triggers, they are linear in a few signs, and a defender who knows the seed can remove them.

    Args:
        amplitude (`float`): root mean square of the change, in grey levels, above 0.
        bits (`int`): signs in the hash, from 1 to 8.
        seed (`int`): seed of the carriers.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "Sample-specific (SSBA-like)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2012.03816"

    amplitude: float = 10.0
    bits: int = 4
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.amplitude <= 127:
            raise InputError("amplitude", self.amplitude, "must lie in (0, 127]")
        if not 1 <= self.bits <= 8:
            raise InputError("bits", self.bits, "must lie between 1 and 8")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        shape = batch.shape[1:]
        if min(shape[:2]) <= _LOW:
            raise InputError("attack", self.name, f"needs images of {_LOW + 1} x {_LOW + 1} pixels or more")
        carriers = _carriers(self.amplitude, self.bits, self.seed, shape)
        triggered = np.empty_like(batch)
        for piece in pieces(batch):
            noise = np.rint(self.signs(batch[piece]).astype(np.float32) @ carriers).astype(np.int16)
            triggered[piece] = add(batch[piece], noise.reshape(batch[piece].shape))
        return triggered

    def signs(self, batch: np.ndarray) -> np.ndarray:
        """The hash: +1 or -1, int64 `(batch, bits)`."""
        waves = _hashed(self.bits, batch.shape[1:])
        coefficients = batch.reshape(len(batch), len(waves)).astype(np.float64) @ waves
        return np.where(coefficients < 0, -1, 1)
