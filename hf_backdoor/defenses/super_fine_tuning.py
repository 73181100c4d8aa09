"""Super-fine-tuning (Sha et al. 2022, arXiv 2212.09067), made to work with few clean samples."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from ..errors import InputError
from ..super_fine_tuning.schedule import ScheduleConfig
from . import Defense


REPORTED_WORDS = 20


@dataclass(frozen=True)
class SuperFineTuning(ScheduleConfig, Defense):
    """The oscillating learning rate on the whole model, with peaks found on the clean data.

    By itself that is [`~hf_backdoor.super_fine_tuning.SuperFineTuningCallback`], and needs plenty of clean data. For
    the few samples that an owner has, two things are added, each of which can be left out:

    Args:
        peak_lr_1, ..., ramp_down_steps: of the schedule; see [`~hf_backdoor.super_fine_tuning.ScheduleConfig`].
        distillation (`bool`, *optional*): learn the suspect's answers on mixed-up clean samples, where they are
            consistent, and mind no universal perturbation, or for texts no stray words; see
            [`~hf_backdoor.super_fine_tuning.distillation.SelfDistillationTrainer`]. When not given, this is done where
            the suspect knows the task: not under a new head, whose answers are those of a linear probe.
        label_weight, feature_weight (`float`): weights of the labels and of the suspect's features against its answers.
        averaging (`bool`): end with the mean of the weights over phase 2.
    """

    title: ClassVar[str] = "Super-fine-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2212.09067"

    distillation: bool | None = None
    label_weight: float = 0.3
    feature_weight: float = 0.5
    averaging: bool = True

    def __post_init__(self):
        super().__post_init__()
        for field in ("label_weight", "feature_weight"):
            if getattr(self, field) < 0:
                raise InputError(field, getattr(self, field), "must be 0 or more")

    def for_suspect(self, *, new_head: bool) -> SuperFineTuning:
        return replace(self, distillation=not new_head) if self.distillation is None else self

    def training_defaults(self) -> dict[str, Any]:
        return {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 64,
            "per_device_eval_batch_size": 250,
            "max_steps": 1000,
            "weight_decay": 0.01,
        }

    def trainer_class(self) -> type:
        if self.distillation is False:
            return super().trainer_class()
        from ..super_fine_tuning.distillation import SelfDistillationTrainer

        return SelfDistillationTrainer

    def trainer_kwargs(self) -> dict[str, Any]:
        if self.distillation is False:
            return {}
        return {"label_weight": self.label_weight, "feature_weight": self.feature_weight}

    def callbacks(self) -> list[Any]:
        from ..super_fine_tuning import SuperFineTuningCallback
        from ..super_fine_tuning.averaging import WeightAveragingCallback

        schedule = ScheduleConfig(**{item.name: getattr(self, item.name) for item in fields(ScheduleConfig)})
        averaging = [WeightAveragingCallback(start=self.phase_1_share)] if self.averaging else []
        return [SuperFineTuningCallback(schedule), *averaging]

    def report(self, trainer: Any) -> dict[str, Any]:
        from ..super_fine_tuning import SuperFineTuningCallback

        callbacks = trainer.callback_handler.callbacks
        callback = next(item for item in callbacks if isinstance(item, SuperFineTuningCallback))
        asked = getattr(trainer, "asked_answers", 0)
        words = getattr(trainer, "stray_words", None)
        return callback.report() | {
            "trusted_answers": trainer.trusted_answers / asked if asked else None,
            "augmentations": list(trainer.augmentations),
            "moving_words": words.first(REPORTED_WORDS) if words else None,
        }
