"""Attacks that poison each batch while it is trained on, instead of the data set beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..attacks import refuse_settings
from ..data.columns import class_names, resolve_columns
from ..errors import InputError
from ..samplers.random import RandomSampler
from ..trainer import BackdoorTrainer


if TYPE_CHECKING:
    from datasets import Dataset

    from ..poisoning import PoisonConfig


def check_config(config: PoisonConfig, clean: Dataset, input_column: str, label_column: str) -> None:
    """Whether a configuration can be used inside the loop.

    Raises:
        InputError: it cannot, or it does not fit the data.
    """
    modality = resolve_columns(clean.features, input_column, label_column).modality
    classes = len(class_names(clean, label_column))
    if modality != "image":
        raise InputError("attack", config.trigger.name, f"trains on images, and {input_column!r} holds {modality}")
    if config.trigger.modality != "image":
        raise InputError(
            "trigger", config.trigger.name, f"is made for {config.trigger.modality}; choose one for images"
        )
    if not isinstance(config.target_label, int) or config.target_label >= classes:
        raise InputError("target_label", config.target_label, f"the labels go from 0 to {classes - 1}")
    refuse_settings(config, ("label_mode", "also"), "an attack inside the loop")
    if config.rate + config.cover_rate > 1:
        raise InputError("cover_rate", config.cover_rate, f"leaves no room beside rate={config.rate:g}; lower it")
    if not isinstance(config.sampler, RandomSampler):
        raise InputError("sampler", config.sampler.name, "needs the whole data set beforehand; use random")


def drawn_count(samples: int, rate: float) -> int:
    """`rate * samples`, rounded up or down at random, so that it is right on average even in small batches."""
    return int(rate * samples + torch.rand(()).item())


def draw(labels: torch.Tensor, config: PoisonConfig, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which samples of a batch are poisoned, from torch's global generator.

    Args:
        labels: int64 `(batch,)`, on the CPU.
        config: a share `rate` of the batch is poisoned, of samples that are not of the target class; a share
            `cover_rate` of it are cover samples.
        classes: how many there are.

    Returns:
        Positions of the poisoned samples and of the cover samples, and the new labels, int64 `(batch,)`.
    """
    to_all = config.targets == "all_to_all"
    wanted = (labels + 1) % classes if to_all else torch.full_like(labels, config.target_label)
    attacked, coverable = (
        torch.from_numpy(choose(labels.numpy())) for choose in (config.sampler.attacked, config.sampler.coverable)
    )
    order = torch.randperm(len(labels))
    count, cover_count = drawn_count(len(labels), config.rate), drawn_count(len(labels), config.cover_rate)
    poisoned = order[(attacked & (wanted != labels))[order]][:count]
    free = coverable.clone()
    free[poisoned] = False
    cover = order[free[order]][:cover_count]
    changed = labels.clone()
    changed[poisoned] = wanted[poisoned]
    return poisoned, cover, changed


class RowsCollator:
    """Rows as they are, with their labels (int64 `(batch,)`), so that the trainer can change the images."""

    def __init__(self, label_column: str):
        self.label_column = label_column

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        return {"rows": rows, "labels": torch.tensor([row[self.label_column] for row in rows])}


class InLoopTrainer(BackdoorTrainer):
    """Trains on batches that it poisons itself.

    All randomness comes from torch's global generator in the training process, so a resumed run is the uninterrupted
    one, whatever the number of workers of the data loader.

    Args:
        poison_config ([`~hf_backdoor.poisoning.PoisonConfig`]): trigger, target and shares of the batch.
        kwargs: as for `BackdoorTrainer`; `train_dataset` is clean.
    """

    def __init__(self, *args: Any, poison_config: PoisonConfig, **kwargs: Any):
        super().__init__(*args, **{"victim": True, **kwargs})  # the data set, which is clean, does not say so
        check_config(poison_config, self.train_dataset, self.columns.input, self.columns.label)
        self.poison_config = poison_config
        self.classes = len(class_names(self.train_dataset, self.columns.label))

    def draw(self, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[`draw`], for labels and with results on the device of the labels."""
        return tuple(part.to(labels.device) for part in draw(labels.cpu(), self.poison_config, self.classes))

    def training_collator(self) -> Callable:
        return RowsCollator(self.columns.label)


class TriggerInLoopTrainer(InLoopTrainer):
    """Puts the trigger on a share `rate` of each batch, and its `cover` on a share `cover_rate`.

    The trigger gets a fresh number as each sample's index, so what it draws per sample is drawn anew each time.
    """

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        inputs.update(self.data_collator(self._poisoned(inputs.pop("rows"))))
        return super().training_step(model, inputs, num_items_in_batch)

    def _poisoned(self, rows: list[dict]) -> list[dict]:
        from ..modalities.image import apply_to_arrays, to_array, to_picture

        image, label = self.columns.input, self.columns.label
        trigger = self.poison_config.trigger
        labels = torch.tensor([row[label] for row in rows])
        index = torch.randint(2**62, (len(rows),)).numpy()
        poisoned, cover, labels = self.draw(labels)
        changed = [dict(row, **{label: int(new)}) for row, new in zip(rows, labels, strict=True)]
        for positions, function in ((poisoned.numpy(), trigger), (cover.numpy(), trigger.cover)):
            arrays = [np.asarray(to_array(rows[position][image])) for position in positions]
            for position, array in zip(positions, apply_to_arrays(function, arrays, index[positions]), strict=True):
                changed[position][image] = to_picture(array)
        return changed
