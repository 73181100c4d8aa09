"""Triggers that a network makes, trained together with the victim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import InputError
from ..triggers import Trigger


if TYPE_CHECKING:
    import torch

    from .networks import TriggerNet

_AT_ONCE = 256


@dataclass(frozen=True)
class LearnedTrigger(Trigger):
    """Applies a stored network to uint8 images, and rounds.

    Args:
        weights (`str`, *optional*): the `trigger.safetensors` of a victim; without it there is no trigger yet.
    """

    modality: ClassVar[str] = "image"
    files: ClassVar[tuple[str, ...]] = ("weights",)

    weights: str | None = None

    def __post_init__(self):
        if self.weights is not None and not Path(self.weights).is_file():
            raise InputError("weights", self.weights, "is no file; give the trigger.safetensors of a victim")

    def _net(self, batch: np.ndarray) -> TriggerNet:
        from .networks import load_net

        if self.weights is None:
            raise InputError(
                "weights", None, f"train the trigger first with `hf-backdoor train --attack {self.name}`, then give "
                "weights=DIR/trigger.safetensors"
            )  # fmt: skip
        net = load_net(self.weights, self.name)
        if net.settings["channels"] != batch.shape[3]:
            raise InputError(
                "weights", self.weights, f"was trained on images with {net.settings['channels']} channels, and these "
                f"have {batch.shape[3]}; convert them"
            )  # fmt: skip
        return net

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        return self._apply(self._net(batch), batch)

    def _apply(self, change: Callable[[torch.Tensor], torch.Tensor], batch: np.ndarray) -> np.ndarray:
        """A function of float64 images `(batch, channels, height, width)` in [0, 1], for a uint8 batch of any size."""
        import torch

        from ..pixel_model import to_batch, to_images

        changed = np.empty_like(batch)
        for start in range(0, len(batch), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            changed[piece] = to_batch(change(to_images(batch[piece], torch.float64)))
        return changed
