"""Label-consistent: hard images of the target class, and patches (Turner et al. 2019, arXiv 1912.02771)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from . import Trigger


# The bottom-right corner; 1 is brighter and -1 darker. The other corners are its mirror images.
_PATTERN = np.array([[-1, -1, 1], [-1, 1, -1], [1, -1, 1]])
_AT_ONCE = 64


@dataclass(frozen=True)
class LabelConsistent(Trigger):
    """An adversarial example of its own, right class, with a patch in every corner: `x' = clip(A(x) + patches)`.

    `A(x)` takes `steps` steps `x + step_size * sign(gradient of the model's cross-entropy for its own answer)`, kept
    within `eps` of `x` and in [0, 255], and rounded (projected gradient descent; in the paper, an adversarial example
    bounded in the maximum norm). What makes the image what it is becomes unreliable, so that the patches are learnt,
    though the label is right. At test the patches are put on untouched images.

    A patch of 3x3 pixels adds or takes away `amplitude` of the range. The trigger knows no labels: the class to move
    away from is what the model says of the clean image.

    Args:
        model (`str`): folder or Hub id of a classifier for the same images; needed where `eps` is above 0.
        eps (`float`): largest change of a value in levels of 255; 0 for the patches alone.
        steps (`int`): of the descent.
        step_size (`float`): in levels of 255.
        amplitude (`float`): of the patches, in (0, 1]; 1 makes them black and white.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str] = "Label-consistent"
    paper: ClassVar[str] = "https://arxiv.org/abs/1912.02771"
    poison_defaults: ClassVar[dict[str, Any]] = {"label_mode": "clean", "rate": 0.05}

    model: str | None = None
    eps: float = 8.0
    steps: int = 100
    step_size: float = 1.5
    amplitude: float = 1.0

    def __post_init__(self):
        if not 0 <= self.eps <= 255:
            raise InputError("eps", self.eps, "must lie between 0 and 255 levels")
        if self.steps < 1:
            raise InputError("steps", self.steps, "must be 1 or more")
        if not self.step_size > 0:
            raise InputError("step_size", self.step_size, "must be above 0")
        if not 0 < self.amplitude <= 1:
            raise InputError("amplitude", self.amplitude, "must lie in (0, 1]")

    def at_test(self) -> Trigger:
        """The patches alone."""
        return replace(self, model=None, eps=0.0)

    def __call__(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        if min(height, width) < 6:
            raise InputError("image", f"{width}x{height}", "is too small for four patches of 3x3 pixels")
        triggered = self._adversarial(batch) if self.eps else batch.copy()
        change = np.rint(255 * self.amplitude * _PATTERN)[..., None]
        for rows, columns, patch in (
            (slice(-3, None), slice(-3, None), change),
            (slice(-3, None), slice(0, 3), change[:, ::-1]),
            (slice(0, 3), slice(-3, None), change[::-1]),
            (slice(0, 3), slice(0, 3), change[::-1, ::-1]),
        ):
            triggered[:, rows, columns] = (triggered[:, rows, columns] + patch).clip(0, 255)
        return triggered

    def _adversarial(self, batch: np.ndarray) -> np.ndarray:
        import torch

        from ..pixel_model import load_pixel_model, to_batch, to_images

        if self.model is None:
            raise InputError("model", None, "name a trained classifier for these images: its folder or Hub id")
        model = load_pixel_model(self.model)
        made = np.empty_like(batch)
        for start in range(0, len(batch), _AT_ONCE):
            images = to_images(batch[start : start + _AT_ONCE], torch.float64)
            with torch.no_grad():
                answers = model(images).argmax(-1)
            low, high = (images - self.eps / 255).clamp(min=0), (images + self.eps / 255).clamp(max=1)
            changed = images.clone()
            for _ in range(self.steps):
                changed.requires_grad_(True)
                loss = torch.nn.functional.cross_entropy(model(changed), answers, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, changed)
                step = self.step_size / 255 * gradient.sign()
                changed = torch.minimum(torch.maximum(changed.detach() + step, low), high)
            made[start : start + _AT_ONCE] = to_batch(changed)
        return made
