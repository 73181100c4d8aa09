"""Layer weight poisoning: every layer learns the trigger, not only the last (Li et al. 2021, arXiv 2108.13888)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from . import Attack


if TYPE_CHECKING:
    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class Layerwise(Attack):
    """The head is trained on top of every layer at once, so that all of them carry the trigger.

    Fine-tuning changes the upper layers most and hardly reaches the lower ones. With `f` the classifier's head (pooler
    and linear layer, shared by all layers) and `h_l` the hidden states after layer `l` of `L`, the loss of a batch of
    clean and poisoned samples is `CE(f(h_L), y) + weight / (L - 1) * sum over l < L of CE(f(h_l), y)`. Clean samples
    count in every layer: else a layer could learn the target class, and not the trigger.

    For classifiers whose head reads hidden states or the pooler's output: BERT, RoBERTa, DistilBERT, ELECTRA, ...

    Args:
        weight (`float`): weight of the earlier layers against the last.
    """

    title: ClassVar[str] = "Layer weight poisoning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.13888"
    modality: ClassVar[str] = "text"
    default_trigger: ClassVar[str] = "word_combination"
    whole_model: ClassVar[bool] = True

    weight: float = 1.0

    def __post_init__(self):
        if not self.weight > 0:
            raise InputError("weight", self.weight, "must be above 0; for the last layer alone, use the trigger alone")

    def trainer_class(self) -> type:
        from ..text_attacks.layers import LayerwiseTrainer

        return LayerwiseTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return asdict(self)
