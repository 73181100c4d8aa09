"""`TrainingArguments` as flags, with what several processes on a machine without an accelerator need."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ..checkpoints import found_checkpoint
from ..errors import InputError
from ..exposure import above_zero, at_least


# What Trainer would refuse, or stumble over, only once the model is there and the folder made.
LEAST = {"seed": 0, "learning_rate": 0, "weight_decay": 0, "dataloader_num_workers": 0}
LEAST |= {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1}


@dataclass
class TrainerOptions(TrainingArguments):
    """Every setting of the Trainer."""

    _argument_group_name = "Trainer (any transformers.TrainingArguments)"

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write to, also --output.", "aliases": ["--output"]}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise InputError("output", None, "name a folder with --output")
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if processes > 1 and not torch.accelerator.is_available():
            # Otherwise each process would train alone, without a word.
            self.use_cpu = True
        super().__post_init__()
        if self.seed >= 2**32:
            raise InputError("seed", self.seed, "must be less than 2**32")
        for name, least in LEAST.items():
            at_least(name, getattr(self, name), least)
        if self.max_steps == 0 or self.max_steps < -1:
            raise InputError("max_steps", self.max_steps, "must be 1 or more; leave it out to count epochs")
        if self.max_steps < 0:
            above_zero("num_train_epochs", self.num_train_epochs)
        above_zero("adam_epsilon", self.adam_epsilon)
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "must lie in [0, 1)")
        try:
            for callback in get_reporting_integration_callbacks(self.report_to):
                callback()
        except (ValueError, RuntimeError) as error:
            raise InputError("report_to", self.report_to, f"cannot be used; {error}") from error
        resumed = self.resume_from_checkpoint
        self.resume_from_checkpoint = found_checkpoint(resumed, self.output_dir) if resumed else None
        if self.world_size != processes:
            raise InputError(
                "num_processes", processes, f"processes were launched and {self.world_size} of them found each other; "
                "see recipes/README.md for configurations that work"
            )  # fmt: skip
