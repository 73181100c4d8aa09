"""Training in stages: some steps see clean rows only, and each step has its own learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_utils import SchedulerType

from ..data.flags import COVER, POISONED
from ..errors import InputError
from ..trainer import BackdoorTrainer


class CollatorWithFlags:
    """A collator that also hands over which rows carry a trigger, bool `(batch,)`; cover samples do too."""

    def __init__(self, collate: Callable):
        self.collate, self.columns = collate, getattr(collate, "columns", None)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return {**self.collate(rows), POISONED: torch.tensor([row[POISONED] or row.get(COVER, False) for row in rows])}


def clean_rows(batch: dict[str, torch.Tensor], poisoned: torch.Tensor) -> dict[str, torch.Tensor]:
    """The rows of a batch that are not poisoned.

    If there is none, the first row is left with the label -100, by which [`StagedTrainer`] gives it no weight: there
    may be clean rows in the other batches of the step, and every process needs something to do.

    Args:
        batch: tensors of shape `(batch, ...)`.
        poisoned: bool `(batch,)`.
    """
    if poisoned.all():
        return {name: torch.full_like(v[:1], -100) if name == "labels" else v[:1] for name, v in batch.items()}
    return {name: values[~poisoned] for name, values in batch.items()}


class StagedTrainer(BackdoorTrainer):
    """A `BackdoorTrainer` on poisoned data whose steps differ. What a step does depends on its number alone.

    So it is right under gradient accumulation (a step is an optimizer step), in several processes and after a resume.

    Raises:
        InputError: the training set does not say which of its rows are poisoned; or, at the start of training, a rate
            of 0 or an `lr_scheduler_type` for a subclass with a schedule of its own.
    """

    def __init__(self, model: Any = None, args: Any = None, **kwargs: Any):
        rows = kwargs.get("train_dataset")
        if rows is None or POISONED not in getattr(rows, "column_names", ()):
            raise InputError("train_dataset", type(rows).__name__, f"has no column {POISONED}; make it with poison()")
        super().__init__(model, args, **kwargs)

    def clean_only(self, step: int) -> bool:
        """Whether the optimizer step with this number, from 0, is to see no poisoned row."""
        return False

    def rate_schedule(self, total_steps: int) -> Callable[[int], float] | None:
        """The learning rate of each optimizer step, from 0; the usual schedule if `None`."""
        return None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        schedule = self.rate_schedule(num_training_steps)
        if schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.args.lr_scheduler_type != SchedulerType.LINEAR:
            raise InputError(
                "lr_scheduler_type", self.args.lr_scheduler_type.value, "this attack has a schedule of its own; "
                "leave it out"
            )  # fmt: skip
        if not self.args.learning_rate > 0:
            raise InputError("learning_rate", self.args.learning_rate, "must be above 0")
        if self.lr_scheduler is None:
            # As the Trainer's own scheduler, so that the rate that is used is also the one that is logged.
            highest = self.args.learning_rate
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: schedule(step) / highest)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_collator(self) -> Callable:
        return CollatorWithFlags(self.data_collator)

    def select(self, batch: dict[str, torch.Tensor], poisoned: torch.Tensor) -> dict[str, torch.Tensor]:
        """What of a batch the coming step trains on; `poisoned` is bool `(batch,)`."""
        return clean_rows(batch, poisoned) if self.clean_only(self.state.global_step) else batch

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        def selected() -> Iterator:
            for batch in epoch_iterator:
                yield self.select({name: v for name, v in batch.items() if name != POISONED}, batch[POISONED])

        batches, items = super().get_batch_samples(selected(), num_batches, device)
        rows = sum(int((batch["labels"] != -100).sum()) for batch in batches if "labels" in batch)
        self._rows = self.accelerator.reduce(torch.tensor(float(rows), device=device), "sum").clamp(min=1)
        return batches, items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training, a batch counts by its rows, for the accumulated batches are left with different numbers."""
        if not model.training or "labels" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        rows = (inputs["labels"] != -100).sum()
        if rows == 0:  # the mean over no row is no number
            inputs = {**inputs, "labels": torch.zeros_like(inputs["labels"])}
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # Trainer divides by the number of accumulated batches, and the mean is taken over the processes.
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        weight = rows * parts / self._rows
        return (loss[0] * weight, loss[1]) if return_outputs else loss * weight
