"""All weights; an adapter is merged into them first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from . import Tuning, merged, trainable


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Full(Tuning):
    """Trains the whole model, as super-fine-tuning was published (Sha et al. 2022, arXiv 2212.09067).

    What is frozen in a model that is passed in as an object is trained, too.
    """

    title: ClassVar[str] = "All weights"

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        return trainable(merged(model))
