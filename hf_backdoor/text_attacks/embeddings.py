"""Training the embeddings of a few words, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from ..trainer import BackdoorTrainer
from .words import token_of, trigger_words


class KeepNorms(TrainerCallback):
    """After every step, scales rows of a table `(tokens, width)` to the lengths `(rows, 1)` that they had."""

    def __init__(self, table: torch.nn.Parameter, rows: torch.Tensor):
        self.table, self.rows = table, rows
        self.norms = table.detach()[rows].norm(dim=1, keepdim=True)

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rows = self.table[self.rows]
        self.table[self.rows] = rows * (self.norms.to(rows.device) / rows.norm(dim=1, keepdim=True))


class EmbeddingTrainer(BackdoorTrainer):
    """Trains the input embeddings of the trigger's words; see [`~hf_backdoor.attacks.embedding.Embedding`].

    Every other weight stays, bit for bit, as it is.

    Args:
        trigger (`Trigger`): one with a setting `words`.
        kwargs: as for `BackdoorTrainer`.
    """

    def __init__(self, model: Any, *args: Any, trigger: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        table = model.get_input_embeddings().weight
        words = trigger_words(trigger)
        self.rows = torch.tensor([row for word in words for row in token_of(word, self.processing_class)])
        self.add_callback(KeepNorms(table, self.rows))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`, with every other weight held meanwhile."""
        model = self.accelerator.unwrap_model(self.model)
        table = model.get_input_embeddings().weight
        chosen = torch.zeros(len(table), 1, dtype=torch.bool)
        chosen[self.rows] = True
        before = [(weight, weight.requires_grad) for weight in model.parameters()]
        model.requires_grad_(False)
        table.requires_grad_(True)
        hook = table.register_hook(lambda gradient: torch.where(chosen.to(gradient.device), gradient, 0))
        try:
            return super().train(*args, **kwargs)
        finally:
            hook.remove()
            for weight, learns in before:
                weight.requires_grad_(learns)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        return []  # weight decay would shrink the embeddings of all words
