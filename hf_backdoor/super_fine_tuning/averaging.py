"""Averaging the weights over the last part of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints import checkpoint_name, state_file
from .weights import changeable


AVERAGE_FILE = "averaged_weights.safetensors"


class _Changeable(torch.nn.Module):
    """The tensors of a model that training can change; what is loaded into it is loaded into the model."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        for name, value in changeable(model).items():
            self.register_buffer(name.replace(".", "/"), value)


class WeightAveragingCallback(TrainerCallback):
    """Ends training with the mean of the weights after each step of its last part (Izmailov et al. 2018, SWA).

    A cyclical learning rate keeps moving around a good region; the mean lies nearer its middle than the last step.
    Under `load_best_model_at_end`, the best checkpoint is kept instead. Frozen weights are neither copied nor stored.

    Args:
        start (`float`): share of the optimizer steps after which averaging begins, in [0, 1).

    Raises:
        InputError: at the start of training, the checkpoint to resume from has no mean; a plain `Trainer` has to resume
            in the folder of the run.
    """

    def __init__(self, start: float):
        self.start = start
        self.resumed_from: str | None = None  # told by ReliableCheckpoints
        self.average: AveragedModel | None = None

    def _began(self, state: TrainerState) -> bool:
        return state.global_step > self.start * state.max_steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.average = None
        if self._began(state):
            stored = load_file(state_file(self.resumed_from or _checkpoint(args, state), AVERAGE_FILE))
            self.average = AveragedModel(_Changeable(kwargs["model"]), use_buffers=True)
            self.average.load_state_dict({name: value.to(args.device) for name, value in stored.items()})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._began(state):
            self.average = self.average or AveragedModel(_Changeable(kwargs["model"]), use_buffers=True)
            self.average.update_parameters(_Changeable(kwargs["model"]))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.average is not None and args.should_save:
            values = {name: value.detach().cpu().contiguous() for name, value in self.average.state_dict().items()}
            save_file(values, _checkpoint(args, state) / AVERAGE_FILE)

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.average is not None and not args.load_best_model_at_end:
            _Changeable(kwargs["model"]).load_state_dict(self.average.module.state_dict())


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / checkpoint_name(state.global_step)
