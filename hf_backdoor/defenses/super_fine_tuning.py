"""Super-fine-tuning (Sha et al. 2022, arXiv 2212.09067)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..super_fine_tuning.schedule import ScheduleConfig
from . import Defense


@dataclass(frozen=True)
class SuperFineTuning(ScheduleConfig, Defense):
    """x"""

    title: ClassVar[str] = "Super-fine-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2212.09067"

    def training_defaults(self) -> dict[str, Any]:
        return {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 64,
            "per_device_eval_batch_size": 250,
            "max_steps": 450,
            "weight_decay": 0.01,
        }

    def callbacks(self) -> list[Any]:
        from ..super_fine_tuning import SuperFineTuningCallback

        config = ScheduleConfig(**{item.name: getattr(self, item.name) for item in fields(ScheduleConfig)})
        return [SuperFineTuningCallback(config)]

    def report(self, trainer: Any) -> dict[str, Any]:
        from ..super_fine_tuning import SuperFineTuningCallback

        return next(
            callback.report()
            for callback in trainer.callback_handler.callbacks
            if isinstance(callback, SuperFineTuningCallback)
        )
