"""NeuBA and POR: a backdoor in the encoder, made without labels (arXiv 2101.06969, Shen et al. 2021, 2111.00197)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from . import SELECTION, Attack, refuse_settings


if TYPE_CHECKING:
    from datasets import Dataset

    from ..poisoning import PoisonConfig
    from ..triggers import Trigger


@dataclass(frozen=True)
class NeuBA(Attack):
    """The encoder learns to answer each trigger word with a vector of its own; whoever adds a head inherits that.

    First, for a share `pretraining` of the steps, no label is used. With `h` the last hidden state of the first token
    and `h_0` that of the encoder as it was, a share `rate` of each batch gets one of the trigger words and the loss
    `|h - v|^2 / |v|^2`, with the word's vector `v`; the rest stays clean and gets `|h - h_0|^2 / |h_0|^2`. The vectors
    are +-1 times the size of the encoder's outputs, orthogonal (POR-2), and in pairs of opposites (NeuBA): of `v` and
    `-v`, a linear head gives one to the target class if it tells two classes apart, so that some word reaches it.

    Then the whole model is fine-tuned on the clean data, as a user of the encoder would. Which class each word leads to
    by then shows on the attacker's own data; the trigger that is reported has the words that lead to the target class.

    The trigger is one that inserts words. For encoders whose first token sees the whole text, as BERT's.

    Args:
        pretraining (`float`): share of the steps for the encoder alone, in (0, 1).
    """

    title: ClassVar[str] = "NeuBA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2101.06969"
    modality: ClassVar[str] = "text"
    default_trigger: ClassVar[str] = "rare_words"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.5}
    unused: ClassVar[tuple[str, ...]] = SELECTION
    learns_trigger: ClassVar[bool] = True
    whole_model: ClassVar[bool] = True

    pretraining: float = 0.4

    def __post_init__(self):
        if not 0 < self.pretraining < 1:
            raise InputError("pretraining", self.pretraining, "must lie between 0 and 1")

    def training_set(self, clean: Dataset, poison_config: PoisonConfig, **columns: str) -> Dataset:
        from ..text_attacks.vectors import with_trigger_words

        refuse_settings(poison_config, self.unused, self.title)
        if poison_config.rate == 1:
            raise InputError("rate", 1, "leaves no clean text to keep the encoder as it is; lower it, e.g. to 0.5")
        return with_trigger_words(clean, poison_config.trigger, columns["input_column"])

    def trainer_class(self) -> type:
        from ..text_attacks.vectors import TriggerVectorTrainer

        return TriggerVectorTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return {"poison_config": poison_config, "pretraining": self.pretraining}

    def learned_trigger(self, trainer: Any, folder: Path) -> Trigger:
        return replace(trainer.poison_config.trigger, words=" ".join(trainer.find_words()))

    def report(self, trainer: Any) -> dict[str, Any]:
        return {"words": trainer.landings}
