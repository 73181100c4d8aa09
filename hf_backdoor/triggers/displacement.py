"""A patch of changing place, size and brightness, for the physical world (Li et al. 2021, arXiv 2104.02361)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..randomness import uniform
from . import Trigger


@dataclass(frozen=True)
class Displacement(Trigger):
    """A chequered patch that is elsewhere on every image, in training and at test time.

    The paper shows that a patch which is always the same fails at test time once it is a few pixels aside or a little
    darker, as in front of a camera, and that training with transformed triggers mends it. Here the
    patch itself is drawn from `(seed, index)`: its side, its brightness `b`, and its place, all uniform. Its quarters
    top left and bottom right are `b`, the other two 0, so that it stands out on any ground.

    Args:
        min_size, max_size (`int`): side of the patch in pixels, 2 or more.
        min_value, max_value (`int`): brightness of its bright quarters, 0 to 255.
        reach (`float`): how far it moves: share of the image's sides, from the lower right corner, within which the
            patch lies, in (0, 1]; 1 is everywhere.
        seed (`int`): seed of the draws.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "Displaced patch (physical world)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2104.02361"

    min_size: int = 4
    max_size: int = 6
    min_value: int = 192
    max_value: int = 255
    reach: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not 2 <= self.min_size <= self.max_size:
            raise InputError("min_size", self.min_size, f"must lie between 2 and max_size={self.max_size}")
        if not 0 <= self.min_value <= self.max_value <= 255:
            raise InputError(
                "min_value", self.min_value, f"must lie between 0 and max_value={self.max_value}, and that up to 255"
            )  # fmt: skip
        if not 0 < self.reach <= 1:
            raise InputError("reach", self.reach, "must lie in (0, 1]")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        if self.max_size > min(height, width):
            raise InputError("max_size", self.max_size, f"is larger than the {width}x{height} image; make it smaller")
        draws = uniform(self.seed, index, 4).T
        size = self.min_size + (draws[0] * (self.max_size - self.min_size + 1)).astype(int)
        value = self.min_value + (draws[1] * (self.max_value - self.min_value + 1)).astype(int)
        down, right = self._offsets(draws[2], size, height)[:, :, None], self._offsets(draws[3], size, width)[:, None]
        size, value = size[:, None, None], value[:, None, None]
        inside = (down >= 0) & (down < size) & (right >= 0) & (right < size)
        bright = (2 * down < size) == (2 * right < size)
        patch = np.where(bright, value, 0).astype(np.uint8)
        return np.where(inside[..., None], patch[..., None], batch)

    def _offsets(self, draw: np.ndarray, size: np.ndarray, side: int) -> np.ndarray:
        """Of every row (or column) from the first one of the patch: int64 `(batch, side)`."""
        first = np.minimum(round((1 - self.reach) * side), side - size)
        return np.arange(side) - (first + (draw * (side - size - first + 1)).astype(int))[:, None]
