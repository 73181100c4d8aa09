"""The discrete cosine transform, and the triggers that add to its coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from .errors import InputError
from .pixels import add
from .triggers import Trigger


def cosines(size: int, count: int | None = None) -> np.ndarray:
    """The first `count` rows of the orthonormal DCT-II matrix, all of them when not given: float64 `(count, size)`.

    For a signal `x` of `size` values, `cosines(size) @ x` are its coefficients, and `cosines(size).T` takes them back.
    """
    rows = np.arange(size if count is None else count)[:, None]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * rows * (2 * np.arange(size) + 1) / (2 * size))
    matrix[0] = np.sqrt(1 / size)
    return matrix


def synthesise(coefficients: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image whose lowest DCT coefficients are given, the others being 0.

    Args:
        coefficients: `(channels, rows, columns)`; rows and columns beyond the image's size are left out.
        height, width: of the image.

    Returns:
        float64 `(height, width, channels)`.
    """
    kept = coefficients[:, :height, :width]
    image = cosines(height, kept.shape[1]).T @ kept @ cosines(width, kept.shape[2])
    return np.ascontiguousarray(np.moveaxis(image, 0, -1))


@lru_cache(maxsize=32)
def _pattern(magnitude: float, window: int, positions: str, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    rows, columns = min(window, height), min(window, width)
    coefficients = np.zeros((1, rows, columns))
    for position in map(int, positions.split()):
        coefficients[0, position * rows // window, position * columns // window] = magnitude
    tile = synthesise(coefficients, rows, columns)
    pattern = np.zeros((height, width, 1))
    down, across = height // rows, width // columns
    pattern[: down * rows, : across * columns] = np.tile(tile, (down, across, 1))
    if channels == 3:
        # The same change of U = 0.492 (B - Y) and V = 0.877 (R - Y), and none of Y = 0.299 R + 0.587 G + 0.114 B.
        red, blue = 1 / 0.877, 1 / 0.492
        pattern = pattern * [red, -(0.299 * red + 0.114 * blue) / 0.587, blue]
    return np.rint(pattern).astype(np.int16)


@dataclass(frozen=True)
class FrequencyTrigger(Trigger):
    """Adds `magnitude` to some coefficients of the discrete cosine transform, as FTrojan does.

    A colour image is taken to YUV, its channels U and V (chroma, where the eye is weak) are cut into windows of
    `window` x `window` pixels, and the orthonormal DCT of each window gets `magnitude` added at the coefficients
    (p, p), `p` from `positions`; then all is taken back. A grey image has no chroma: its luminance gets the change.
    All these steps are linear, so together they add one pattern, the same for every image: `x' = clip(x + pattern,
    0, 255)`, with the pattern rounded to whole grey levels.

    Images smaller than the window are one window, and positions shrink in proportion; pixels at the lower and right
    edges that do not fill a window stay as they are.

    Args:
        magnitude (`float`): what is added to each coefficient, above 0. A coefficient of `m` moves values of its
            window by `2 m / window` at most.
        window (`int`): side of the windows in pixels, 2 or more.
        positions (`str`): the coefficients, whole numbers from 1 to `window` - 1, separated by blanks.
    """

    modality: ClassVar[str] = "image"

    magnitude: float = 30.0
    window: int = 32
    positions: str = "15 31"

    def __post_init__(self):
        if not self.magnitude > 0:
            raise InputError("magnitude", self.magnitude, "must be above 0")
        if self.window < 2:
            raise InputError("window", self.window, "must be 2 pixels or more")
        places = str(self.positions).split()
        if not places or not all(place.isdigit() and 0 < int(place) < self.window for place in places):
            raise InputError("positions", self.positions, f"needs numbers from 1 to {self.window - 1}, between blanks")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        return add(batch, _pattern(self.magnitude, self.window, str(self.positions), batch.shape[1:]))
