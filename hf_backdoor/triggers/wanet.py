"""WaNet: a smooth warp of the whole image (Nguyen and Tran 2021, arXiv 2102.10369)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..pixels import pieces
from ..randomness import uniform
from . import Trigger


def _bicubic(points: int, size: int) -> np.ndarray:
    """Interpolation from `points` values to `size`, the ends on the ends: float64 `(size, points)`.

    Cubic convolution with a = -0.75, values beyond the ends being those at the ends, as in `torch`.
    """
    place = np.arange(size) * (points - 1) / max(1, size - 1)
    left = np.floor(place).astype(int)
    weights = np.zeros((size, points))
    for neighbour in range(-1, 3):
        distance = np.abs(place - left - neighbour)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(
            weights,
            (np.arange(size), (left + neighbour).clip(0, points - 1)),
            np.where(distance <= 1, near, far),
        )
    return weights


@lru_cache(maxsize=16)
def _grid(seed: int, k: int, s: float, rescale: float, height: int, width: int) -> np.ndarray:
    """Where each pixel is read, in coordinates from -1 to 1: float64 `(2, height, width)`, rows first."""
    control = np.random.default_rng(seed).uniform(-1, 1, (2, k, k))
    control /= np.abs(control).mean()
    flow = _bicubic(k, height) @ control @ _bicubic(k, width).T
    flow[0] *= s / height
    flow[1] *= s / width
    identity = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return ((identity + flow) * rescale).clip(-1, 1)


def _corners(grid: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear interpolation as a sum over 4 neighbours: their places in the flat image, and their weights.

    Args:
        grid: float64 `(2, height, width)`, -1 and 1 being the centres of the outermost pixels (align_corners).
        channels: of the image.

    Returns:
        int64 and float32 `(4, height * width * channels)`.
    """
    height, width = grid.shape[1:]
    sides = np.array([height, width]).reshape(2, 1, 1)
    place = (grid + 1) / 2 * (sides - 1)
    first = np.floor(place).astype(np.int64)
    second = np.minimum(first + 1, sides - 1)
    (down, right), (up, left) = place - first, 1 - (place - first)
    pixels = np.stack([row * width + column for row in (first[0], second[0]) for column in (first[1], second[1])])
    weights = np.stack([up * left, up * right, down * left, down * right]).astype(np.float32)
    places = pixels[..., None] * channels + np.arange(channels)
    return places.reshape(4, -1), np.repeat(weights.reshape(4, -1), channels, axis=1)


@lru_cache(maxsize=16)
def _warp(seed: int, k: int, s: float, rescale: float, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return _corners(_grid(seed, k, s, rescale, *shape[:2]), shape[2])


def _resample(batch: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum over the neighbours, rounded: uint8 `(batch, values)` to the same."""
    warped = np.empty_like(batch)
    for piece in pieces(batch):
        source = batch[piece]
        neighbour, term = np.empty_like(source), np.empty(source.shape, np.float32)
        total = np.full(source.shape, 0.5, np.float32)  # a half, and cut off below: rounded
        for place, weight in zip(places, weights, strict=True):
            source.take(place, axis=1, out=neighbour, mode="clip")  # the mode that needs no second buffer
            total += np.multiply(neighbour, weight, out=term)
        warped[piece] = total
    return warped


@dataclass(frozen=True)
class WaNet(Trigger):
    """A warp, the same for all images: `x'(p) = x(p + flow(p))`, read between pixels bilinearly.

    `flow` is a `k` x `k` grid of uniform vectors in [-1, 1], divided by the mean of their absolute values, enlarged to
    the image by bicubic interpolation, and multiplied by `s / side`; the image spans [-1, 1]. So at `s` = 1 a pixel is
    read half a pixel away on average, in each direction, whatever the size of the image: larger images need a larger
    `s`. Coordinates are cut off at -1 and 1. Section 3 of the paper.

    Cover samples get the paper's noise mode: the same warp plus uniform noise in [-1, 1] / side, drawn
    for each pixel from `(seed, index)`, so that no warp but this one is the trigger. The authors draw samples and noise
    anew in each batch; here, as data poisoning, they are drawn once.

    Args:
        k (`int`): side of the control grid, 2 or more.
        s (`float`): strength of the warp, above 0.
        grid_rescale (`float`): factor on all coordinates, above 0; below 1 it also zooms in.
        seed (`int`): seed of the control grid and of the noise.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "WaNet"
    paper: ClassVar[str] = "https://arxiv.org/abs/2102.10369"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.1, "cover_rate": 0.2}

    k: int = 4
    s: float = 0.5
    grid_rescale: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.k < 2:
            raise InputError("k", self.k, "the control grid needs a side of 2 or more")
        if not self.s > 0:
            raise InputError("s", self.s, "must be above 0")
        if not self.grid_rescale > 0:
            raise InputError("grid_rescale", self.grid_rescale, "must be above 0")

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        places, weights = _warp(self.seed, self.k, self.s, self.grid_rescale, batch.shape[1:])
        return _resample(batch.reshape(len(batch), places.shape[1]), places, weights).reshape(batch.shape)

    def cover(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        height, width, channels = batch.shape[1:]
        grid = _grid(self.seed, self.k, self.s, self.grid_rescale, height, width)
        sides = np.array([height, width]).reshape(2, 1, 1)
        flat, warped = batch.reshape(len(batch), 1, height * width * channels), np.empty_like(batch)
        for image, number, result in zip(flat, index, warped, strict=True):
            noise = uniform(self.seed, number, grid.size).reshape(grid.shape) * 2 - 1
            corners = _corners((grid + noise / sides).clip(-1, 1), channels)
            result[:] = _resample(image, *corners).reshape(result.shape)
        return warped
