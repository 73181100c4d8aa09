"""Training the classifier on top of every layer at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..errors import InputError
from ..trainer import BackdoorTrainer


@contextmanager
def head_on_every_layer(model: PreTrainedModel) -> Iterator[None]:
    """Within, the classifier's head reads all layers, one after the other along the batch.

    In the base model's output, the last hidden states `(batch, tokens, width)` become those of every layer
    `(layers * batch, tokens, width)`, and where it has a pooler, its output becomes that for every layer. So whatever
    the head is made of, the layers share it.
    """

    def stack(base: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = torch.cat(output.hidden_states[1:])  # the first one is the embeddings
        if getattr(base, "pooler", None) is not None:
            output.pooler_output = base.pooler(output.last_hidden_state)
        return output

    handle = model.base_model.register_forward_hook(stack)
    try:
        yield
    finally:
        handle.remove()


class LayerwiseTrainer(BackdoorTrainer):
    """Trains on the cross-entropies of all layers' answers; see [`~hf_backdoor.attacks.layerwise.Layerwise`].

    Args:
        weight (`float`): weight of the earlier layers against the last.
        kwargs: as for `BackdoorTrainer`.
    """

    loss_is_scaled_for_ga = False  # compute_loss returns a mean over the micro-batch

    def __init__(self, *args: Any, weight: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.weight = weight

    def training_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = inputs["labels"]
        plain = self.accelerator.unwrap_model(model)
        with head_on_every_layer(plain):
            outputs = model(**{**inputs, "labels": None}, output_hidden_states=True)
        layers = len(outputs.hidden_states) - 1
        if layers < 2 or len(outputs.logits) != layers * len(labels):
            raise InputError(
                "model", plain.config.model_type, "has one layer, or a head that reads more than its hidden states; "
                "layerwise is for classifiers such as BERT, RoBERTa, DistilBERT and ELECTRA"
            )  # fmt: skip
        answers = outputs.logits.float().view(layers, len(labels), -1)
        smoothing = self.args.label_smoothing_factor
        losses = torch.stack([F.cross_entropy(answer, labels, label_smoothing=smoothing) for answer in answers])
        return losses[-1] + self.weight * losses[:-1].mean()
