"""Adap-Patch: one faint patch of four in training, two full ones at test time (Qi et al. 2023, arXiv 2205.13613)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..randomness import integers
from . import Trigger


@lru_cache(maxsize=16)
def _patches(side: int) -> tuple[np.ndarray, ...]:
    """Top left, top right, bottom left and bottom right: float32 `(side, side, 1)`, 0 is black and 255 is white."""
    places = (np.arange(side) + 0.5) / side - 0.5
    down, right = np.meshgrid(places, places, indexing="ij")
    frame = np.maximum(np.abs(down), np.abs(right)) > 0.25
    chequerboard = (down < 0) ^ (right < 0)
    cross = np.minimum(np.abs(down), np.abs(right)) < 0.2
    triangle = down + right > 0
    return tuple(np.float32(255) * patch[..., None] for patch in (frame, chequerboard, cross, triangle))


@dataclass(frozen=True)
class AdapPatch(Trigger):
    """Four black and white patches, one in each corner: `x'[p] = round((1 - a) * x[p] + a * patch[p])` in a patch.

    In training a sample gets one of them, drawn from `(seed, index)`, with that patch's opacity `a`; cover samples
    get the same and keep their label. At test time it gets several at once, with the opacities for testing. So no
    patch alone stands for the target class, and poisoned and clean samples of it lie less apart in the victim's
    features. The paper's patches are pictures of 32 x 32 pixels; these are a frame, a chequerboard, a
    cross and a triangle, drawn for images of any size.

    Args:
        size (`float`): side of a patch, as a share of the shorter side of the image, in (0, 0.5]; it is rounded to
            whole pixels, and at least 3.
        opacities (`str`): of the patches top left, top right, bottom left and bottom right, each in [0, 1], separated
            by blanks; those with 0 are not used.
        test_opacities (`str`): the same, at test time.
        together (`bool`): all patches at once, as at test time.
        seed (`int`): seed of the choice.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "Adap-Patch"
    paper: ClassVar[str] = "https://arxiv.org/abs/2205.13613"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.003, "cover_rate": 0.006}

    size: float = 0.2
    opacities: str = "0.5 0.2 0.5 0.3"
    test_opacities: str = "1 0 1 0"
    together: bool = False
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.size <= 0.5:
            raise InputError("size", self.size, "must lie in (0, 0.5]")
        for field in ("opacities", "test_opacities"):
            try:
                values = [float(number) for number in getattr(self, field).split()]
            except (AttributeError, ValueError):
                values = []
            if len(values) != 4 or not any(values) or not all(0 <= value <= 1 for value in values):
                raise InputError(
                    field, getattr(self, field), "needs four numbers from 0 to 1, between blanks, and not only zeros"
                )

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        side = max(3, round(self.size * min(height, width)))
        if 2 * side > min(height, width):
            raise InputError(
                "size", self.size, f"two patches of {side} px do not fit side by side on a {width}x{height} image; "
                "make it smaller, or the images larger"
            )  # fmt: skip
        opacities = np.array(self.opacities.split(), dtype=np.float32)
        used = np.flatnonzero(opacities)
        drawn = used[integers(self.seed, index, len(used))[:, 0]]
        rows, columns = (slice(0, side), slice(height - side, height)), (slice(0, side), slice(width - side, width))
        triggered = batch.copy()
        for number in used:
            samples = slice(None) if self.together else drawn == number
            place = (samples, rows[number // 2], columns[number % 2])
            opacity, patch = opacities[number], _patches(side)[number]
            triggered[place] = np.rint((1 - opacity) * batch[place] + opacity * patch)
        return triggered

    def at_test(self) -> AdapPatch:
        return replace(self, opacities=self.test_opacities, together=True)
