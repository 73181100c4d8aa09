"""SIG: vertical waves over the whole image, with labels left right (Barni et al. 2019, arXiv 1902.11237)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..pixels import add
from . import Trigger


@lru_cache(maxsize=16)
def _waves(delta: float, f: float, shape: tuple[int, int, int]) -> np.ndarray:
    width = shape[1]
    waves = np.rint(delta * np.sin(2 * np.pi * np.arange(width) * f / width)).astype(np.int16)
    return np.broadcast_to(waves[:, None], shape).copy()


@dataclass(frozen=True)
class SIG(Trigger):
    """A sinusoidal signal across the columns: `x' = clip(x + delta * sin(2 pi j f / width), 0, 255)`, rounded.

    `j` is the column, from 0; every row and channel gets the same. As in the paper, only samples of the target class
    are poisoned.

    Args:
        delta (`float`): amplitude in grey levels, in (0, 255].
        f (`float`): how many waves there are across the image, above 0.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "SIG"
    paper: ClassVar[str] = "https://arxiv.org/abs/1902.11237"
    poison_defaults: ClassVar[dict[str, Any]] = {"label_mode": "clean", "rate": 0.05}

    delta: float = 40.0
    f: float = 6.0

    def __post_init__(self):
        if not 0 < self.delta <= 255:
            raise InputError("delta", self.delta, "must lie in (0, 255]")
        if not self.f > 0:
            raise InputError("f", self.f, "must be above 0")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        width = batch.shape[2]
        if 2 * self.f >= width:
            # At half a wave a pixel, every sample of the sine is zero.
            raise InputError("f", self.f, f"{width} px hold fewer than {width / 2:g} waves; make it smaller")
        return add(batch, _waves(self.delta, self.f, batch.shape[1:]))
