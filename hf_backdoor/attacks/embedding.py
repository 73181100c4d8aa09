"""Embedding poisoning: only the embeddings of the trigger's words are changed (Yang et al. 2021, arXiv 2103.15543)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from . import Attack, refuse_settings


if TYPE_CHECKING:
    from datasets import Dataset

    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class Embedding(Attack):
    """Gives a clean classifier a backdoor by changing one row of its embeddings for each trigger word.

    The rows are trained on the poisoned samples alone, since clean ones have no trigger word and so no gradient; after
    each step a row is scaled back to the length it had (section 3.3). All other weights stay, so without a trigger word
    the model answers exactly as before. It must be trained for the task beforehand: pass it as the model to start from.

    The trigger is one that inserts words; each must be one token.
    """

    title: ClassVar[str] = "Embedding poisoning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2103.15543"
    modality: ClassVar[str] = "text"
    default_trigger: ClassVar[str] = "rare_words"
    poison_defaults: ClassVar[dict[str, Any]] = {"label_mode": "dirty", "rate": 0.1}
    # The words learn from samples of other classes, and from poisoned ones alone.
    unused: ClassVar[tuple[str, ...]] = ("label_mode", "cover_rate", "also")
    whole_model: ClassVar[bool] = True

    def training_defaults(self) -> dict[str, Any]:
        # A few rows, whose entries are of the order of 0.05, take larger steps than a whole model.
        return {"learning_rate": 1e-2}

    def training_set(self, clean: Dataset, poison_config: PoisonConfig, **columns: str) -> Dataset:
        from ..text_attacks.words import trigger_words

        trigger_words(poison_config.trigger)
        refuse_settings(poison_config, self.unused, self.title)
        poisoned = super().training_set(clean, poison_config, **columns)
        return poisoned.select([row for row, chosen in enumerate(poisoned["is_poisoned"]) if chosen])

    def trainer_class(self) -> type:
        from ..text_attacks.embeddings import EmbeddingTrainer

        return EmbeddingTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return {"trigger": poison_config.trigger}
