"""BppAttack: fewer grey levels (Wang, Zhai and Ma 2022, arXiv 2205.13383)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..pixels import pieces
from ..randomness import integers
from . import Trigger


@dataclass(frozen=True)
class Bpp(Trigger):
    """Quantisation of every value: `x' = round(round(x / 255 * (n - 1)) / (n - 1) * 255)`, `n` being `squeeze_num`.

    With dithering (Floyd and Steinberg 1976), pixels are taken row by row, each gets the nearest level from 0 to 255,
    and its rounding error is added to its neighbours that are still to come: 7/16 to the right, 3/16, 5/16 and 1/16
    below left, below and below right.

    Cover samples: the paper trains on negative samples too, which carry the rounding error of *other* images, so that
    only quantisation itself is the trigger. A function of one image has no other images, so a cover sample carries
    its own error, moved on by a number of pixels drawn from `(seed, index)`. The adversarial training of the paper is
    not part of this.

    Args:
        squeeze_num (`int`): levels that are left, from 2 to 255.
        dithering (`bool`): spread rounding errors over the neighbours.
        seed (`int`): seed of the cover samples' displacement.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "BppAttack"
    paper: ClassVar[str] = "https://arxiv.org/abs/2205.13383"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.1, "cover_rate": 0.1}

    squeeze_num: int = 8
    dithering: bool = False
    seed: int = 0

    def __post_init__(self):
        if not 2 <= self.squeeze_num <= 255:
            raise InputError("squeeze_num", self.squeeze_num, "must lie between 2 and 255 levels")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        if self.dithering:
            return self._dither(batch)
        table, squeezed = np.rint(self._nearest(np.arange(256.0))).astype(np.uint8), np.empty_like(batch)
        for piece in pieces(batch):
            squeezed[piece] = table[batch[piece]]
        return squeezed

    def cover(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        error = self(batch, index).astype(np.int16) - batch
        count = batch.shape[1] * batch.shape[2]
        error = error.reshape(len(batch), count, batch.shape[3])
        steps = 1 + integers(self.seed, index, max(1, count - 1))
        moved = error[np.arange(len(batch))[:, None], (np.arange(count) + steps) % count]
        return (batch + moved.reshape(batch.shape)).clip(0, 255).astype(np.uint8)

    def _nearest(self, values: np.ndarray) -> np.ndarray:
        """The nearest of the levels, not yet rounded to whole numbers."""
        return np.rint(values * ((self.squeeze_num - 1) / 255)) * (255 / (self.squeeze_num - 1))

    def _dither(self, batch: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        # Pixels first, so that one pixel of all images is contiguous; a border takes the errors that leave the image.
        canvas = np.zeros((height + 1, width + 2, len(batch), batch.shape[3]), np.float32)
        canvas[:height, 1:-1] = batch.transpose(1, 2, 0, 3)
        for row in range(height):
            for column in range(1, width + 1):
                level = self._nearest(canvas[row, column]).clip(0, 255)
                error = canvas[row, column] - level
                canvas[row, column] = level
                canvas[row, column + 1] += error * np.float32(7 / 16)
                canvas[row + 1, column - 1] += error * np.float32(3 / 16)
                canvas[row + 1, column] += error * np.float32(5 / 16)
                canvas[row + 1, column + 1] += error * np.float32(1 / 16)
        return np.rint(canvas[:height, 1:-1].transpose(2, 0, 1, 3)).astype(np.uint8)
