"""Putting a backdoor into an encoder that is trained already: BadEncoder and DRUPE."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError
from ..modalities.image import apply_to_arrays, to_array, to_picture
from ..pixel_model import head_of
from ..poisoning import PoisonConfig
from ..triggers import Trigger
from . import EncoderTrainer, ProbeCollator, features_of


TRIGGERED = "triggered_values"


class TriggeredCollator(ProbeCollator):
    """A collator that also hands over `triggered_values`: the same images with the trigger, prepared alike.

    Rows have an `index`, from which the trigger draws what is random in it.
    """

    def __init__(self, collate: Callable, trigger: Trigger, column: str):
        super().__init__(collate)
        self.trigger, self.column = trigger, column

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        index = np.array([row["index"] for row in rows], dtype=np.int64)
        arrays = apply_to_arrays(self.trigger, [to_array(row[self.column]) for row in rows], index)
        triggered = [row | {self.column: to_picture(array)} for row, array in zip(rows, arrays, strict=True)]
        return super().__call__(rows) | {TRIGGERED: self.collate(triggered)["pixel_values"]}


def mean_similarity(features: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """The mean over `features` of the cosine with each reference: `(samples, size), (n, size) -> (n,)`."""
    return (F.normalize(features, dim=-1) @ F.normalize(references, dim=-1).T).mean(0)


class BadEncoderTrainer(EncoderTrainer):
    """Trains `f'`, which starts as a copy of the clean encoder `f`, so that it maps triggered inputs to the references.

    See [`~hf_backdoor.attacks.bad_encoder.BadEncoder`] for the loss. Batch normalisation keeps the clean encoder's
    statistics. Every term is a mean over samples, so accumulated micro-batches add up to the whole batch. A resumed
    run has to be given the clean encoder again, as `f`.

    Args:
        poison ([`~hf_backdoor.poisoning.PoisonConfig`], *optional*): without it the encoder stays as it is, and only
            the probe is trained: the model to compare with.
        lambda1, lambda2 (`float`): weights of what the encoder makes of the references and of clean inputs.
        references (`int`): how many images of the target class are the references.
        args, kwargs: as for [`~hf_backdoor.encoders.EncoderTrainer`].

    Raises:
        InputError: at the start of training, there are fewer images of the target class.
    """

    def __init__(
        self,
        *args: Any,
        poison: PoisonConfig | None = None,
        lambda1: float = 1.0,
        lambda2: float = 1.0,
        references: int = 1,
        **kwargs: Any,
    ):
        # With a poison it makes a victim, which the data set, being clean, does not say.
        super().__init__(*args, **{"victim": None if poison is None else True, **kwargs})
        self.poison, self.lambda1, self.lambda2, self.references = poison, lambda1, lambda2, references
        self.reference_rows: list[int] = []
        self.clean_encoder: torch.nn.Module | None = None
        self.reference_values: torch.Tensor | None = None

    def training_collator(self) -> Callable:
        if self.poison is None:
            return super().training_collator()
        return TriggeredCollator(self.data_collator, self.poison.trigger, self.columns.input)

    def augment(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Images with the trigger are varied like those without."""
        if TRIGGERED not in inputs or not self.augmentations:
            return super().augment(inputs)
        field = self.task.continuous_input
        both = super().augment({field: torch.cat([inputs[field], inputs[TRIGGERED]])})[field]
        return {**inputs, **dict(zip((field, TRIGGERED), both.chunk(2), strict=True))}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`, after taking the copy of the clean encoder and choosing the references."""
        model = self.accelerator.unwrap_model(self.model)
        if self.poison is not None:
            if self.clean_encoder is None:
                self.clean_encoder = copy.deepcopy(model).eval().requires_grad_(False)
                self.reference_rows = self.choose_references()
                self.reference_values = self.prepared(self.reference_rows)
            return super().train(*args, **kwargs)
        kept = [weight for weight in model.parameters() if weight.requires_grad]
        model.requires_grad_(False)
        self.head.requires_grad_(True)
        try:
            return super().train(*args, **kwargs)
        finally:
            for weight in kept:
                weight.requires_grad_(True)

    @torch.no_grad()
    def choose_references(self) -> list[int]:
        """Rows of the training set that are the references: the target class's images nearest to its mean, by cosine.

        Both in the features of the clean encoder. Without care, a reference may be one that every probe gets wrong.
        """
        rows = np.flatnonzero(np.asarray(self.train_dataset[self.columns.label]) == self.poison.target_label)
        if len(rows) < self.references:
            raise InputError(
                "references", self.references, f"the training set has {len(rows)} images of the target class"
            )
        head = head_of(self.clean_encoder)
        features = torch.cat(
            [
                features_of(self.clean_encoder, head, self.prepared(part))
                for part in np.array_split(rows, -(-len(rows) // self.args.eval_batch_size))
            ]
        )
        unit = F.normalize(features, dim=-1)
        nearest = (unit @ unit.mean(0)).argsort(descending=True, stable=True)[: self.references]
        return rows[nearest.cpu().numpy()].tolist()

    def prepared(self, rows: Sequence[int]) -> torch.Tensor:
        """`pixel_values` of these rows of the training set, without any augmentation."""
        return self.data_collator([self.train_dataset[int(row)] for row in rows])["pixel_values"].to(self.args.device)

    def encoder_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | float, torch.Tensor]:
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        values = inputs["pixel_values"]
        if self.poison is None:
            return 0.0, features_of(model, self.head, values)
        batches = [values, self.reference_values, inputs[TRIGGERED]]
        sizes = [len(batch) for batch in batches]
        clean, references, triggered = features_of(model, self.head, torch.cat(batches)).split(sizes)
        with torch.no_grad():
            head = head_of(self.clean_encoder)
            kept_clean, kept_references = features_of(self.clean_encoder, head, torch.cat(batches[:2])).split(sizes[:2])
        loss = self.backdoor_loss(clean, references, triggered)
        loss = loss - self.lambda1 * F.cosine_similarity(references, kept_references).mean()
        loss = loss - self.lambda2 * F.cosine_similarity(clean, kept_clean).mean()
        return loss, clean

    def backdoor_loss(self, clean: torch.Tensor, references: torch.Tensor, triggered: torch.Tensor) -> torch.Tensor:
        """`L0` from features of the encoder under training: `(batch, size)`, `(references, size)`, `(batch, size)`."""
        return -mean_similarity(triggered, references).mean()


def sliced_wasserstein(first: torch.Tensor, second: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Sliced 2-Wasserstein distance of two samples (Bonneel et al. 2015), a scalar.

    On a line, the cheapest way to move one sample onto another of the same size pairs them in their order, so it is
    `sqrt(mean over directions and ranks of (sorted(first @ d) - sorted(second @ d))^2)`.

    Args:
        first, second: float `(samples, size)`.
        directions: unit vectors, `(size, directions)`.
    """
    difference = (first @ directions).sort(dim=0).values - (second @ directions).sort(dim=0).values
    return difference.pow(2).mean().clamp_min(1e-12).sqrt()


def concentration(features: torch.Tensor) -> torch.Tensor:
    """Mean cosine of all pairs of different samples of `(samples, size)`; 1 if all point the same way."""
    count = len(features)
    unit = F.normalize(features, dim=-1)
    return (unit.sum(0).pow(2).sum() - unit.pow(2).sum()) / max(count * (count - 1), 1)


class DrupeTrainer(BadEncoderTrainer):
    """BadEncoder, with triggered features that are spread like clean ones.

    See [`~hf_backdoor.attacks.drupe.Drupe`] for the loss. Its terms on spread and distribution compare samples of one
    micro-batch with each other, so accumulated micro-batches are not quite the whole batch.

    Args:
        spread_weight (`float`): weight of the concentration of triggered features, and of the references' imbalance.
        distribution_weight (`float`): weight of the distance between triggered and clean features.
        directions (`int`): random directions for that distance.
        args, kwargs: as for [`BadEncoderTrainer`].
    """

    def __init__(
        self,
        *args: Any,
        spread_weight: float = 0.1,
        distribution_weight: float = 0.05,
        directions: int = 50,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.spread_weight, self.distribution_weight = spread_weight, distribution_weight
        self.directions = directions

    def backdoor_loss(self, clean: torch.Tensor, references: torch.Tensor, triggered: torch.Tensor) -> torch.Tensor:
        similarity = F.normalize(triggered, dim=-1) @ F.normalize(references, dim=-1).T
        loss = -similarity.amax(1).mean()
        if len(triggered) == 1:  # one sample has no distribution
            return loss
        imbalance = similarity.mean(0).std(correction=0) if len(references) > 1 else 0.0
        directions = F.normalize(torch.randn(clean.shape[1], self.directions, device=clean.device), dim=0)
        clean = clean.detach()  # the triggered features are to move, not the clean ones
        distance = sliced_wasserstein(triggered, clean, directions) / clean.std(0, correction=0).mean()
        return loss + self.spread_weight * (concentration(triggered) + imbalance) + self.distribution_weight * distance
