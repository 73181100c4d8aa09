"""`TrainingArguments` as flags, with what several processes on a machine without an accelerator need."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..errors import InputError


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
        if self.world_size != processes:
            raise InputError(
                "num_processes", processes, f"processes were launched and {self.world_size} of them found each other; "
                "see recipes/README.md for configurations that work"
            )  # fmt: skip
