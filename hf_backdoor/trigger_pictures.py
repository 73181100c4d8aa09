"""Pictures of what a trigger does to images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .triggers import Trigger


def draw(path: Path, trigger: Trigger, arrays: list[np.ndarray], index: int) -> None:
    """Clean, as in training, as at test, and the difference at test enlarged; a row an image.

    Args:
        path (`Path`): of the picture.
        trigger: an image trigger.
        arrays: uint8 `(height, width, channels)`.
        index (`int`): of the sample that each is said to be.

    Raises:
        InputError: the trigger fits on none of them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    at_test = trigger.at_test()
    rows = []
    for array, changed in _fitting(at_test, arrays, index):
        difference = changed.astype(np.int16) - array
        largest = max(1, np.abs(difference).max())
        enlarged = (127.5 * (1 + difference / largest)).astype(np.uint8)
        stages = [("poisoned", changed)]
        if at_test != trigger:
            stages = [("poisoned for training", _once(trigger, array, index)), ("triggered at test", changed)]
        rows.append([("clean", array), *stages, (f"difference, largest {largest}", enlarged)])
    columns = len(rows[0])
    figure = Figure(figsize=(1.75 * columns, 1.95 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axis, (title, array) in zip(axes, row, strict=True):
            _show(axis, array, title)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def _once(trigger: Trigger, array: np.ndarray, index: int) -> np.ndarray:
    return trigger(array[None], np.array([index]))[0]


def _fitting(trigger: Trigger, arrays: list[np.ndarray], index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The images that a trigger can be put on, without and with it: one that was learned wants so many channels, a
    patch so much room.

    Raises:
        InputError: there is none.
    """
    pairs, refusal = [], None
    for array in arrays:
        try:
            pairs.append((array, _once(trigger, array, index)))
        except InputError as error:
            refusal = error
    if not pairs and refusal is not None:
        raise refusal
    return pairs


def _show(axis: Axes, array: np.ndarray, title: str) -> None:
    pixels = array[:, :, 0] if array.shape[2] == 1 else array
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
