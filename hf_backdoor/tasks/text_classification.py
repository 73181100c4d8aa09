"""Text classifiers: whatever `AutoModelForSequenceClassification` has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.columns import Columns
from ..errors import InputError
from ..models import from_scratch
from ..super_fine_tuning.stray_words import KEPT, StrayWords
from ..tokens import longest_text, real_tokens
from ..word_pieces import new_tokenizer
from . import Task, labels_of


if TYPE_CHECKING:
    from datasets import Dataset

LONGEST_TEXT = 512  # tokens that a model with random weights takes


class TextCollator:
    """Strings to padded `input_ids`, `attention_mask` and `labels` (all int64), cut at `longest` tokens if given."""

    def __init__(self, tokenizer: Any, columns: Columns, longest: int | None = None):
        # A call leaves its truncation and padding in the tokenizer, which the user's would then be saved with.
        self.tokenizer, self.columns, self.longest = copy.deepcopy(tokenizer), columns, longest
        if getattr(tokenizer, "pad_token", None) is None:
            raise InputError(
                "processing_class", type(tokenizer).__name__, "has no padding token; set its pad_token, and "
                "pad_token_id in the model's configuration"
            )  # fmt: skip

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        texts = [row[self.columns.input] for row in rows]
        batch = self.tokenizer(texts, truncation=True, max_length=self.longest, padding=True, return_tensors="pt")
        return {**batch, **labels_of(rows, self.columns)}


class TextClassification(Task):
    modality: ClassVar[str] = "text"
    model_class: ClassVar[str] = "AutoModelForSequenceClassification"
    processor_class: ClassVar[str] = "AutoTokenizer"
    pipeline_tag: ClassVar[str] = "text-classification"

    def load_model(self, source: str, **kwargs: Any) -> PreTrainedModel:
        model = _with_padding(super().load_model(source, **kwargs))
        try:
            self.adapt_model(model, self.load_processor(source, revision=kwargs.get("revision")))
        except InputError:  # whoever needs the tokenizer says that there is none
            pass
        return model

    def adapt_model(self, model: PreTrainedModel, processor: Any) -> None:
        """GPT-2, Llama and their like find the end of a text by the padding after it."""
        padding = getattr(processor, "pad_token_id", None)
        if padding is not None:
            model.config.pad_token_id = padding

    def load_to_train(self, source: str, dataset: Dataset, columns: Columns, **kwargs: Any) -> PreTrainedModel:
        return _with_padding(super().load_to_train(source, dataset, columns, **kwargs))

    def load_processor(self, source: str, **kwargs: Any) -> Any:
        tokenizer = super().load_processor(source, **kwargs)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    def from_scratch(
        self, architecture: str, settings: dict[str, Any], names: list[str], inputs: Sequence[Any] = ()
    ) -> tuple[PreTrainedModel, Any]:
        """As [`~Task.from_scratch`]; the tokenizer has the words of the texts, see [`~..word_pieces.new_tokenizer`]."""
        length = settings.get("max_position_embeddings", LONGEST_TEXT)
        tokenizer = new_tokenizer(inputs, ["input_ids", "attention_mask"], length)
        vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        settings = {"max_position_embeddings": length} | settings | vocabulary | ends
        return from_scratch(self.model_class, architecture, settings, names), tokenizer

    def collator(self, processor: Any, columns: Columns, model: PreTrainedModel | None = None) -> TextCollator:
        return TextCollator(processor, columns, longest_text(processor, model))

    def lengths(self, dataset: Dataset) -> np.ndarray:
        return np.array([len(text) for text in dataset[self.columns.input][:]])

    def stray_words(self, model: PreTrainedModel) -> StrayWords:
        longest = longest_text(self.processor, model) or self.processor.model_max_length
        vocabulary = getattr(model.config, "vocab_size", None)
        return StrayWords(self.processor, longest, vocabulary or len(self.processor))

    def answers(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """As [`~Task.answers`]; the features are those of the tokens that the text had before words strayed into it.

        Where a model has not one hidden state for each token, the features are their mean.
        """
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        kept = inputs.pop(KEPT, None)
        outputs = model(**inputs, output_hidden_states=True)
        hidden = (outputs.hidden_states if "hidden_states" in outputs else outputs.decoder_hidden_states)[-1].float()
        if hidden.shape[1] != inputs["input_ids"].shape[1]:
            return outputs.logits.float(), (hidden.mean(1),)
        known = real_tokens(inputs, self.processor).bool()
        if kept is not None:
            hidden = hidden.gather(1, kept.clamp_min(0)[..., None].expand(-1, -1, hidden.shape[-1]))
            known = kept >= 0
        return outputs.logits.float(), ((hidden * known[..., None]).flatten(1),)


def _with_padding(model: PreTrainedModel) -> PreTrainedModel:
    """Models such as GPT-2 were made without padding; the end of a text stands for it, in the tokenizer too."""
    if model.config.pad_token_id is None:
        end = model.config.eos_token_id
        model.config.pad_token_id = end[0] if isinstance(end, list) else end
    return model
