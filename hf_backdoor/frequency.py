"""The discrete cosine transform, as far as triggers need it."""

from __future__ import annotations

import numpy as np


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
