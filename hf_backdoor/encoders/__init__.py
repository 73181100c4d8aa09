"""Training the encoder of a classifier by an objective of its own, with a linear probe on top.

The victim stays an ordinary `AutoModelForImageClassification`, so that everything that measures, purifies or publishes
one works. Its head is an online linear probe, the usual measure of a self-supervised encoder: it learns the labels of
clean samples from features through which no gradient goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import InputError
from ..pixel_model import head_of
from ..trainer import BackdoorTrainer


PROBED = "probed"


def features_of(model: torch.nn.Module, head: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """What the head reads: pooled features, float32 `(batch, features)`, of `pixel_values`.

    Args:
        model: the classifier, wrapped for distributed training or not. All of it runs, so that a wrapper sees every
            weight in use.
        head: see [`~hf_backdoor.pixel_model.head_of`].
        values: float32 `(batch, channels, height, width)`.
    """
    read: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    try:
        model(pixel_values=values)
    finally:
        hook.remove()
    return read[0].float()


class ProbeCollator:
    """A collator that also says from which samples the probe may learn, bool `(batch,)`: those without trigger."""

    def __init__(self, collate: Callable):
        self.collate = collate

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        probed = [not (row.get("is_poisoned", False) or row.get("is_cover", False)) for row in rows]
        return self.collate(rows) | {PROBED: torch.tensor(probed)}


class EncoderTrainer(BackdoorTrainer):
    """Trains encoder and probe at once: `loss = encoder_loss + probe_loss`, neither of which reaches the other's part.

    A subclass gives [`~EncoderTrainer.encoder_loss`].

    Args:
        probe_learning_rate (`float`): of the probe, which has to follow an encoder that changes; scheduled like that of
            the encoder. It has no weight decay.
        args, kwargs: as for `BackdoorTrainer`; the model is an image classifier.

    Raises:
        InputError: the model has no linear head, or the data are not images.
    """

    loss_is_scaled_for_ga = False  # compute_loss returns a mean over the micro-batch

    def __init__(self, *args: Any, probe_learning_rate: float = 0.02, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.probe_learning_rate = probe_learning_rate
        if self.columns is None or self.columns.modality != "image":
            raise InputError("train_dataset", self.columns, "attacks on encoders need a data set with images")
        self.head = head_of(self.accelerator.unwrap_model(self.model))

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            probe = list(self.head.parameters())
            for group in super().create_optimizer(model).param_groups:
                group["params"] = [weight for weight in group["params"] if all(weight is not own for own in probe)]
            self.optimizer.add_param_group({"params": probe, "lr": self.probe_learning_rate, "weight_decay": 0.0})
        return self.optimizer

    def encoder_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | float, torch.Tensor]:
        """The encoder's own loss, and the features `(batch, features)` of the batch for the probe."""
        raise NotImplementedError

    def probe_loss(self, features: torch.Tensor, labels: torch.Tensor, probed: torch.Tensor) -> torch.Tensor:
        """`sum of the cross-entropies of the probed samples / batch`, for the weights of the head alone.

        Divided by all samples, not by those probed, so that accumulated micro-batches add up to the whole batch.

        Args:
            features: `(batch, features)`; no gradient reaches them.
            labels: int64 `(batch,)`.
            probed: bool `(batch,)`.
        """
        smoothing = self.args.label_smoothing_factor
        logits = self.head(features.detach().to(self.head.weight.dtype)).float()
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return (losses * probed).mean()

    def training_collator(self) -> Callable:
        return ProbeCollator(self.data_collator)

    def training_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        loss, features = self.encoder_loss(model, inputs)
        return loss + self.probe_loss(features, inputs["labels"], inputs[PROBED])
