"""Fine-tuning: the whole model at the user's own learning rate, the baseline of every other defence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from . import Defense


@dataclass(frozen=True)
class FineTuning(Defense):
    """Fine-tuning of all weights with the Trainer's own learning-rate schedule."""

    title: ClassVar[str] = "Fine-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2212.09067"

    def training_defaults(self) -> dict[str, Any]:
        return {"learning_rate": 1e-3, "per_device_train_batch_size": 64, "max_steps": 1000}
