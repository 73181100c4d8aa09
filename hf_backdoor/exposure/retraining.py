"""Training models for a report: nothing of it is logged, shown or saved."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..randomness import seeded
from ..trainer import BackdoorTrainer


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..sequela import Evidence


class EvaluateAt(TrainerCallback):
    """Evaluates after some optimizer steps.

    Args:
        steps: after which.

    Attributes:
        measured (`dict`): what came out, by step; of all evaluations.
    """

    def __init__(self, steps: Collection[int]):
        self.steps = steps
        self.measured: dict[int, dict[str, float]] = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_evaluate = state.global_step in self.steps

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        self.measured[state.global_step] = metrics


def trainable_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model, an adapter merged, with all its weights to be trained."""
    from ..tuning import merged

    return merged(copy.deepcopy(model)).requires_grad_(True)


@contextmanager
def background_trainer(
    model: PreTrainedModel,
    evidence: Evidence,
    *,
    steps: int,
    batch_size: int,
    kind: type[BackdoorTrainer] = BackdoorTrainer,
    arguments: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Iterator[BackdoorTrainer]:
    """A trainer, by default at a constant learning rate, whose batches depend on the seed of the report alone.

    The global random generators are after it as they were.

    Args:
        model: is trained.
        evidence: of the report.
        steps: optimizer steps.
        batch_size: of a step; less where the data set is smaller.
        kind: of trainer.
        arguments: further `TrainingArguments`.
        kwargs: for the trainer, such as `train_dataset`.
    """
    settings = {
        "max_steps": steps,
        "per_device_train_batch_size": min(batch_size, len(kwargs["train_dataset"])),
        "per_device_eval_batch_size": evidence.batch_size,
        "lr_scheduler_type": "constant",
        "seed": evidence.seed,
        "use_cpu": model.device.type == "cpu",
        "disable_tqdm": True,
        "report_to": [],
        **dict.fromkeys(("save_strategy", "eval_strategy", "logging_strategy"), "no"),
    }
    with tempfile.TemporaryDirectory() as scratch, seeded(evidence.seed):
        trainer = kind(
            model,
            TrainingArguments(scratch, **settings | (arguments or {})),
            processing_class=evidence.processor,
            task=type(evidence.task)(),
            input_column=evidence.columns.input,
            label_column=evidence.columns.label,
            **kwargs,
        )
        trainer.remove_callback(PrinterCallback)
        yield trainer
