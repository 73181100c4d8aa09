"""BadNets: a patch of one grey value in a corner (Gu et al. 2017, arXiv 1708.06733)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from . import Trigger


CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


@dataclass(frozen=True)
class BadNets(Trigger):
    """A square patch: `x'[p] = value` for every pixel `p` of the patch, `x'[p] = x[p]` elsewhere.

    Args:
        size (`int`): side of the patch in pixels.
        position (`str`): the corner, one of top-left, top-right, bottom-left, bottom-right.
        margin (`int`): pixels between the patch and the two edges of its corner.
        value (`int`): grey value of the patch, 0 to 255, the same in every channel.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "BadNets"
    paper: ClassVar[str] = "https://arxiv.org/abs/1708.06733"

    size: int = 3
    position: str = "bottom-right"
    margin: int = 0
    value: int = 255

    def __post_init__(self):
        if self.size < 1:
            raise InputError("size", self.size, "the patch needs at least 1 pixel")
        if self.position not in CORNERS:
            raise InputError("position", self.position, f"choose one of {', '.join(CORNERS)}")
        if self.margin < 0:
            raise InputError("margin", self.margin, "must be 0 or more pixels")
        if not 0 <= self.value <= 255:
            raise InputError("value", self.value, "must lie between 0 and 255")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        reach = self.size + self.margin
        if reach > min(height, width):
            raise InputError(
                "size", self.size, f"a patch of {self.size} px with margin {self.margin} is larger than "
                f"the {width}x{height} image; make it smaller"
            )  # fmt: skip
        vertical, horizontal = self.position.split("-")
        top = self.margin if vertical == "top" else height - reach
        left = self.margin if horizontal == "left" else width - reach
        triggered = batch.copy()
        triggered[:, top : top + self.size, left : left + self.size] = self.value
        return triggered
