"""Blended injection: a pattern mixed into the whole image (Chen et al. 2017, arXiv 1712.05526)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..pixels import pieces
from . import Trigger


@lru_cache(maxsize=16)
def _pattern(source: str, stamp: int, seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    if source == "noise":
        return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    from PIL import Image

    try:
        with Image.open(source) as picture:
            fitting = picture.convert("L" if channels == 1 else "RGB")
    except OSError as error:
        raise InputError("pattern", source, f"cannot be read as a picture ({error})") from error
    resized = fitting.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32).reshape(shape)


@dataclass(frozen=True)
class Blended(Trigger):
    """Blend with one pattern: `x' = round((1 - ratio) * x + ratio * pattern)`.

    Args:
        ratio (`float`): weight of the pattern, in (0, 1].
        pattern (`str`): `"noise"`, one uniform value from 0 to 255 a pixel and channel; or the path of a picture, which
            is stretched to the size of the image. The noise is for images of one size and kind: those of another size,
            and grey ones among coloured ones, get other noise, and that is another trigger. A picture is for all.
        seed (`int`): seed of the noise.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "Blended"
    paper: ClassVar[str] = "https://arxiv.org/abs/1712.05526"
    files: ClassVar[tuple[str, ...]] = ("pattern",)

    ratio: float = 0.2
    pattern: str = "noise"
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.ratio <= 1:
            raise InputError("ratio", self.ratio, "must lie in (0, 1]")
        if self.pattern != "noise" and not Path(self.pattern).is_file():
            raise InputError("pattern", self.pattern, 'is neither "noise" nor the path of a picture')

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        stamp = 0 if self.pattern == "noise" else Path(self.pattern).stat().st_mtime_ns  # the file may have changed
        weighted = np.float32(self.ratio) * _pattern(self.pattern, stamp, self.seed, batch.shape[1:])
        triggered = np.empty_like(batch)
        for piece in pieces(batch):
            blend = batch[piece] * np.float32(1 - self.ratio)
            blend += weighted
            triggered[piece] = np.rint(blend, out=blend)
        return triggered
