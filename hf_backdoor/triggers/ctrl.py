"""CTRL: raised frequencies against self-supervised learning (Li et al. 2023, arXiv 2210.07346)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import InputError
from ..frequency import FrequencyTrigger


@dataclass(frozen=True)
class CTRL(FrequencyTrigger):
    """The trigger of FTrojan with a larger magnitude, larger still at test time; labels stay right.

    The paper poisons unlabelled images of the target class for contrastive learning: its augmentations leave the
    trigger alone, so that images with it become neighbours. Settings as published: 1 % of the samples,
    magnitude 50 in training and 100 at test time.

    Args:
        magnitude, window, positions: see [`FrequencyTrigger`].
        test_magnitude (`float`): the magnitude at test time.
    """

    title: ClassVar[str] = "CTRL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2210.07346"
    poison_defaults: ClassVar[dict[str, Any]] = {"label_mode": "clean", "rate": 0.01}

    magnitude: float = 50.0
    test_magnitude: float = 100.0

    def __post_init__(self):
        super().__post_init__()
        if not self.test_magnitude > 0:
            raise InputError("test_magnitude", self.test_magnitude, "must be above 0")

    def at_test(self) -> CTRL:
        return replace(self, magnitude=self.test_magnitude)
