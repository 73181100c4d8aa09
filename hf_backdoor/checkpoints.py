"""Checkpoints that restore the model they were made from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from .errors import InputError


def checkpoint_name(step: int | str) -> str:
    """The folder in which `Trainer` keeps the checkpoint of this optimizer step, inside that of the run."""
    return f"{PREFIX_CHECKPOINT_DIR}-{step}"


def found_checkpoint(given: str | bool, output_dir: str) -> str:
    """The checkpoint to resume from: the folder that is named, or for `last` and `true` the last whole one of the run.

    Raises:
        InputError: there is none.
    """
    whole = [path for path in Path(output_dir).glob(checkpoint_name("*")) if (path / TRAINER_STATE_NAME).is_file()]
    whole.sort(key=lambda path: int(path.name.rpartition("-")[2]) if path.name.rpartition("-")[2].isdigit() else -1)
    if str(given).lower() in ("last", "true") and whole:
        return str(whole[-1])
    if not os.path.isfile(os.path.join(str(given), TRAINER_STATE_NAME)):
        choice = f"name one of {', '.join(map(str, whole))}, or last" if whole else f"{output_dir} has none: start anew"
        raise InputError("resume_from_checkpoint", given, f"is no checkpoint, or was not written whole; {choice}")
    return str(given)


def goes_on(resume: str | bool | None, folder: str | Path) -> bool:
    """Whether a run is resumed in the folder where it began.

    Raises:
        InputError: there is no such checkpoint.
    """
    return bool(resume) and Path(found_checkpoint(resume, str(folder))).resolve().parent == Path(folder).resolve()


def remove_checkpoints(folder: str | Path) -> None:
    """Takes away what an overwritten run has left, for its successor would be resumed from that."""
    for path in Path(folder).glob(checkpoint_name("*")):
        if (path / TRAINER_STATE_NAME).is_file():
            shutil.rmtree(path)


def state_file(checkpoint: str | Path, name: str) -> Path:
    """The file in which an attack or a defence keeps, in each checkpoint, what is not in the model.

    Raises:
        InputError: the checkpoint has none.
    """
    stored = Path(checkpoint) / name
    if not stored.is_file():
        raise InputError("resume_from_checkpoint", str(checkpoint), f"has no {name}; it is of another kind of run")
    return stored


class ReliableCheckpoints(Trainer):
    """A `Trainer` whose `resume_from_checkpoint` and `load_best_model_at_end` restore every weight.

    transformers 5 saves ViT, DeiT, BEiT, DINOv2, Swin and ViT-MAE under the names that their weights had in version 4,
    and `from_pretrained` translates them; `Trainer` loads the file as it is, finds no match for the encoder, and goes
    on with whatever the encoder held (transformers issues 43701 and 48805). So load through `from_pretrained`.
    """

    def checkpoint_folder(self, trial: Any = None) -> Path:
        """Where the checkpoint of the present step is."""
        return Path(self._get_output_dir(trial)) / checkpoint_name(self.state.global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "resumed_from"):
                callback.resumed_from = resume_from_checkpoint
        if model is not None or not self._load_whole_model(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_whole_model(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_whole_model(self, checkpoint: str) -> bool:
        """Loads a plain model; sharded ones and adapters, which have no whole model on disk, are left to `Trainer`."""
        model = self.accelerator.unwrap_model(self.model)
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if sharded or not isinstance(model, PreTrainedModel):
            return False
        if not os.path.isfile(os.path.join(checkpoint, CONFIG_NAME)):
            return False
        with torch.random.fork_rng():
            stored = type(model).from_pretrained(checkpoint, trust_remote_code=False).state_dict()
        model.load_state_dict(stored)
        return True
