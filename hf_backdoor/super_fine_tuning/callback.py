"""Super-fine-tuning for any `transformers.Trainer`, by one argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from ..errors import InputError
from .schedule import PRESETS, RATES, ScheduleConfig, TriangularSchedule
from .search import PeakSearch, SearchResult, largest_rate


if TYPE_CHECKING:
    from ..tasks import Task

logger = logging.get_logger(__name__)


class SuperFineTuningCallback(TrainerCallback, ExportableState):
    """Makes a Trainer train under the oscillating learning rate of super-fine-tuning.

    It needs clean data, the whole model and a Trainer; nothing about the backdoor. The rate is a function of the
    optimizer step alone, so it is right (and logged right) under gradient accumulation, several processes and resume.
    Of several parameter groups the one with the largest rate follows it, and the others keep their share of that.

    Args:
        config ([`ScheduleConfig`], `str` or `dict`, *optional*): the schedule, or the name of a published one,
            `"paper"` or `"backdoor-toolbox"`. Rates that it leaves open are found on a part of the Trainer's own
            training data before the first step; the weights are then put back.
        search ([`PeakSearch`] or `dict`, *optional*): how they are found. Settings as a `dict` are what a checkpoint
            keeps.

    Raises:
        InputError: unknown name; at the start of training, weights in half precision, a run too short for the ramps,
            or a learning-rate scheduler that is not a `LambdaLR` (use `lr_scheduler_type="constant"` or leave it at
            its default).

    Example:

    ```python
    trainer = Trainer(model, args, train_dataset=clean, callbacks=[SuperFineTuningCallback()])
    trainer.train()
    ```
    """

    def __init__(
        self,
        config: ScheduleConfig | str | dict[str, Any] | None = None,
        search: PeakSearch | dict[str, Any] | None = None,
    ):
        if isinstance(config, str):
            if config not in PRESETS:
                raise InputError("config", config, f"unknown schedule; choose one of {', '.join(PRESETS)}")
            config = PRESETS[config]
        self.config = ScheduleConfig(**config) if isinstance(config, dict) else config or ScheduleConfig()
        self.search = PeakSearch(**search) if isinstance(search, dict) else search or PeakSearch()
        self.task: Task | None = None  # told by BackdoorTrainer, for models whose loss is not their own
        self.still: Sequence[torch.nn.Module] = ()  # told likewise: what it keeps in evaluation mode
        self.schedule: TriangularSchedule | None = None
        self.rates: dict[str, float] | None = None
        self.searched: dict[str, Any] | None = None

    @property
    def search_result(self) -> SearchResult | None:
        """How the rates were found; none before training, or if all were given."""
        return SearchResult(**self.searched) if self.searched else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the settings, and the rates in use, so that a resumed run does not search again."""
        return {
            "args": {"config": asdict(self.config), "search": asdict(self.search)},
            "attributes": {"rates": self.rates, "searched": self.searched},
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scheduler = kwargs["lr_scheduler"]
        if not isinstance(scheduler, LambdaLR):
            raise InputError(
                "lr_scheduler_type", args.lr_scheduler_type, "super-fine-tuning sets the learning rate itself and "
                "needs a scheduler made of lambdas; leave lr_scheduler_type at its default"
            )  # fmt: skip
        # DeepSpeed has them in float32 elsewhere.
        halved = (weight.requires_grad and weight.dtype == torch.float16 for weight in kwargs["model"].parameters())
        if not args.deepspeed and any(halved):
            raise InputError("dtype", "float16", "such weights do not survive high peaks; load with dtype='float32'")
        largest = largest_rate(scheduler.optimizer.param_groups)
        if largest <= 0:
            raise InputError("learning_rate", largest, "must be above 0")
        config = self.config
        if not config.complete:
            # A run too short for its ramps should fail before the search, not after it.
            replace(config, peak_lr_1=1.0, peak_lr_2=1.0, base_lr=1.0).schedule(state.max_steps)
            config = config.with_rates(**self._find_rates(args, state, kwargs))
        self.schedule = config.schedule(state.max_steps)
        self.rates = {name: getattr(self.schedule, name) for name in RATES}
        self._install(scheduler, state.global_step, largest)
        logger.info(f"Super-fine-tuning with {self.schedule}")

    def _find_rates(self, args: TrainingArguments, state: TrainerState, kwargs: dict[str, Any]) -> dict[str, float]:
        if state.global_step > 0:
            stored = state.stateful_callbacks.get(type(self).__name__, {})
            stored = stored[-1] if isinstance(stored, list) else stored
            kept = stored.get("attributes", {})
            if kept.get("rates") is None:
                raise InputError(
                    "resume_from_checkpoint", state.global_step, "the checkpoint was not made under "
                    "SuperFineTuningCallback, so its peaks are unknown; start again, or give the peaks"
                )  # fmt: skip
            self.searched = kept.get("searched")
            return kept["rates"]
        if args.deepspeed or args.fsdp:
            raise InputError(
                "peak_lr_1", None, "peaks cannot be searched for on a model sharded by DeepSpeed or FSDP; find them in "
                "a run on one device, or give peak_lr_1, peak_lr_2 and base_lr"
            )  # fmt: skip
        result = self.search.run(
            model=kwargs["model"],
            optimizer=kwargs["optimizer"],
            dataloader=kwargs["train_dataloader"],
            args=args,
            budget_steps=state.max_steps,
            task=self.task,
            still=self.still,
        )
        # All processes computed the same; rounding must not let them drift apart.
        (result,) = broadcast_object_list([result])
        self.searched = result.to_dict()
        if state.is_world_process_zero:
            logger.warning(f"Super-fine-tuning found {result.summary()}")
        state.log_history.append({"step": state.global_step, **result.logged()})
        return result.rates()

    def _install(self, scheduler: LambdaLR, step: int, largest: float) -> None:
        """Replaces the scheduler's lambdas, so that the rate that is used is also the one that is logged."""
        schedule = self.schedule
        scheduler.lr_lambdas = [lambda step: schedule(step) / largest] * len(scheduler.base_lrs)
        rates = [base * schedule(step) / largest for base in scheduler.base_lrs]
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates

    def report(self) -> dict[str, Any]:
        """The schedule and how it was found, for a results file; empty before training."""
        if self.schedule is None:
            return {}
        return {"schedule": asdict(self.schedule), "search": self.searched}
