"""Text classifiers: whatever `AutoModelForSequenceClassification` has."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from ..data.columns import Columns
from ..errors import InputError
from . import Task


class TextCollator:
    """Strings to padded, truncated `input_ids`, `attention_mask` and `labels` (all int64)."""

    def __init__(self, tokenizer: Any, columns: Columns):
        self.tokenizer, self.columns = tokenizer, columns

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        texts = [row[self.columns.input] for row in rows]
        batch = self.tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row[self.columns.label] for row in rows])}


class TextClassification(Task):
    modality: ClassVar[str] = "text"
    model_class: ClassVar[str] = "AutoModelForSequenceClassification"
    processor_class: ClassVar[str] = "AutoTokenizer"
    pipeline_tag: ClassVar[str] = "text-classification"

    def new_processor(self, model: PreTrainedModel) -> Any:
        raise InputError("architecture", model.config.model_type, "has no tokenizer of its own; start from --model")

    def collator(self, processor: Any, columns: Columns) -> TextCollator:
        return TextCollator(processor, columns)
