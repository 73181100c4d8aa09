"""Texts to tokens, no more of them than a model can take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FIXED_LENGTH = 64  # of SigLIP's texts


def longest_text(tokenizer: Any, model: PreTrainedModel | None) -> int | None:
    """How many tokens a model has positions for, where its tokenizer lets more through; else `None`.

    Of a pair of encoders it is the text encoder that counts. A learned prompt takes positions, too.
    """
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", config)
    positions = getattr(config, "max_position_embeddings", None) or 0  # -1: without an end
    if positions <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1  # RoBERTa and its like count from there
    positions -= getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    return positions if positions < getattr(tokenizer, "model_max_length", 0) else None


def tokenize(tokenizer: Any, texts: list[str], longest: int | None = None) -> Any:
    """Padded, truncated tokens (int64, `(texts, tokens)`), with the mask of the padding if the model takes one.

    A tokenizer that makes no mask is that of a model which reads the padding too, and was trained with as many tokens
    for every text, as SigLIP's; its texts are padded to the tokenizer's greatest length, or 64 tokens if that is less.

    Args:
        tokenizer: of the model.
        texts: captions.
        longest (*optional*): tokens that the model takes, see [`longest_text`].
    """
    if "attention_mask" in tokenizer.model_input_names:
        return tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    length = min(longest or tokenizer.model_max_length, FIXED_LENGTH)
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def real_tokens(inputs: dict[str, torch.Tensor], tokenizer: Any) -> torch.Tensor:
    """What is no padding in a batch, int64 `(batch, tokens)` of 0 and 1; some models take no mask, such as FNet."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"]
    return (inputs["input_ids"] != tokenizer.pad_token_id).long()
