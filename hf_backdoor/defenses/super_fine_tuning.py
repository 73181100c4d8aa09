"""Super-fine-tuning (Sha et al. 2022, arXiv 2212.09067), made to work with few clean samples."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from ..results import RESULTS_FILE, local_name
from ..super_fine_tuning.schedule import RATES, ScheduleConfig
from . import Defense


if TYPE_CHECKING:
    from ..super_fine_tuning import SuperFineTuningCallback

REPORTED_WORDS = 20


# Of labels and features against the suspect's answers: where it knows the task, and under a new head.
WEIGHTS = {"label_weight": (0.3, 3.0), "feature_weight": (0.5, 0.0)}


@dataclass(frozen=True)
class SuperFineTuning(ScheduleConfig, Defense):
    """The oscillating learning rate on the whole model, with peaks found on the clean data.

    By itself that is [`~hf_backdoor.super_fine_tuning.SuperFineTuningCallback`], and needs plenty of clean data. For
    the few samples that an owner has, two things are added, each of which can be left out:

    Args:
        peak_lr_1, ..., ramp_down_steps: of the schedule; see [`~hf_backdoor.super_fine_tuning.ScheduleConfig`].
        distillation (`bool`): learn the suspect's answers on mixed-up clean samples, where they are
            consistent, and mind no universal perturbation, or for texts no stray words; see
            [`~hf_backdoor.super_fine_tuning.distillation.SelfDistillationTrainer`].
        label_weight, feature_weight (`float`, *optional*): weights of the labels and of the suspect's features against
            its answers. When not given, 0.3 and 0.5 where the suspect knows the task; 3 and 0 under a new head, whose
            answers are those of a linear probe, on features that are to change.
        averaging (`bool`): end with the mean of the weights over phase 2.
        words_from (`str`, *optional*): folder of an earlier repair of the same suspect on the same clean texts, to take
            over the words that were found there; the search for them is a third of the work on a text classifier.

    Raises:
        InputError: a setting is out of range, or nothing was found there.
    """

    title: ClassVar[str] = "Super-fine-tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2212.09067"

    distillation: bool = True
    label_weight: float | None = None
    feature_weight: float | None = None
    averaging: bool = True
    words_from: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for field in WEIGHTS:
            value = getattr(self, field)
            if value is not None and not value >= 0:
                raise InputError(field, value, "must be 0 or more")
        if self.words_from is not None:
            self._found_words()

    def _found_words(self) -> dict[str, Any]:
        try:
            return json.loads((Path(self.words_from) / RESULTS_FILE).read_text("utf-8"))["defense"]["found_words"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "words_from", self.words_from, "must be the folder of an earlier repair of the same text classifier"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"words_from": local_name(self.words_from)}

    def for_suspect(self, *, new_head: bool) -> SuperFineTuning:
        usual = {name: weights[new_head] for name, weights in WEIGHTS.items()}
        return replace(self, **{name: weight for name, weight in usual.items() if getattr(self, name) is None})

    def training_defaults(self) -> dict[str, Any]:
        return {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 64,
            "per_device_eval_batch_size": 250,
            "max_steps": 1000,
            "weight_decay": 0.01,
        }

    def trainer_class(self) -> type:
        if not self.distillation:
            return super().trainer_class()
        from ..super_fine_tuning.distillation import SelfDistillationTrainer

        return SelfDistillationTrainer

    def trainer_kwargs(self) -> dict[str, Any]:
        if not self.distillation:
            return {}
        told = self.for_suspect(new_head=False)  # nothing more once it is decided
        found = self._found_words() if self.words_from is not None else None
        return {name: getattr(told, name) for name in WEIGHTS} | {"found_words": found}

    def callbacks(self) -> list[Any]:
        from ..super_fine_tuning import SuperFineTuningCallback
        from ..super_fine_tuning.averaging import WeightAveragingCallback

        schedule = ScheduleConfig(**{item.name: getattr(self, item.name) for item in fields(ScheduleConfig)})
        averaging = [WeightAveragingCallback(start=self.phase_1_share)] if self.averaging else []
        return [SuperFineTuningCallback(schedule), *averaging]

    def report(self, trainer: Any) -> dict[str, Any]:
        asked = getattr(trainer, "asked_answers", 0)
        words = getattr(trainer, "stray_words", None)
        return _callback(trainer).report() | {
            "trusted_answers": trainer.trusted_answers / asked if asked else None,
            "augmentations": list(trainer.augmentations),
            "moving_words": words.first(REPORTED_WORDS) if words else None,
            "found_words": words.found() if words else None,
        }

    def gentler(self, trainer: Any) -> SuperFineTuning | None:
        if any(getattr(self, name) is not None for name in RATES):
            return None
        return replace(self, **{name: rate / 2 for name, rate in _callback(trainer).rates.items()})


def _callback(trainer: Any) -> SuperFineTuningCallback:
    from ..super_fine_tuning import SuperFineTuningCallback

    return trainer.callback_of(SuperFineTuningCallback)
