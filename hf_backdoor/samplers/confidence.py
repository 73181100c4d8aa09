"""Confidence-driven sampling: samples near the boundary to the target class (CBS, He et al. 2023, arXiv 2310.05263)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import InputError
from . import Sampler


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.columns import Columns


@dataclass(frozen=True)
class Confidence(Sampler):
    """Takes the samples first for which a clean model is least sure that they are not of the target class.

    They are ordered by `|p[label] - p[target]|`, the smallest first, where `p` are the probabilities that the model
    gives. A poisoned sample near the boundary changes the model less, and is harder to tell from a clean one.

    Args:
        model (`str`): folder or Hub id of a clean classifier for the same classes.
        batch_size (`int`): samples a forward pass.
    """

    title: ClassVar[str] = "Confidence-driven (CBS)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.05263"

    model: str = ""
    batch_size: int = 256

    def __post_init__(self):
        if not self.model:
            raise InputError("model", self.model, "is needed: the folder or Hub id of a clean classifier")
        if self.batch_size < 1:
            raise InputError("batch_size", self.batch_size, "must be 1 or more")

    def order(
        self, dataset: Dataset, rows: np.ndarray, index: np.ndarray, targets: np.ndarray, seed: int, columns: Columns
    ) -> np.ndarray:
        probabilities = self._probabilities(dataset, rows, columns)
        labels = np.asarray(dataset[columns.label])[rows]
        each = np.arange(len(rows))
        gap = np.abs(probabilities[each, labels] - probabilities[each, targets])
        return np.lexsort((index, gap))

    def _probabilities(self, dataset: Dataset, rows: np.ndarray, columns: Columns) -> np.ndarray:
        import torch
        from tqdm.auto import tqdm

        from ..data.columns import class_names
        from ..models import check_head
        from ..tasks import task_for

        task = task_for(columns)
        model = task.load_model(self.model).eval()
        check_head(model, class_names(dataset, columns.label))
        collate = task.collator(task.load_processor(self.model), columns, model)
        starts = tqdm(range(0, len(rows), self.batch_size), desc="Confidence of the clean model", leave=False)
        parts = []
        for start in starts:
            batch = collate(list(dataset.select(rows[start : start + self.batch_size])))
            batch.pop("labels")
            with torch.no_grad():
                parts.append(model(**batch).logits.softmax(-1).numpy())
        return np.concatenate(parts)
