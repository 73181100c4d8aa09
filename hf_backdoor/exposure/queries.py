"""Asking a model about the data of a report, with gradients where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..sequela import Evidence
    from ..tasks import Task


def made_of_samples(task: Task, evidence: Evidence, dataset: Dataset) -> Iterator[bytes]:
    """What a prepared task and the processor make of the first two samples, which tells settings of them apart."""
    rows = [dataset[row] for row in range(min(2, len(dataset)))]
    for name, value in sorted(task.collator(evidence.processor, evidence.columns)(rows).items()):
        yield name.encode() + value.numpy().tobytes()


class Queries:
    """One model, ready for batches of some data sets.

    Args:
        model: in evaluation mode; not changed.
        evidence: with the processor and the columns.
        dataset: clean; names the classes, or has all captions that can be an answer.
        attacked (*optional*): triggered; its captions are answers too.
    """

    def __init__(self, model: PreTrainedModel, evidence: Evidence, dataset: Dataset, attacked: Dataset | None = None):
        self.model, self.evidence = model, evidence
        self.task = type(evidence.task)()  # it will remember this model's texts
        self.task.prepare(evidence.processor, evidence.columns, dataset)
        self.task.prepare_evaluation(model, dataset, attacked)
        self.collate = self.task.collator(evidence.processor, evidence.columns, model)

    def batches(self, dataset: Dataset, batch_size: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
        """All samples in their order, on the model's device."""
        size = batch_size or self.evidence.batch_size
        for start in range(0, len(dataset), size):
            rows = [dataset[row] for row in range(start, min(start + size, len(dataset)))]
            yield {name: value.to(self.model.device) for name, value in self.collate(rows).items()}

    def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Scores of the classes, float32 `(batch, classes)`."""
        return self.task.logits(self.model, inputs).float()

    @torch.no_grad()
    def classes(self, dataset: Dataset) -> torch.Tensor:
        """The most likely class of each sample, int64 `(samples,)`."""
        return torch.cat([self.logits(inputs).argmax(-1).cpu() for inputs in self.batches(dataset)])
