"""Input-aware: a pattern and a mask that a network makes for each image (Nguyen and Tran 2020, arXiv 2010.08138)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..in_loop.trigger import LearnedTrigger


@dataclass(frozen=True)
class InputAware(LearnedTrigger):
    """`x' = round(x + m(x) (p(x) - x))`, see [`~hf_backdoor.in_loop.networks.InputAwareNet`].

    The networks are made by training a victim with the attack of this name, which also trains it to ignore the trigger
    of another image; cover samples get that of their mirror image.

    Args:
        weights (`str`, *optional*): the `trigger.safetensors` of a victim; without it there is no trigger yet.
    """

    title: ClassVar[str] = "Input-aware"
    paper: ClassVar[str] = "https://arxiv.org/abs/2010.08138"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.1, "cover_rate": 0.1}

    def cover(self, batch: np.ndarray, index: np.ndarray) -> np.ndarray:
        net = self._net(batch)
        return self._apply(lambda images: net(images, images.flip(-1)), batch)
